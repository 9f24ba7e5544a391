"""What a metric's sums over groups say: its mean, and how sure it is when rows of a group stand or fall together.

A mean over rows is a ratio of two sums over groups, so its standard error is that of a ratio estimator, clustered by
group (the sandwich of Liang and Zeger 1986; Cochran 1977, chapter 6). With groups of one it is the usual
sd / sqrt(n), with groups of one size that of the groups' means.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

MOST = 40
"""Groups of a set that an evaluation keeps: more are pooled, so that the journal stays small."""


def mean_over(sums: ArrayLike, rows: ArrayLike) -> float:
    """The mean over rows from sums [G] and numbers of rows [G] of each group."""
    return float(np.sum(sums) / np.sum(rows))


def stderr_over(sums: ArrayLike, rows: ArrayLike) -> float:
    """Standard error of `mean_over`, clustered by group: sqrt(G/(G-1) sum_k (S_k - m n_k)^2) / n. NaN for one group."""
    values, counts = np.asarray(sums, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    groups = len(counts)
    if groups < 2:
        return math.nan
    beyond = values - mean_over(values, counts) * counts
    return float(np.sqrt(groups / (groups - 1) * np.square(beyond).sum()) / counts.sum())


def pooled(sums: Floats, most: int = MOST) -> Floats:
    """At most `most` sums (or counts) [G]: group k joins group k modulo `most`. Sums of independent groups are
    independent, so a standard error over them has the same expectation, with fewer degrees of freedom."""
    return np.bincount(np.arange(len(sums)) % most, weights=sums).astype(np.float64)
