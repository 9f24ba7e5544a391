"""How sure a mean over seeds and rows is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul.unlearn.measured import jackknife, t_margin

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

PARTS = 200
"""The jackknife leaves out one group at a time; of more than these, as many equal parts of them."""


class Interval(NamedTuple):
    """value: the mean; sd: standard deviation over seeds, NaN of one; low, high: its bounds, each one-sided at the
    confidence asked for, NaN where there is nothing to estimate an error from."""

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
    def of(cls, values: Floats, groups: Indices) -> Means:
        _, index = np.unique(groups, return_inverse=True)
        sums = np.stack([np.bincount(index, weights=row) for row in np.atleast_2d(values)])
        return cls(sums.astype(np.float64), np.bincount(index).astype(np.float64))

    @property
    def seeds(self) -> int:
        return len(self.sums)

    @property
    def groups(self) -> int:
        return len(self.counts)

    def at(self, seeds: Indices, groups: Indices) -> float:
        """The mean over these seeds and groups."""
        rows = self.counts[groups].sum()
        if self.seeds == 1:  # a model without seeds, such as the baseline, beside others that have them
            return float(self.sums[0, groups].sum() / rows)
        return float(self.sums[np.ix_(seeds, groups)].sum() / (len(seeds) * rows))


def over_seeds_and_groups(
    statistic: Callable[[Indices, Indices], float], seeds: int, groups: int, confidence: float
) -> Interval:
    """A statistic of seeds and groups with its t interval.

    A finalist is one training of many and its groups are some of many, and all rows of a group stand or fall
    together: the variance is the jackknife's over seeds plus the jackknife's over groups. What varies with both at
    once is counted in each, which errs on the side of wide intervals. Degrees of freedom after Satterthwaite (1946). A
    bootstrap would not do here: with three seeds its bounds are hardly more than the smallest and the largest value.
    Where there is one seed (or one group), only the other is varied.
    """
    everyone = np.arange(seeds), np.arange(groups)
    value = statistic(*everyone)
    if not math.isfinite(value):
        return Interval(value, math.nan, math.nan, math.nan)
    sd = float(np.std([statistic(np.array([s]), everyone[1]) for s in everyone[0]], ddof=1)) if seeds > 1 else math.nan
    parts = []
    if seeds > 1:
        parts.append(jackknife([statistic(some, everyone[1]) for some in _without_each_part(seeds)]))
    if groups > 1:
        parts.append(jackknife([statistic(everyone[0], some) for some in _without_each_part(groups)]))
    margin = t_margin(parts, confidence)
    return Interval(value, sd, value - margin, value + margin)


def _without_each_part(count: int) -> Iterator[Indices]:
    """What is left of `count` things without each of them; of many, without each of PARTS equal parts."""
    part = np.arange(count) % PARTS
    return (np.flatnonzero(part != i) for i in range(min(count, PARTS)))


def over_seeds(values: Sequence[float], confidence: float) -> Interval:
    """A number per seed, where there are no rows: Student's t interval of their mean."""
    array = np.asarray(values, dtype=np.float64)
    return over_seeds_and_groups(lambda s, _: float(array[s].mean()), len(array), 1, confidence)
