"""Which evaluations are solutions, and which of those are non-dominated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import moocore
import numpy as np
import numpy.typing as npt

from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.objectives import MIN_FORGOTTEN, Direction, Floats, Objectives, forget_objective, score
from rayul.spec import Limit


def non_dominated(points: npt.ArrayLike, directions: Sequence[Direction]) -> npt.NDArray[np.bool_]:
    """Mask of the Pareto-optimal rows of points [n, m], any m >= 1.

    A row with a NaN is never optimal and dominates nothing. Of rows that are equal in every objective only the first
    is kept: in journal order that is the one found first, and one point of the front is one adapter to export.
    """
    array = np.asarray(points, dtype=np.float64).reshape(-1, len(directions))
    mask = np.logical_not(np.isnan(array).any(axis=1), dtype=np.bool_)
    if mask.any():
        maximise = [direction == "maximize" for direction in directions]
        mask[mask] = moocore.is_nondominated(array[mask], maximise=maximise, keep_weakly=False)
    return mask


def values(evaluations: Sequence[Evaluation], metrics: Iterable[str]) -> Floats:
    """Metric values [n, m] in the order of `metrics`; NaN where an evaluation lacks one."""
    names = list(metrics)
    rows = [[e.metrics.get(name, np.nan) for name in names] for e in evaluations]
    return np.array(rows, dtype=np.float64).reshape(len(evaluations), len(names))


def forgotten(evaluations: Sequence[Evaluation], baseline: Evaluation, objectives: Objectives) -> Floats:
    """Fraction of the forget objective that is gone, per evaluation: 1 - value/baseline, 0 at the baseline.

    NaN throughout when no objective is on the forget set.
    """
    metric = forget_objective(objectives)
    if metric is None:
        return np.full(len(evaluations), np.nan)
    column = values(evaluations, [metric])[:, 0]
    return score(metric, objectives[metric], column, baseline.metrics.get(metric, np.nan))


def solutions(
    evaluations: Iterable[Evaluation], baseline: Evaluation, objectives: Objectives, feasible_only: bool = True
) -> list[Evaluation]:
    """The evaluations that answer the question: after step 0, within every criterion, forgetting at least 5%.

    Order is kept. Without an objective on the forget set the 5% do not apply. `feasible_only=False` drops the
    criteria's say (for asking what could be had without them).
    """
    trained = [e for e in evaluations if e.step > 0 and not e.is_reference and (e.feasible or not feasible_only)]
    if forget_objective(objectives) is None:
        return trained
    enough = forgotten(trained, baseline, objectives) >= MIN_FORGOTTEN  # False for NaN
    return [e for e, keep in zip(trained, enough, strict=True) if keep]


def keeps_all(limits: Iterable[Limit], e: Evaluation, baseline: Evaluation) -> bool:
    """Whether an evaluation keeps every one of these limits on the rows that they are about; False for a metric that it
    lacks. Raises what `Limit.on` raises."""
    return all(limit.keeps(e.metrics.get(limit.metric, np.nan), baseline.metrics) for limit in limits)


def front(evaluations: Iterable[Evaluation], baseline: Evaluation, objectives: Objectives) -> list[Evaluation]:
    """The non-dominated solutions, best in the first objective first. Empty when there is no solution."""
    candidates = solutions(evaluations, baseline, objectives)
    points = values(candidates, objectives)
    mask = non_dominated(points, list(objectives.values()))
    first, direction = next(iter(objectives.items()))
    kept = [e for e, keep in zip(candidates, mask, strict=True) if keep]
    return sorted(kept, key=lambda e: e.metrics[first], reverse=direction == "maximize")


def front_of(results: SweepRecords) -> list[Evaluation]:
    """The front of one sweep."""
    return front(results.evaluations, results.baseline, results.objectives)


def least_violating(evaluations: Iterable[Evaluation], count: int = 10) -> list[Evaluation]:
    """The trained evaluations nearest to feasible, smallest total violation first; the answer when none is.

    One per trial: neighbouring steps of one trial would fill the list. Rows without metrics are left out.
    """
    nearest: dict[str, Evaluation] = {}
    for e in evaluations:
        if e.is_reference or e.step == 0 or not np.isfinite(e.total_violation):
            continue
        if e.trial_id not in nearest or e.total_violation < nearest[e.trial_id].total_violation:
            nearest[e.trial_id] = e
    return sorted(nearest.values(), key=lambda e: e.total_violation)[:count]
