"""How much is gone, in words of one meaning: "forgotten" is 1 - forget.es / baseline, whatever the search went by, or
1 - metric / baseline of the probe that it went by: only a probe shows how the rows to forget are asked for there."""

from __future__ import annotations

import math

from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.objectives import forget_objective

ES = "forget.es"


def most_is_left(share: float) -> bool:
    """Whether less than half is gone, to whole percent as headings show it."""
    return round(share, 2) < 0.5


def forgotten_metric(results: SweepRecords) -> str:
    """The metric that says how much is forgotten."""
    metric = forget_objective(results.objectives)
    of_probe = metric is not None and metric.partition(".")[0].endswith("_forget")
    return metric if metric is not None and of_probe and results.objectives[metric] == "minimize" else ES


def forgotten_share(results: SweepRecords, e: Evaluation) -> float:
    """1 - that metric / baseline; NaN where it was not measured, of the point or of the baseline."""
    metric = forgotten_metric(results)
    value, base = results.with_report(e).metrics.get(metric, math.nan), results.baseline.metrics.get(metric, math.nan)
    return 1 - value / base if base > 0 else math.nan


def gone(results: SweepRecords, e: Evaluation, share: float, decimals: int = 1) -> str:
    """ "48.4% forgotten"; where the search goes by another metric also what it brought about in that: "65.2% forgotten,
    forget.prob down 81.0%". share: of the forget objective that is gone, 1 - value / baseline."""

    def shown(fraction: float) -> str:
        return f"{fraction:.{decimals}%}"

    metric = forget_objective(results.objectives)
    if metric is None or not math.isfinite(share):
        return "–"
    if metric == ES:
        return f"{shown(share)} forgotten"
    es = forgotten_share(results, e)
    first = [f"{shown(es)} forgotten"] if math.isfinite(es) and metric != forgotten_metric(results) else []
    turned = results.objectives[metric] == "maximize"
    own = f"{metric} up (1 − baseline / value {shown(share)})" if turned else f"{metric} down {shown(share)}"
    return ", ".join([*first, own])


def heading_of(metric: str | None) -> str:
    """Over a column of shares of the forget objective that are gone."""
    return "forgotten" if metric in (None, ES) else f"{metric} gone"
