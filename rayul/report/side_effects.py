"""What happened to sets of rows that no limit protects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.report.certified import certified
from rayul.report.check import Check
from rayul.words import percent

LOST = 0.1
"""Share of the baseline beyond which a loss is worth a warning."""


class SideEffect(NamedTuple):
    """kept: share of the baseline, of a metric on rows that no limit is about."""

    metric: str
    kept: float

    @property
    def lost(self) -> bool:
        return self.kept < 1 - LOST


def answer_point(results: SweepRecords, best: Evaluation | None) -> Evaluation | None:
    """The point that the answer is about: the best certified one, else the search's own best."""
    return next((one.e for one in certified(results)), best)


def side_effects(results: SweepRecords, e: Evaluation) -> list[SideEffect]:
    """By extraction strength where that was measured, else by probability. Empty where every set has a limit."""
    limited = {limit.metric.partition(".")[0] for limit in results.limits}
    measured, base = results.with_report(e).metrics, results.baseline.metrics
    found = []
    for name in ("retain", "general"):
        metric = next((m for m in (f"{name}.es", f"{name}.prob") if m in measured and base.get(m, 0) > 0), None)
        if name not in limited and metric is not None:
            found.append(SideEffect(metric, measured[metric] / base[metric]))
    return found


def side_effect_checks(results: SweepRecords, best: Evaluation | None) -> Iterator[Check]:
    e = answer_point(results, best)
    for one in [] if e is None else side_effects(results, e):
        name = one.metric.partition(".")[0]
        told = f"trial {e.trial_id} at step {e.step} keeps {percent(one.kept)} of {one.metric}" if e is not None else ""
        yield Check(
            f"Did {name} rows suffer, which no limit protects?",
            "warning" if one.lost else "good",
            f"Yes: {told}. To protect them, add a criterion: {{metric: {one.metric}, at_least: 90% of baseline}}."
            if one.lost
            else f"No: {told}.",
        )
