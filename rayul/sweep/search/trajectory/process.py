"""The Gaussian process over trajectories: likelihood, length scales, and what is known of trials to come.

Trial i has outputs y_i [p], in the order of time, of which the first ones are known: all of a trial that ended, fewer
of one that was pruned or still runs. The model is cov(y_i, y_i') = k~(x_i, x_i') C, where C [p, p] is the covariance of
the outputs (`outputs.py`; intrinsic coregionalisation, Bonilla et al. 2007; for trajectories arXiv 2405.15303), and

    k~ = (1 - noise) k(x_i, x_i'),  with 1 + shown * e_i on the diagonal:

`noise` is what a second training with another seed would change; e_i is the squared standard error of the trial's
scores over groups, in units of their variance, of which a share `shown` differs from trial to trial (all trials are
evaluated on the same rows, so that some of it is common to them).

With C = R R^T, R lower triangular, y_i = mu + R u_i, and the u_j are independent processes with one kernel k~. Since
what is missing of a trial is its end, its first entries of u are known exactly, and nothing is imputed. With the trials
in falling order of what is known, output j is a regression on the first n_j of them, and the Cholesky factor of a
leading block is the leading block of the factor: one factor serves all outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit, logit

from rayul.sweep.search.trajectory.kernel import Features, Flags, Floats, correlation

MEAN_VARIANCE = 1.0
"""Of the prior of each output's mean, in units of the output's own variance."""
ITERATIONS = 12

NUMBER = (-2 * np.log(1.2), 1.0)
CATEGORY = (np.log(0.7), 0.7)
NOISE = (logit(0.2), 0.7)
SHOWN = (logit(0.3), 1.0)
"""Priors, each normal, by centre and standard deviation: of a number's log weight (a length scale of 1.2 ranges),
of the log weight of a category that differs, and of the log odds of `noise` and `shown`."""


class Hyper(NamedTuple):
    """weights: of the kernel [k]. noise, shown: as above, in (0, 1)."""

    weights: Floats
    noise: float
    shown: float

    @classmethod
    def at(cls, theta: Floats) -> Hyper:
        """Of log weights, and the log odds of noise and shown [k + 2]."""
        return cls(np.exp(theta[:-2]), float(expit(theta[-2])), float(expit(theta[-1])))


class Fit(NamedTuple):
    """factor: lower Cholesky factor of k~ [n, n]. white: u without its mean as the factor leaves it [n, p], 0 where not
    known. mean: of u [p]."""

    factor: Floats
    white: Floats
    mean: Floats


def covariance(hyper: Hyper, found: Floats, errors: Floats) -> Floats:
    """k~ [n, n] of trials with the distances D [k, n, n] and squared relative errors e [n]."""
    matrix = (1.0 - hyper.noise) * correlation(hyper.weights, found)
    matrix[np.diag_indices_from(matrix)] = 1.0 + hyper.shown * errors
    return matrix


def fit(matrix: Floats, u: Floats, mask: Flags) -> Fit:
    """The process with the covariance k~ [n, n] of trials, given outputs u [n, p], of which those in `mask` [n, p] are
    known, first trials first. The means are those of generalised least squares under a N(0, MEAN_VARIANCE) prior."""
    factor = cholesky(matrix, lower=True, check_finite=False)
    both = np.column_stack([np.where(mask, u, 0.0), np.ones(len(u))])
    both = solve_triangular(factor, both, lower=True, check_finite=False)
    white, ones = both[:, :-1], both[:, -1:]
    mean = np.where(mask, white * ones, 0.0).sum(0) / ((mask * ones**2).sum(0) + 1.0 / MEAN_VARIANCE)
    return Fit(factor, np.where(mask, white - mean * ones, 0.0), mean)


def loss(theta: Floats, found: Floats, u: Floats, mask: Flags, errors: Floats, shares: Floats) -> tuple[float, Floats]:
    """Negative log marginal likelihood of `Hyper.at(theta)` given u [n, p], without its constant, and its gradient; the
    likelihood of output j counts shares[j] times."""
    hyper = Hyper.at(theta)
    matrix = covariance(hyper, found, errors)
    factor, white, mean = fit(matrix, u, mask)
    rows = mask @ shares
    value = 0.5 * ((white**2).sum(0) + mean**2 / MEAN_VARIANCE) @ shares + rows @ np.log(np.diag(factor))
    inverse = solve_triangular(factor, np.eye(len(factor)), lower=True, check_finite=False)
    alpha = inverse.T @ white
    slope = 0.5 * ((inverse.T * rows) @ inverse - (alpha * shares) @ alpha.T)  # of the value by k~
    diagonal = np.diag(slope) @ errors
    slope *= matrix
    slope[np.diag_indices_from(slope)] = 0.0
    gradient = -hyper.weights * (found.reshape(len(found), -1) @ slope.ravel())
    odds = [-hyper.noise * slope.sum(), hyper.shown * (1.0 - hyper.shown) * diagonal]
    return float(value), np.concatenate([gradient, odds])


def tune(found: Floats, u: Floats, mask: Flags, errors: Floats, shares: Floats, features: Features) -> Hyper:
    """The hyper-parameters of the largest posterior density, as near as ITERATIONS of L-BFGS come."""
    categories = len(features.categories) + len(features.optional)
    centre, spread = np.array([NUMBER] * len(features.numbers) + [CATEGORY] * categories + [NOISE, SHOWN]).T

    def posterior(theta: Floats) -> tuple[float, Floats]:
        value, gradient = loss(theta, found, u, mask, errors, shares)
        z = (theta - centre) / spread
        return value + 0.5 * float(z @ z), gradient + z / spread

    # Far beyond its prior a weight is infinite for all that the data say, and its exponential overflows.
    low, high = centre - 4 * spread, centre + 4 * spread
    bounds = list(zip(low.tolist(), high.tolist(), strict=True))
    found_at = minimize(posterior, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS})
    return Hyper.at(found_at.x)
