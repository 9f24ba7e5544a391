"""What is known of a sweep's points beyond what its search read: unread rows, certificates and the audit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rayul.audit.verdict import Standing
from rayul.pareto.front import forgotten
from rayul.pareto.held_out import held_out
from rayul.pareto.targets import best_at_targets
from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.report.axes import Axis
from rayul.report.certified import Certified, certified
from rayul.report.verdict_of import verdicts
from rayul.words import percent

Kind = Literal["best", "audited", "certified"]


@dataclass(frozen=True)
class Checked:
    """One point. kind: "best" of the front, "audited" beside these, or "certified". target: of several utility targets
    (control.tau) the one that it stands for.

    forgotten: share of the baseline, NaN without a forget objective. select, report: share of the baseline's utility
    that is kept on the rows that the search read and on retain-report, which nothing was tuned on; NaN where it was not
    measured. breaks: whether its limit is broken there, None where there is none. audit: the verdict on it, "stands",
    "unsure", "reopens" or "breaks"; None where it was not audited.
    """

    kind: Kind
    target: float | None
    e: Evaluation
    forgotten: float
    select: float
    report: float
    breaks: bool | None
    certified: Certified | None
    audit: Standing | None

    @property
    def what(self) -> str:
        """Which point it is, for a table."""
        return self.kind if self.target is None else f"{self.kind} at {percent(self.target)} kept"


def checked(results: SweepRecords, best: Evaluation | None, utility: Axis | None) -> list[Checked]:
    """The best of the front (of several targets at each), what else was audited, and what is certified (of several
    targets for each): there the point that forgot most. best: of a sweep without targets. utility: what is kept."""
    audit = verdicts(results)

    def of(kind: Kind, e: Evaluation, target: float | None, certificate: Certified | None = None) -> Checked:
        found = held_out(results, e, results.limits_at(target))
        there = next((h for h in found if utility is not None and h.metric == utility.metric), None)
        return Checked(
            kind=kind,
            target=target,
            e=e,
            forgotten=float(forgotten([e], results.baseline, results.objectives)[0]),
            select=math.nan if utility is None else float(utility.of([e])[0]),
            report=math.nan if there is None else there.report,
            breaks=None if there is None else there.breaks,
            certified=certificate,
            audit=audit[e.key][0] if e.key in audit else None,
        )

    named: list[tuple[Evaluation, float | None]] = []
    if results.targets:
        named += [(one.best, one.share) for one in best_at_targets(results) if one.best is not None]
    elif best is not None:
        named.append((best, None))
    keys = {e.key for e, _ in named}
    audited = [e for e in results.evaluations if e.key in audit and e.key not in keys]
    proven: dict[float | None, Certified] = {}
    for one in certified(results):
        proven.setdefault(one.dial.target, one)
    return [
        *(of("best", e, target) for e, target in named),
        *(of("audited", e, None) for e in audited),
        *(of("certified", one.e, target, one) for target, one in sorted(proven.items(), key=lambda p: -(p[0] or 0))),
    ]
