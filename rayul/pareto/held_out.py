"""Retain-report beside retain-control: what a chosen point keeps on rows that nothing was tuned on.

The front is the best of many evaluations on the retain-control rows, so what it keeps there looks better than it is
(the winner's curse). The sweep scores every exported point on retain-report, which no criterion and no objective reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.objectives import score

CONTROL, REPORT = "retain.", "retain_report."


@dataclass(frozen=True)
class HeldOut:
    """One metric of one exported point on both sets of rows.

    control, report: fraction of the baseline that is kept, on the scale of `score`; *_error: its standard error (NaN
    where none was recorded). value, stderr: the metric itself on retain-report. breaks: whether a limit of this metric
    would not be kept on retain-report; None where there is no limit.
    """

    metric: str
    value: float
    stderr: float
    control: float
    report: float
    control_error: float
    report_error: float
    breaks: bool | None

    @property
    def twin(self) -> str:
        return REPORT + self.metric.removeprefix(CONTROL)

    @property
    def gap(self) -> float:
        """How much less is kept on retain-report, in standard errors of the difference; NaN without those."""
        error = math.hypot(self.control_error, self.report_error)
        return (self.control - self.report) / error if error > 0 else math.nan


def held_out(results: SweepRecords, e: Evaluation) -> list[HeldOut]:
    """Of an evaluation's objectives and limited metrics those that were measured on retain-report too; empty for a
    point that was not exported."""
    adapter = results.adapters.get(e.key)
    if adapter is None:
        return []
    found = []
    limited = [limit.metric for limit in results.limits]
    for metric in dict.fromkeys([*results.objectives, *limited]):
        twin = REPORT + metric.removeprefix(CONTROL)
        value = adapter.report_metrics.get(twin, math.nan)
        base, base_twin = (results.baseline.metrics.get(name, math.nan) for name in (metric, twin))
        if not (metric.startswith(CONTROL) and math.isfinite(value) and metric in e.metrics):
            continue
        if not math.isfinite(base_twin):
            base_twin = base  # a sweep of before retain-report was measured at the baseline
        direction: Any = results.objectives.get(metric) or next(
            "maximize" if limit.at_least else "minimize" for limit in results.limits if limit.metric == metric
        )

        def on(set_base: float, at: float, stderr: float, direction: Any = direction, metric: str = metric) -> Any:
            kept = float(score(metric, direction, at, set_base))
            slope = 1 / set_base if direction == "maximize" else set_base / at**2 if at else math.nan
            return kept, abs(stderr * slope) if set_base else math.nan

        stderr = adapter.report_stderr.get(twin, math.nan)
        control, control_error = on(base, e.metrics[metric], e.stderr.get(metric, math.nan))
        report, report_error = on(base_twin, value, stderr)
        # A percentage of the baseline is one of the baseline on the same rows: the sets need not be equally hard.
        broken = [
            not limit.keeps(value, limit.value * base_twin / base if limit.relative else limit.value)
            for limit in results.limits
            if limit.metric == metric
        ]
        found.append(
            HeldOut(
                metric,
                value,
                stderr,
                control,
                report,
                control_error,
                report_error,
                any(broken) if broken else None,
            )
        )
    return found


def keeps_there(results: SweepRecords, e: Evaluation) -> bool:
    """Whether every limit that could be judged on retain-report is kept there, at least one having been."""
    judged = [h.breaks for h in held_out(results, e) if h.breaks is not None]
    return bool(judged) and not any(judged)
