"""What a sweep found: front, hypervolume, the best point, health checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from rayul.pareto.best import best_of
from rayul.pareto.front import forgotten, front_of, least_violating
from rayul.pareto.hypervolume import hypervolume_history
from rayul.pareto.targets import BestAtTarget, best_at_targets
from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.objectives import Objectives, forget_objective
from rayul.report.attacked import attacked_lines
from rayul.report.certified import certified_lines
from rayul.report.check import Check
from rayul.report.fell import Fell, fell
from rayul.report.health import health_checks
from rayul.report.recalled import Recalled, recalled, with_samples
from rayul.spec import Limit


@dataclass(frozen=True)
class Summary:
    """What a sweep found.

    states: number of trials by state. front: non-dominated solutions, best in the first objective first.
    least_violating: the trials nearest to feasible, only when the front is empty. best: the point of the front that
    forgot most; where no limit protects utility, the one that spans the largest volume alone. best_forgotten: its
    fraction of the baseline, NaN without a forget objective. certified: what holds a certificate, in sentences, the
    best first; or that nothing does, and why; empty before the certify rows are read. attacked: what attacks on it
    brought back, or that none was tried. hypervolume: in [0, 1]; history:
    its growth, as (evaluations so far, hypervolume). recalled: what the best certified point and `best` still recall,
    by group, as far as they were measured again. targets: the best at each share of control.tau, where it is a
    list. fell: where the trials ended up. checks: the health checks, worst first.
    """

    folder: Path
    name: str
    objectives: Objectives
    limits: tuple[Limit, ...]
    states: dict[str, int]
    baseline: Evaluation
    oracle: Evaluation | None
    front: list[Evaluation]
    least_violating: list[Evaluation]
    best: Evaluation | None
    best_forgotten: float
    certified: list[str]
    attacked: list[str]
    recalled: list[Recalled]
    hypervolume: float
    history: list[tuple[int, float]]
    targets: list[BestAtTarget]
    fell: Fell | None
    checks: list[Check]

    def with_samples(self, most: int | None) -> Summary:
        """For pages and terminals: at most so many recorded rows of each set, None for all; with 0 no names of groups
        either."""
        return replace(self, recalled=[with_samples(one, most) for one in self.recalled])

    @property
    def forget_metric(self) -> str | None:
        return forget_objective(self.objectives)

    @property
    def warnings(self) -> list[str]:
        """The health checks that are not good, as question and answer."""
        return [f"{check.title} {check.sentence}" for check in self.checks if check.verdict != "good"]

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def summary_of(results: SweepRecords) -> Summary:
    """The summary of results already read; writes nothing."""
    points = front_of(results)
    history = hypervolume_history(results.evaluations, results.baseline, results.objectives, results.limit_values)
    best = best_of(points, results)
    return Summary(
        folder=results.folder,
        name=results.name,
        objectives=results.objectives,
        limits=results.fixed_limits,
        states=results.states,
        baseline=results.baseline,
        oracle=results.oracle,
        front=points,
        least_violating=[] if points else least_violating(results.evaluations),
        best=best,
        best_forgotten=float(forgotten([best], results.baseline, results.objectives)[0]) if best else math.nan,
        certified=certified_lines(results),
        attacked=attacked_lines(results),
        recalled=recalled(results, best),
        hypervolume=history[-1][1],
        history=history,
        targets=best_at_targets(results),
        fell=fell(results),
        checks=health_checks(results, points),
    )
