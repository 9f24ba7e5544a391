"""What is told to the sampler about a trial: a decision with consequences, so it is one pure function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rayul.pareto.front import solutions
from rayul.pareto.hypervolume import unit_scores
from rayul.records import Evaluation
from rayul.spec import Spec, limits

HUGE = 1e9
"""Stands for infinity (the perplexity of a ruined model), which no study takes."""


class Outcome(NamedTuple):
    """values: one per objective, in the spec's order. violations: by metric of a criterion, <= 0 is feasible. Both are
    finite, as Optuna wants them. step, mixing: the evaluation that is told."""

    values: tuple[float, ...]
    violations: Mapping[str, float]
    step: int
    mixing: float

    def attributes(self, last: Evaluation) -> dict[str, Any]:
        """What a study keeps beside the values: which evaluation they are of, and how the trial ended."""
        violations = {f"violation.{metric}": violation for metric, violation in self.violations.items()}
        return {"state": last.state, "reason": last.reason, "step": self.step, "mixing": self.mixing} | violations


def outcome(rows: Sequence[Evaluation], spec: Spec, baseline: Evaluation) -> Outcome | None:
    """The evaluation that stands for a trial; None for a trial that has none (it failed before its first) or
    whose objectives were never all numbers.

    A controlled trial is worth what its best solution is worth, not where it was stopped: gradient ascent passes its
    best point and then destroys the model, so its last evaluation says only that it went too far. Told is therefore
    one of its solutions (feasible, after step 0, forgets at least 5%), by search.tell: "best", the one that alone
    dominates the largest volume of the unit box, at a tie the one that forgets most; "most_forgotten"; or
    "last_feasible". Without any solution the last evaluation is told with its violations as constraints, so that the
    sampler learns the direction back to feasibility. Step 0 is never told: as the baseline it would look like a perfect
    keeper of utility.
    """
    measured = [row for row in rows if row.step > 0 and _is_measured(row, spec)]
    candidates = solutions(measured, baseline, spec.objectives)
    if candidates and spec.search.tell == "last_feasible":
        told = candidates[-1]
    elif candidates:
        scores = unit_scores(candidates, baseline, spec.objectives, limits(spec.criteria, baseline.metrics))
        volume, gone = scores.prod(axis=1), scores[:, 0]
        order = np.lexsort((gone, volume) if spec.search.tell == "best" else (volume, gone))
        told = candidates[int(order[-1])]
    elif measured:
        told = measured[-1]
    else:
        return None
    values = tuple(max(-HUGE, min(told.metrics[m], HUGE)) for m in spec.objectives)
    return Outcome(values, {m: min(v, HUGE) for m, v in told.violation.items()}, told.step, told.mixing)


def _is_measured(row: Evaluation, spec: Spec) -> bool:
    return not any(math.isnan(row.metrics.get(metric, math.nan)) for metric in spec.objectives)
