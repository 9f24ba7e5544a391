"""A number over a set of rows, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Measured(NamedTuple):
    """A metric's value over a set, its standard error (NaN where it has none), and the number of rows."""

    value: float
    stderr: float
    rows: int


def mean(values: NDArray[np.float64]) -> Measured:
    """Mean of per-row values [rows], with the standard error of that mean."""
    return Measured(float(values.mean()), stderr(values), len(values))


def stderr(values: NDArray[np.float64]) -> float:
    """Of the mean of values [rows]: sample standard deviation / sqrt(rows); NaN for a single row."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


class Variance(NamedTuple):
    """Of an estimate, with its degrees of freedom."""

    value: float
    df: int


def jackknife(without_each: Sequence[float] | NDArray[np.float64]) -> Variance:
    """Variance of an estimate from its values without each of n >= 2 independent parts of the data, [n] (Tukey 1958).

    Of a mean over n values it is their variance / n.
    """
    n = len(without_each)
    return Variance(float((n - 1) * np.var(without_each)), n - 1)


def t_margin(parts: Sequence[Variance], confidence: float) -> float:
    """Distance of the one-sided t bound from an estimate whose variance is the sum of independent parts.

    Degrees of freedom after Satterthwaite (1946). NaN without parts: nothing is known of the error.
    """
    from scipy import stats  # a second to import

    total = sum(part.value for part in parts)
    if not parts or not total > 0:  # 0, or NaN
        return float(total) if parts else math.nan
    df = total**2 / sum(part.value**2 / part.df for part in parts)
    return float(stats.t.ppf(confidence, df) * math.sqrt(total))
