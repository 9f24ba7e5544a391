"""Fresh seeds of the configurations that lead (`search.replicate`): which to train again, and which is the best by all
of its seeds.

Of many configurations with one seed each, the best is often one that was lucky with its seed. A new seed goes to one of
those that lead by the mean of all their seeds, so one that falls back makes room for the next.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from rayul.pareto.front import forgotten, solutions
from rayul.records import Evaluation
from rayul.records.objectives import Objectives, forget_objective

Key = TypeVar("Key", bound=Hashable)

NEW = 2 / 3
"""Share of the trials that are for new configurations."""

LEADERS = 5
"""Configurations that are trained again at a time."""

CONFIDENCE = 0.9
"""Of a lower bound."""


def most_forgotten(rows: Sequence[Evaluation], baseline: Evaluation, objectives: Objectives) -> float:
    """Of one trial: the largest share that it forgets within all limits, in [0, 1]; 0 without such an evaluation, and
    without an objective on the forget set."""
    if forget_objective(objectives) is None:
        return 0.0
    found = forgotten(solutions(rows, baseline, objectives), baseline, objectives)
    return float(np.clip(found, 0.0, 1.0).max(initial=0.0))


def next_replicate(scores: Mapping[Key, Sequence[float | None]]) -> Key | None:
    """The configuration to train with a fresh seed: of the LEADERS by their means the one with the fewest seeds, and of
    several such the best. scores: of each configuration's seeds, None for one that still runs. None where nothing has
    forgotten anything within the limits."""
    means = {key: _mean(some) for key, some in scores.items() if any(some)}
    leaders = heapq.nlargest(LEADERS, means, key=means.__getitem__)
    return min(leaders, key=lambda key: len(scores[key]), default=None)


def _mean(scores: Sequence[float | None]) -> float:
    first = scores[0]
    if len(scores) == 1 and first is not None:  # as most of thousands are, of which each proposal asks
        return first
    known = [score for score in scores if score is not None]
    return sum(known) / len(known)


def lower_bounds(scores: Mapping[Key, Sequence[float]]) -> dict[Key, float]:
    """mean - t s / sqrt(n) for each configuration of n seeds, by Student's t at CONFIDENCE. s is the standard deviation
    between seeds, pooled over the configurations that have several, and t has their degrees of freedom; minus infinity
    where none has several."""
    from scipy import stats

    several = [np.asarray(some) for some in scores.values() if len(some) > 1]
    freedom = sum(len(some) - 1 for some in several)
    if not freedom:
        return dict.fromkeys(scores, -math.inf)
    deviation = math.sqrt(sum(((some - some.mean()) ** 2).sum() for some in several) / freedom)
    t = float(stats.t.ppf(CONFIDENCE, freedom))
    return {key: float(np.mean(some)) - t * deviation / math.sqrt(len(some)) for key, some in scores.items() if some}
