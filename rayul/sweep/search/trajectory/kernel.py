"""How alike two configurations are: the kernel of the Gaussian process, in every kind of parameter.

A configuration is a row x [d]: of a number its place in the range, in [0, 1]; of a category its index; NaN where the
configuration does not have the parameter. The kernel is

    k(x, x') = exp(-sum_k exp(theta_k) D_k(x, x'))

D_k being half the squared difference of a number, 1 for two categories that differ, and 1 where only one of the two has
a parameter, else 0. So a number has an RBF kernel of length scale exp(-theta_k / 2), and every differing category or
absent parameter is a factor. A number that is absent lies in the middle of its range: were its difference to all others
0, the product would be no kernel (it is one of kernels; Rasmussen and Williams 2006, section 4.2.4).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MIDDLE = 0.5


class Features(NamedTuple):
    """The rows of D by what they are of. numbers, categories: columns of x; optional: the numbers that some
    configurations do not have, which have a row of their own for that."""

    numbers: NDArray[np.int64]
    categories: NDArray[np.int64]
    optional: NDArray[np.int64]

    @classmethod
    def of(cls, categorical: Flags, optional: Flags) -> Features:
        """From what each column is, [d]."""
        return cls(np.flatnonzero(~categorical), np.flatnonzero(categorical), np.flatnonzero(optional & ~categorical))

    @property
    def size(self) -> int:
        return len(self.numbers) + len(self.categories) + len(self.optional)


def distances(a: Floats, b: Floats, features: Features) -> Floats:
    """D [k, n, m] of rows a [n, d] and b [m, d], in the order numbers, categories, optional numbers."""
    found = np.empty((features.size, len(a), len(b)))
    row = 0
    for column in features.numbers:
        left, right = np.nan_to_num(a[:, column], nan=MIDDLE), np.nan_to_num(b[:, column], nan=MIDDLE)
        np.subtract.outer(left, right, out=found[row])
        found[row] *= found[row]
        found[row] *= 0.5
        row += 1
    for column in features.categories:
        left, right = np.nan_to_num(a[:, column], nan=-1.0), np.nan_to_num(b[:, column], nan=-1.0)
        np.not_equal.outer(left, right, out=found[row])
        row += 1
    for column in features.optional:
        np.not_equal.outer(np.isnan(a[:, column]), np.isnan(b[:, column]), out=found[row])
        row += 1
    return found


def correlation(weights: Floats, found: Floats) -> Floats:
    """k [n, m] from exp(theta) [k] and D [k, n, m]."""
    exponent = -weights @ found.reshape(len(found), -1)
    return np.exp(exponent, out=exponent).reshape(found.shape[1:])
