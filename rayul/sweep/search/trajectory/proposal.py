"""Which candidate to try next: the one whose trajectory is expected to add most to the front, over sampled paths."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from rayul.sweep.search.trajectory.gain import gains, nondominated
from rayul.sweep.search.trajectory.kernel import Features, Flags, Floats, correlation, distances
from rayul.sweep.search.trajectory.outputs import Outputs, estimate
from rayul.sweep.search.trajectory.process import Fit, Hyper, covariance, fit, tune

PATHS = 32
"""Sampled futures, the same for every candidate: what differs between two candidates is then not luck."""
SCREENED, SCREEN_PATHS = 200, 8
"""So many candidates are compared on all paths, after all of them were on so many."""
NEARER = 1e-6
"""What a unit of shortfall takes from the gain: where nothing is expected to be a solution, the nearest is tried."""
TUNED = 96
"""Trials that the length scales are chosen on, of more some evenly spaced in the order of what is known of them."""


class Seen(NamedTuple):
    """The trials so far, n of them, and their scores s at t steps of training.

    x [n, d]: configurations. y, errors [n, t, s]: scores and their standard errors; NaN where not known, which of a
    trial are its last steps. pending [n]: whether it still runs. steps [t], rising. front [f, m]: the front so far, in
    the scores of the m objectives.
    """

    x: Floats
    y: Floats
    errors: Floats
    pending: Flags
    steps: Floats
    front: Floats


class Goal(NamedTuple):
    """What the s scores mean: the first `objectives` are to be maximised. A solution has at least `least` of the score
    `forget` (None for none), and at least 0 of every score in `limits`."""

    objectives: int
    forget: int | None
    least: float
    limits: tuple[int, ...]

    def short(self, scores: Floats) -> Floats:
        """[...], by how much in all scores [..., s] miss what makes a solution; 0 of a solution."""
        short = np.zeros(scores.shape[:-1])
        for score, least in [(self.forget, self.least), *((limit, 0.0) for limit in self.limits)]:
            if score is not None:
                short += np.maximum(least - scores[..., score], 0.0)
        return short


class Surrogate(NamedTuple):
    """The process fitted to what was seen. x [n, d], pending [n], mask [n, t s]: of the trials in falling order of what
    is known of them."""

    x: Floats
    pending: Flags
    mask: Flags
    hyper: Hyper
    outputs: Outputs
    fit: Fit


def modelled(seen: Seen, features: Features) -> Surrogate:
    """The process for these trials, its length scales chosen by their likelihood."""
    n, t, s = seen.y.shape
    y, errors = seen.y.reshape(n, t * s), seen.errors.reshape(n, t * s)
    order = np.argsort(-np.isfinite(y).sum(1), kind="stable")
    x, y, errors, mask = seen.x[order], y[order], errors[order], np.isfinite(y[order])
    outputs = estimate(y, mask, np.repeat(seen.steps / seen.steps[-1], s), np.tile(np.arange(s), t))
    u, noise = outputs.factors(y, mask), outputs.relative(errors, mask)
    found = distances(x, x, features)
    some = np.unique(np.linspace(0, n - 1, min(n, TUNED)).astype(int))
    hyper = tune(found[:, some[:, None], some], u[some], mask[some], noise[some], outputs.shares(), features)
    return Surrogate(x, seen.pending[order], mask, hyper, outputs, fit(covariance(hyper, found, noise), u, mask))


def expected_gains(
    model: Surrogate,
    seen: Seen,
    candidates: Floats,
    reach: Flags,
    features: Features,
    goal: Goal,
    rng: np.random.Generator,
) -> Floats:
    """By how much each candidate's best evaluation is expected to enlarge the front; -inf of those screened out.

    candidates [c, d]; reach [c, t]: the steps that each will come to.
    """
    hyper, outputs, (factor, white, mean) = model.hyper, model.outputs, model.fit
    n, t, s = seen.y.shape
    # In the factor's terms what is not known of a trial is standard normal: with a draw in its place, the regression on
    # all trials is the one on a sampled future. From here on all is in scores: u R^T + mu.
    futures = np.where(model.mask, white, rng.standard_normal((PATHS, n, t * s))) @ outputs.root.T
    luck = rng.standard_normal((PATHS, t * s)) @ outputs.root.T
    level = outputs.scores(mean)
    fronts = [seen.front] * PATHS
    if model.pending.any():
        ends = (level + factor[model.pending] @ futures).reshape(PATHS, -1, s)
        ahead = (goal.short(ends) == 0.0) & ~model.mask[model.pending].reshape(-1, s).all(1)
        fronts = [
            nondominated(np.concatenate([seen.front, some[good][:, : goal.objectives]]))
            for some, good in zip(ends, ahead, strict=True)
        ]
    cross = (1.0 - hyper.noise) * correlation(hyper.weights, distances(model.x, candidates, features))
    across = solve_triangular(factor, cross, lower=True, check_finite=False)
    left = np.sqrt(np.maximum(1.0 - (across**2).sum(0), 0.0))

    def over(which: NDArray[np.int64], paths: int) -> Floats:
        total = np.zeros(len(which))
        weights, never = np.column_stack([across.T[which], left[which]]), ~reach[which]
        for path in range(paths):
            scores = (weights @ np.vstack([futures[path], luck[path]]) + level).reshape(-1, t, s)
            short = goal.short(scores)
            short[never] = np.inf
            solved, gain = short == 0.0, np.zeros(short.shape)
            gain[solved] = gains(scores[solved, : goal.objectives], fronts[path])
            total += gain.max(1) - NEARER * np.minimum(short.min(1), 1.0)
        return total / paths

    every = np.arange(len(candidates))
    if len(every) > SCREENED:
        every = np.argsort(-over(every, SCREEN_PATHS), kind="stable")[:SCREENED]
    found = np.full(len(candidates), -np.inf)
    found[every] = over(every, PATHS)
    return found
