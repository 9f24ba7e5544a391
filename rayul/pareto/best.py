"""The evaluation that stands for a front, or for a trial: the one that forgot most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayul.errors import InputError
from rayul.pareto.choose import best_at
from rayul.pareto.front import forgotten, front_of, solutions
from rayul.pareto.hypervolume import unit_scores
from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.spec import Limit


def best_point(results: SweepRecords, at: str | None = None) -> Evaluation:
    """The point of the front that forgot most; `at`, e.g. "retain.es>=0.95*baseline", is a condition that it has to
    keep. Without limits and condition, the point that spans the largest volume alone.

    Raises InputError for a condition that is not understood, or that no point of the front keeps.
    """
    front = front_of(results)
    if at is not None:
        return best_at(Limit.parse(at), front, results)
    found = best_of(front, results)
    if found is None:
        raise InputError(
            f"the front of {results.folder} is empty",
            "loosen the criteria, or continue with --resume and more --trials",
        )
    return found


def best_of(points: Sequence[Evaluation], results: SweepRecords) -> Evaluation | None:
    """The point to name in one sentence: most forgotten; without limits that would be a ruined model, so the point
    with the largest product of scores (the volume it dominates alone)."""
    if not points:
        return None
    gone = forgotten(points, results.baseline, results.objectives)
    if results.limits and not np.isnan(gone).all():
        return points[int(np.nanargmax(gone))]
    scores = unit_scores(points, results.baseline, results.objectives, results.limit_values)
    return points[int(np.nan_to_num(scores).prod(axis=1).argmax())]


def best_of_trials(results: SweepRecords) -> dict[str, tuple[Evaluation, float]]:
    """Per trial its solution that forgot most, and the fraction forgotten; trials without a solution are absent.

    Where no objective is on the forget set, the last solution and NaN.
    """
    candidates = solutions(results.evaluations, results.baseline, results.objectives)
    gone = forgotten(candidates, results.baseline, results.objectives)
    best: dict[str, tuple[Evaluation, float]] = {}
    for e, fraction in zip(candidates, gone.tolist(), strict=True):
        if e.trial_id not in best or not fraction <= best[e.trial_id][1]:
            best[e.trial_id] = (e, fraction)
    return best
