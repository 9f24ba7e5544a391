"""The outputs of a trajectory as the process models them: their mean and their covariance over trials."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from rayul.sweep.search.trajectory.kernel import Flags, Floats

PRIOR_TRIALS = 8.0
"""How many trials the prior covariance of the outputs is worth."""
REACH = 0.35
"""Of the prior's correlation between two steps, as a share of the training."""
FLOOR = 0.1
"""Smallest standard deviation that the prior takes an output to have, in units of the scores."""
JITTER = 0.03
"""Standard deviation of what is of no other output."""


class Outputs(NamedTuple):
    """mean [p] and root [p, p], the lower Cholesky factor of the covariance C: y = mean + root u."""

    mean: Floats
    root: Floats

    def factors(self, y: Floats, mask: Flags) -> Floats:
        """u [n, p] of outputs y [n, p], of which each trial's known ones, `mask`, come first; 0 where unknown."""
        centred = np.where(mask, y - self.mean, 0.0)
        u: Floats = solve_triangular(self.root, centred.T, lower=True, check_finite=False).T
        return np.where(mask, u, 0.0)

    def scores(self, u: Floats) -> Floats:
        """y [..., p] of u [..., p]."""
        y: Floats = self.mean + u @ self.root.T
        return y

    def relative(self, errors: Floats, mask: Flags) -> Floats:
        """[n], the squared standard errors [n, p] of each trial in units of the outputs' variance, on average over what
        is known of it; 0 where nothing is."""
        variance = (self.root**2).sum(1)
        total: Floats = np.where(mask, errors, 0.0) ** 2 @ (1.0 / variance)
        return np.asarray(total / np.maximum(1, mask.sum(1)))

    def shares(self) -> Floats:
        """[p], how much of the variance of all outputs each u explains, together the effective number of outputs."""
        squares = (self.root**2).sum(0)
        spectrum = np.linalg.eigvalsh(self.root @ self.root.T)
        shares: Floats = squares / squares.sum() * spectrum.sum() ** 2 / (spectrum**2).sum()
        return shares


def estimate(y: Floats, mask: Flags, times: Floats, kinds: NDArray[np.int64]) -> Outputs:
    """Mean and covariance of outputs y [n, p], known where `mask` [n, p], at `times` [p] (shares of the training), of
    the scores `kinds` [p]: those of the trials of which all is known, shrunk to steps that are the more alike the
    nearer they are, with each score's own variance."""
    prior = np.zeros((y.shape[1],) * 2)
    mean = np.zeros(y.shape[1])
    for kind in np.unique(kinds):
        mine = kinds == kind
        columns, known = y[:, mine], mask[:, mine]
        counts = known.sum(0)
        overall = columns[known].mean() if known.any() else 0.0
        mean[mine] = (np.where(known, columns, 0.0).sum(0) + overall) / (counts + 1)
        spread = max(FLOOR, float(columns[known].std()) if known.any() else 0.0)
        gaps = np.abs(times[mine, None] - times[None, mine])
        prior[np.ix_(mine, mine)] = spread**2 * np.exp(-gaps / REACH)
    whole = y[mask.all(1)]
    scatter = np.zeros_like(prior)
    if len(whole) > 1:
        mean = (whole.sum(0) + mean) / (len(whole) + 1)
        scatter = (whole - mean).T @ (whole - mean)
    else:
        whole = whole[:0]
    covariance = (scatter + PRIOR_TRIALS * prior) / (len(whole) + PRIOR_TRIALS)
    covariance[np.diag_indices_from(covariance)] += JITTER**2
    return Outputs(mean, cholesky(covariance, lower=True))
