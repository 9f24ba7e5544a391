"""One number for a front: the share of the unit box between "nothing gained" and "everything gained" it dominates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import moocore
import numpy as np

from rayul.pareto.front import solutions, values
from rayul.records import Evaluation
from rayul.records.objectives import Floats, Objectives, score
from rayul.spec import is_forgetting


def unit_scores(
    evaluations: Sequence[Evaluation], baseline: Evaluation, objectives: Objectives, limits: Mapping[str, float]
) -> Floats:
    """`scores_above_limits`, cut off to [0, 1]."""
    return np.clip(scores_above_limits(evaluations, baseline, objectives, limits), 0.0, 1.0)


def scores_above_limits(
    evaluations: Sequence[Evaluation], baseline: Evaluation, objectives: Objectives, limits: Mapping[str, float]
) -> Floats:
    """Scores [n, m], 1 the ideal: forgotten fraction, and utility kept above its limit, below 0 where it is broken.

    `limits` are metric values by metric, e.g. {"retain.es": 0.89}. A limited utility y becomes (y-l)/(1-l), l being
    the limit on the same scale: with y >= 0.9 and the corner (0, 0) the volume would be little more than the best x
    (DESIGN section 5). A limit at or above the baseline leaves no room to measure, so it is not applied.
    """
    columns = []
    for metric, column in zip(objectives, values(evaluations, objectives).T, strict=True):
        direction, base = objectives[metric], baseline.metrics.get(metric, np.nan)
        y = score(metric, direction, column, base)
        if metric in limits and not is_forgetting(metric):
            limit = float(score(metric, direction, limits[metric], base))
            if limit < 1.0:
                y = (y - limit) / (1.0 - limit)
        columns.append(y)
    return np.stack(columns, axis=1) if columns else np.empty((len(evaluations), 0))


def hypervolume(
    evaluations: Sequence[Evaluation],
    baseline: Evaluation,
    objectives: Objectives,
    limits: Mapping[str, float] | None = None,
) -> float:
    """Volume in [0, 1] dominated by the solutions among `evaluations` against the corner (0, ..., 0), 1 the ideal.

    Comparable across sweeps of one baseline with the same objectives and limits. 0 when there is no solution.
    """
    history = hypervolume_history(evaluations, baseline, objectives, limits)
    return history[-1][1]


def hypervolume_history(
    evaluations: Sequence[Evaluation],
    baseline: Evaluation,
    objectives: Objectives,
    limits: Mapping[str, float] | None = None,
) -> list[tuple[int, float]]:
    """(evaluations so far, hypervolume) wherever it grew, from (0, 0.0) to the last count, in the order given.

    Every evaluation of a trial after its first step counts, feasible or not: they are what a sweep pays for. Before
    that a trial has the values of the baseline; reference rows do not count either.
    """
    counted = [e for e in evaluations if not e.is_reference and e.step > 0]
    solution_keys = {e.key for e in solutions(counted, baseline, objectives)}
    scores = unit_scores(counted, baseline, objectives, limits or {})
    history = [(0, 0.0)]
    front = np.empty((0, scores.shape[1]))
    corner = np.zeros(scores.shape[1])
    for count, (e, point) in enumerate(zip(counted, scores, strict=True), 1):
        # `not (>)` also drops NaN; a point on a face of the corner spans no volume.
        if e.key not in solution_keys or not bool((point > 0).all()) or bool((front >= point).all(axis=1).any()):
            continue
        front = np.vstack([front[~(front <= point).all(axis=1)], point])
        history.append((count, float(moocore.hypervolume(front, ref=corner, maximise=True))))
    if history[-1][0] != len(counted):
        history.append((len(counted), history[-1][1]))
    return history
