"""A number over a set of rows, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul.records.groups import stderr_over

Groups = NDArray[np.int64]
"""The group of each row [rows], numbered from 0. In place of it None: every row is a group of its own."""


class Measured(NamedTuple):
    """A metric's value over a set, its standard error clustered by group (NaN where it has none), and the numbers of
    rows and groups."""

    value: float
    stderr: float
    rows: int
    groups: int


class Measurement(NamedTuple):
    """By "<set>.<metric>": the value with its standard error, and the values of the single rows [rows]. By set: the
    group of each row as a number [rows]. notes: what whoever reads the numbers should know."""

    measured: dict[str, Measured]
    per_row: dict[str, NDArray[np.float64]]
    groups: Mapping[str, Groups]
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, float]:
        return {key: m.value for key, m in self.measured.items()}

    def joined(self, other: Measurement) -> Measurement:
        """The metrics of both."""
        groups = {**self.groups, **other.groups}
        return Measurement(
            self.measured | other.measured, self.per_row | other.per_row, groups, self.notes + other.notes
        )


def mean(values: NDArray[np.float64], groups: Groups | None = None) -> Measured:
    """Mean of per-row values [rows], with the standard error of that mean."""
    return Measured(float(values.mean()), stderr(values, groups), len(values), count(values, groups))


def stderr(values: NDArray[np.float64], groups: Groups | None = None) -> float:
    """Of the mean of values [rows], clustered by group (`stderr_over`); NaN for a single group."""
    return stderr_over(*sums(values, groups))


def sums(values: NDArray[np.float64], groups: Groups | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of values [rows], and number of rows, of each group: [groups] each."""
    if groups is None:
        return values, np.ones(len(values))
    _, index, rows = np.unique(groups, return_inverse=True, return_counts=True)
    return np.bincount(index, weights=values).astype(np.float64), rows.astype(np.float64)


def count(values: NDArray[np.float64], groups: Groups | None = None) -> int:
    """Number of groups."""
    return len(values) if groups is None else len(np.unique(groups))


def rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Five digits: more than a mean over rows needs, and a third of a file."""
    return tuple(float(f"{value:.5g}") for value in values)


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
