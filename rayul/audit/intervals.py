"""How sure a mean over seeds and rows is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000


class Interval(NamedTuple):
    """value: the mean; sd: standard deviation over seeds, NaN of one; low, high: bootstrap bounds, each one-sided at
    the confidence asked for, NaN where there is nothing to draw from."""

    value: float
    sd: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2


class Means(NamedTuple):
    """Values [S, N] of S seeds on N rows as sums per group: sums [S, G], counts [G]."""

    sums: Floats
    counts: Floats

    @classmethod
    def of(cls, values: Floats, groups: NDArray[np.int64]) -> Means:
        _, index = np.unique(groups, return_inverse=True)
        sums = np.stack([np.bincount(index, weights=row) for row in np.atleast_2d(values)])
        return cls(sums.astype(np.float64), np.bincount(index).astype(np.float64))

    @property
    def seeds(self) -> int:
        return len(self.sums)

    @property
    def groups(self) -> int:
        return len(self.counts)

    def at(self, seeds: NDArray[np.int64], groups: NDArray[np.int64]) -> Floats:
        """The mean of drawn seeds [..., S] and groups [..., G]: [...]."""
        rows = self.counts[groups].sum(-1)
        if self.seeds == 1:  # a model without seeds, such as the baseline, beside others that have them
            return np.asarray(self.sums[0][groups].sum(-1) / rows)
        summed = self.sums[seeds[..., :, None], groups[..., None, :]].sum((-1, -2))
        return np.asarray(summed / (seeds.shape[-1] * rows))


def over_seeds_and_groups(
    statistic: Callable[[NDArray[np.int64], NDArray[np.int64]], Floats], seeds: int, groups: int, confidence: float
) -> Interval:
    """A statistic of drawn seeds and groups, [..., S] and [..., G] -> [...], with its bounds.

    Both are drawn anew, independently: a finalist is one training of many and its groups are some of many, and all
    rows of a group stand or fall together. That is the pigeonhole bootstrap (Owen 2007), which errs on the side of
    wide intervals. Where there is one seed (or one group), only the other is drawn.
    """
    from scipy import stats

    whole = np.arange(seeds), np.arange(groups)
    value = float(statistic(*whole))
    sd = float(np.std([statistic(np.array([s]), whole[1]) for s in whole[0]], ddof=1)) if seeds > 1 else float("nan")
    drawn = [i for i, pool in enumerate(whole) if len(pool) > 1]
    if not drawn or not math.isfinite(value):
        return Interval(value, sd, float("nan"), float("nan"))

    def of(*samples: NDArray[np.int64], axis: int = -1) -> Floats:
        full = [np.broadcast_to(pool, (*samples[0].shape[:-1], len(pool))) for pool in whole]
        for i, sample in zip(drawn, samples, strict=True):
            full[i] = sample
        return statistic(*full)

    found = stats.bootstrap(
        [whole[i] for i in drawn],
        of,
        n_resamples=RESAMPLES,
        batch=200,
        vectorized=True,
        paired=False,
        confidence_level=2 * confidence - 1,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(value, sd, float(found.low), float(found.high))


def over_seeds(values: Sequence[float], confidence: float) -> Interval:
    """A number per seed, where there are no rows to draw from."""
    array = np.asarray(values, dtype=np.float64)
    return over_seeds_and_groups(lambda s, _: array[s].mean(-1), len(array), 1, confidence)
