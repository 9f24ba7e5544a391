"""A number over a set of rows, with its standard error."""

from __future__ import annotations

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
