"""Retain-report beside retain-select: what a chosen point keeps on rows that nothing was tuned on.

The front is the best of many evaluations on the retain-select rows, so what it keeps there looks better than it is
(the winner's curse). The sweep scores every exported point on retain-report, which no criterion and no objective reads.
A probe that holds rows back has report rows of its own, and what is said of retain holds for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayul.pareto.targets import limits_of
from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.objectives import Direction, score
from rayul.spec import Limit, report_of


def twin_of(metric: str) -> str:
    """A metric on the report rows of its set, if there are any: "retain.es" -> "retain_report.es"."""
    name, dot, of = metric.partition(".")
    return f"{report_of(name)}{dot}{of}"


def on_report(limit: Limit, baseline: Evaluation) -> Limit | None:
    """A limit on retain-select as a number on retain-report. A percentage of the baseline is one of the baseline on
    the same rows: the sets need not be equally hard. None for a limit on other rows, and where the baseline leaves
    nothing on retain-report to take a percentage of."""
    twin = twin_of(limit.metric)
    if limit.set_name != "retain" and twin not in baseline.metrics:
        return None
    base = _base_of_twin(limit.metric, baseline)
    return None if limit.relative and not 0 < base < math.inf else replace(limit, metric=twin).fixed({twin: base})


@dataclass(frozen=True)
class HeldOut:
    """One metric of one exported point on both sets of rows.

    twin: the metric's name on retain-report. select, report: fraction of the baseline that is kept, on the scale of
    `score`; *_error: its standard error (NaN where none was recorded). value, stderr: the metric itself on
    retain-report. breaks: whether a limit of this metric, of several targets
    the point's own, would not be kept on retain-report; None where there is none.
    """

    metric: str
    twin: str
    value: float
    stderr: float
    select: float
    report: float
    select_error: float
    report_error: float
    breaks: bool | None

    @property
    def gap(self) -> float:
        """How much less is kept on retain-report, in standard errors of the difference; NaN without those."""
        error = math.hypot(self.select_error, self.report_error)
        return (self.select - self.report) / error if error > 0 else math.nan


def held_out(results: SweepRecords, e: Evaluation, limits: Sequence[Limit] | None = None) -> list[HeldOut]:
    """Of an evaluation's objectives and limited metrics those that were measured on retain-report too; empty for a
    point that was neither exported nor certified. limits: to judge it by; by default its own."""
    known = results.with_report(e)
    found = []
    judged = limits_of(results, e) if limits is None else limits
    for metric in dict.fromkeys([*results.objectives, *(limit.metric for limit in judged)]):
        twin = twin_of(metric)
        value = known.metrics.get(twin, math.nan)
        if not math.isfinite(value) or metric not in e.metrics:
            continue
        its_own = [limit for limit in judged if limit.metric == metric]
        direction = results.objectives.get(metric) or its_own[0].direction
        base = results.baseline.metrics.get(metric, math.nan)
        select, select_error = _kept(metric, direction, e.metrics[metric], e.stderr.get(metric, math.nan), base)
        stderr = known.stderr.get(twin, math.nan)
        report, report_error = _kept(metric, direction, value, stderr, _base_of_twin(metric, results.baseline))
        there = [limit for limit in (on_report(limit, results.baseline) for limit in its_own) if limit is not None]
        found.append(
            HeldOut(
                metric,
                twin,
                value,
                stderr,
                select,
                report,
                select_error,
                report_error,
                breaks=not all(limit.keeps(value) for limit in there) if there else None,
            )
        )
    return found


def keeps_there(results: SweepRecords, e: Evaluation) -> bool:
    """Whether every limit that could be judged on retain-report is kept there, at least one having been."""
    judged = [h.breaks for h in held_out(results, e) if h.breaks is not None]
    return bool(judged) and not any(judged)


def _base_of_twin(metric: str, baseline: Evaluation) -> float:
    """The baseline on retain-report; on retain-select in a sweep of before it was measured there."""
    base = baseline.metrics.get(twin_of(metric), math.nan)
    return base if math.isfinite(base) else baseline.metrics.get(metric, math.nan)


def _kept(metric: str, direction: Direction, value: float, stderr: float, base: float) -> tuple[float, float]:
    """A value on the scale of `score`, and its standard error by the slope of `score` there."""
    slope = math.nan
    if base and direction == "maximize":
        slope = 1 / base
    elif base and value:
        slope = base / value**2
    return float(score(metric, direction, value, base)), abs(stderr * slope)
