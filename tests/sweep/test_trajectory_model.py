"""The mathematics of the trajectory sampler against direct formulas, each worked out without its shortcuts."""

from __future__ import annotations

from typing import Any

import moocore
import numpy as np
import pytest
from scipy.optimize import check_grad, minimize
from scipy.stats import multivariate_normal

from rayul.pareto.hypervolume import hypervolume
from rayul.records import Evaluation
from rayul.sweep.search.trajectory import process
from rayul.sweep.search.trajectory.gain import boxes, gains, nondominated
from rayul.sweep.search.trajectory.kernel import Features, correlation, distances
from rayul.sweep.search.trajectory.outputs import Outputs, estimate
from rayul.sweep.search.trajectory.process import Hyper, covariance, fit, loss, tune
from rayul.sweep.search.trajectory.proposal import Goal, Seen, expected_gains, modelled

FEATURES = Features.of(np.array([False, False, False, True]), np.array([False, False, True, False]))
KNOWN = [6, 6, 6, 6, 5, 4, 4, 3, 1, 0]
"""Outputs known of each of ten trials, of six."""


def configurations(rng: np.random.Generator, count: int) -> Any:
    """Two numbers, one that every third lacks, and a category."""
    x = rng.random((count, 4))
    x[:, 3] = rng.integers(3, size=count)
    x[::3, 2] = np.nan
    return x


def data(seed: int = 0) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    x = configurations(rng, len(KNOWN))
    mask = np.arange(6) < np.array(KNOWN)[:, None]
    root = np.tril(rng.standard_normal((6, 6))) + 2 * np.eye(6)
    outputs = Outputs(rng.standard_normal(6), root)
    y = np.where(mask, rng.standard_normal((len(x), 6)), np.nan)
    return rng, x, mask, outputs, y, 0.2 * rng.random(len(x))


def direct_kernel(a: Any, b: Any, weights: Any) -> float:
    """By the definition, one pair at a time."""
    place = [np.where(np.isnan(row[:3]), 0.5, row[:3]) for row in (a, b)]
    total = float((weights[:3] * (place[0] - place[1]) ** 2).sum()) / 2
    total += weights[3] * (a[3] != b[3]) + weights[4] * (np.isnan(a[2]) != np.isnan(b[2]))
    return float(np.exp(-total))


def test_the_kernel_is_its_definition_and_an_absent_parameter_is_a_factor() -> None:
    rng = np.random.default_rng(1)
    a, b, weights = configurations(rng, 7), configurations(rng, 5), rng.random(5) * 3
    found = correlation(weights, distances(a, b, FEATURES))
    assert found == pytest.approx(np.array([[direct_kernel(one, other, weights) for other in b] for one in a]))
    with_it, without = np.array([[0.3, 0.6, 0.5, 1.0]]), np.array([[0.3, 0.6, np.nan, 1.0]])
    assert correlation(weights, distances(with_it, without, FEATURES)) == pytest.approx(np.exp(-weights[4]))
    assert correlation(weights, distances(without, without, FEATURES)) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_kernel_is_one_with_parameters_that_are_absent(seed: int) -> None:
    """No negative eigenvalue, whatever the weights are: far-apart numbers next to configurations without them."""
    rng = np.random.default_rng(seed)
    x, weights = configurations(rng, 60), np.exp(rng.normal(0, 3, 5))
    assert np.linalg.eigvalsh(correlation(weights, distances(x, x, FEATURES))).min() > -1e-9


def test_the_posterior_with_missing_outputs_is_that_of_the_dense_formula() -> None:
    """One matrix over all pairs (trial, output) that are known, with the prior of the means in it; the deviations with
    the means held where they are."""
    rng, x, mask, outputs, y, errors = data()
    hyper, candidates = Hyper(rng.random(5) * 2, 0.15, 0.4), configurations(rng, 3)
    own = covariance(hyper, distances(x, x, FEATURES), errors)
    known = fit(own, outputs.factors(y, mask), mask)
    cross = 0.85 * correlation(hyper.weights, distances(x, candidates, FEATURES))
    across = np.linalg.solve(known.factor, cross)
    mean = outputs.scores(across.T @ known.white + known.mean)

    for i in range(len(x)):
        for j in range(len(x)):
            wanted = 0.85 * direct_kernel(x[i], x[j], hyper.weights) if i != j else 1 + 0.4 * errors[i]
            assert own[i, j] == pytest.approx(wanted)
    c = outputs.root @ outputs.root.T
    pairs = mask.ravel()
    residual = (y - outputs.mean).ravel()[pairs]
    dense = np.kron(own + 1.0, c)[np.ix_(pairs, pairs)]
    for k in range(len(candidates)):
        to = np.kron((cross[:, k] + 1.0)[None], c)[:, pairs]
        assert mean[k] == pytest.approx(outputs.mean + to @ np.linalg.solve(dense, residual))
        to = np.kron(cross[:, k][None], c)[:, pairs]
        left = c - to @ np.linalg.solve(np.kron(own, c)[np.ix_(pairs, pairs)], to.T)
        variance = 1.0 - np.where(mask, across[:, [k]] ** 2, 0.0).sum(0)
        assert (outputs.root * variance) @ outputs.root.T == pytest.approx(left)


def direct_loss(theta: Any, x: Any, u: Any, mask: Any, errors: Any, shares: Any) -> float:
    """Each output's own normal density over the trials that have it, the mean where it is likeliest under its prior."""
    hyper, total = Hyper.at(theta), 0.0
    for j in range(u.shape[1]):
        here = mask[:, j]
        matrix = covariance(hyper, distances(x[here], x[here], FEATURES), errors[here])
        ones = np.ones(here.sum())
        precision = ones @ np.linalg.solve(matrix, ones) + 1.0
        mean = ones @ np.linalg.solve(matrix, u[here, j]) / precision
        density = multivariate_normal(mean * ones, matrix).logpdf(u[here, j]) + here.sum() / 2 * np.log(2 * np.pi)
        total += shares[j] * (mean**2 / 2 - density)
    return total


def test_likelihood_and_gradient_are_those_of_the_direct_formula() -> None:
    rng, x, mask, outputs, y, errors = data()
    u, shares, theta = outputs.factors(y, mask), rng.random(6), rng.standard_normal(7)
    args = (distances(x, x, FEATURES), u, mask, errors, shares)
    assert loss(theta, *args)[0] == pytest.approx(direct_loss(theta, x, u, mask, errors, shares))
    assert check_grad(lambda t: loss(t, *args)[0], lambda t: loss(t, *args)[1], theta) < 1e-5


def test_the_length_scales_are_those_of_the_largest_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of SciPy's search without gradients on the direct formula; a parameter that matters is told from one that does
    not."""
    rng = np.random.default_rng(3)
    x = configurations(rng, 40)
    u = np.sin(6 * x[:, [0]]) + 0.1 * rng.standard_normal((40, 2))
    mask, errors, shares = np.ones((40, 2), dtype=bool), np.zeros(40), np.ones(2)
    monkeypatch.setattr(process, "ITERATIONS", 200)
    found = tune(distances(x, x, FEATURES), u, mask, errors, shares, FEATURES)
    priors = [process.NUMBER] * 3 + [process.CATEGORY] * 2 + [process.NOISE, process.SHOWN]
    centre, spread = np.array(priors).T

    def direct(theta: Any) -> float:
        prior = (((theta - centre) / spread) ** 2).sum() / 2
        return float(direct_loss(theta, x, u, mask, errors, shares) + prior)

    bounds = np.column_stack([centre - 4 * spread, centre + 4 * spread])
    best = minimize(direct, centre, method="Powell", bounds=bounds, options={"maxiter": 40, "ftol": 1e-6})
    mine = np.concatenate([np.log(found.weights), [np.log(v / (1 - v)) for v in (found.noise, found.shown)]])
    assert direct(mine) <= best.fun + 1e-3
    assert found.weights[0] > 4 * found.weights[1]


def test_covariance_of_outputs_is_shrunk_and_positive_without_a_whole_trial() -> None:
    rng = np.random.default_rng(0)
    times, kinds = np.repeat([0.25, 0.5, 1.0], 2), np.tile([0, 1], 3)
    truth = np.tril(rng.standard_normal((6, 6)))
    y = rng.standard_normal((4000, 6)) @ truth.T + np.arange(6)
    mask = np.ones((4000, 6), dtype=bool)
    many = estimate(y, mask, times, kinds)
    assert many.mean == pytest.approx(y.mean(0), abs=0.05)
    assert many.root @ many.root.T == pytest.approx(np.cov(y.T), rel=0.1, abs=0.1)
    few = estimate(y[:5], mask[:5], times, kinds)
    off = ~np.eye(6, dtype=bool)
    apart = np.not_equal.outer(kinds, kinds) & off
    assert np.abs((few.root @ few.root.T)[apart]).sum() < np.abs(np.cov(y[:5].T)[apart]).sum()
    mask[:, 3:] = False
    none = estimate(np.where(mask, y, np.nan), mask, times, kinds)
    assert np.isfinite(none.root).all()
    u = none.factors(y, mask)
    assert (u[:, 3:] == 0).all()
    assert none.scores(u)[:, :3] == pytest.approx(y[:, :3])
    assert none.shares().sum() == pytest.approx(
        np.trace(none.root @ none.root.T) ** 2 / np.sum((none.root @ none.root.T) ** 2)
    )


def evaluations(points: Any) -> list[Evaluation]:
    """Of scores: forgotten, and kept above the limit of 90%."""
    return [
        Evaluation(f"{i:04d}", 5, metrics={"forget.es": 0.8 * (1 - x), "retain.es": 0.5 * (0.9 + 0.1 * y)})
        for i, (x, y) in enumerate(points)
    ]


def test_the_gain_is_what_the_hypervolume_grows_by() -> None:
    rng = np.random.default_rng(0)
    base = Evaluation("baseline", 0, metrics={"forget.es": 0.8, "retain.es": 0.5})
    front, points = 0.05 + 0.9 * rng.random((6, 2)), 0.06 + 0.9 * rng.random((30, 2))

    def volume(some: Any) -> float:
        objectives: Any = {"forget.es": "minimize", "retain.es": "maximize"}
        return hypervolume(evaluations(some), base, objectives, {"retain.es": 0.45})

    wanted = [volume([*front, point]) - volume(front) for point in points]
    assert gains(points, front) == pytest.approx(np.array(wanted), abs=1e-9)
    assert max(wanted) > 0.01


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1, 8])
def test_the_gain_in_any_number_of_objectives(objectives: int, size: int) -> None:
    rng = np.random.default_rng(size)
    front = rng.random((size, objectives))
    points = np.vstack([1.3 * rng.random((60, objectives)) - 0.1, front, front + 0.05])

    def volume(some: Any) -> float:
        inside = np.clip(np.reshape(some, (-1, objectives)), 0, 1)
        return float(moocore.hypervolume(inside, ref=np.zeros(objectives), maximise=True)) if len(inside) else 0.0

    wanted = [volume([*front, point]) - volume(front) for point in points]
    assert gains(points, front) == pytest.approx(np.array(wanted), abs=1e-12)
    lows, highs = boxes(nondominated(front))
    assert (highs - lows).prod(1).sum() == pytest.approx(1 - volume(front))


LINE = Features.of(np.array([False]), np.array([False]))
GOAL = Goal(objectives=2, forget=0, least=0.05, limits=(1,))


def seen(places: Any, known: Any, pending: Any, cost: float = 0.6) -> Seen:
    """Three steps along a line: more is forgotten with each step and the larger x is, at a cost of utility: up to
    0.9 all keep the limit."""
    x = np.array(places, dtype=np.float64)[:, None]
    steps = np.array([5.0, 10.0, 15.0])
    y = np.stack([x * steps / 15, 0.9 - cost * x * steps / 15], axis=-1)
    for i, count in enumerate(known):
        y[i, count:] = np.nan
    shown = y[np.isfinite(y[..., 0])]
    solved = shown[(shown[:, 0] >= 0.05) & (shown[:, 1] >= 0)]
    return Seen(x, y, np.zeros_like(y), np.array(pending), steps, nondominated(solved))


def expected(known: Seen, candidates: Any, goal: Goal = GOAL) -> Any:
    reach = np.ones((len(candidates), len(known.steps)), dtype=bool)
    rng = np.random.default_rng(0)
    return expected_gains(modelled(known, LINE), known, np.reshape(candidates, (-1, 1)), reach, LINE, goal, rng)


def test_a_running_trial_moves_the_proposal_away_from_it() -> None:
    places, line = [0.0, 0.1, 0.2, 0.3, 0.4], np.linspace(0.5, 1.0, 26)
    alone = seen(places, [3] * 5, [False] * 5)
    before = expected(alone, line)
    best = line[np.argmax(before)]
    beside = expected(seen([*places, best], [3] * 5 + [0], [False] * 5 + [True]), line)
    there = int(np.argmax(before))
    assert beside[there] < 0.6 * before[there]
    assert abs(line[np.argmax(beside)] - best) > 0.1 or beside.max() < 0.6 * before.max()


def test_what_a_running_trial_has_shown_counts() -> None:
    """One that has shown that little is forgotten there draws fewer after it than one that may do anything."""
    places, line = [0.1, 0.2, 0.3], np.array([0.85, 0.9, 0.95])
    shown = seen([*places, 0.9], [3, 3, 3, 2], [False] * 3 + [True])
    shown.y[3, :2, 0] = 0.0
    open_end = seen([*places, 0.9], [3, 3, 3, 0], [False] * 3 + [True])
    assert expected(shown, line).max() < expected(open_end, line).max()


def test_what_breaks_a_limit_gains_nothing() -> None:
    """A candidate that would forget most, beyond the limit, is worth less than one that stays within it."""
    scores = np.array([[0.5, 0.1], [0.5, -0.3], [0.01, -0.1], [0.05, 0.0]])
    assert GOAL.short(scores).tolist() == pytest.approx([0.0, 0.3, 0.14, 0.0])
    places = [0.1, 0.2, 0.3, 0.7, 0.9]
    within, beyond = np.array([0.4]), np.array([1.0])
    for cost, keeps in ((0.6, True), (4.0, False)):
        known = seen(places, [3] * 5, [False] * 5, cost=cost)
        assert (expected(known, beyond) > expected(known, within))[0] == keeps
        unlimited = GOAL._replace(limits=())
        assert (expected(known, beyond, unlimited) >= expected(known, beyond))[0]


def test_a_candidate_is_worth_only_the_steps_that_it_comes_to() -> None:
    known = seen([0.0, 0.2, 0.4], [3] * 3, [False] * 3)
    model, candidates = modelled(known, LINE), np.array([[0.8], [0.8]])
    reach = np.array([[True, True, True], [True, False, False]])
    long, short = expected_gains(model, known, candidates, reach, LINE, GOAL, np.random.default_rng(0))
    assert short < long


def test_where_nothing_is_a_solution_the_nearest_is_preferred() -> None:
    known = seen([0.2, 0.4, 0.6, 0.8], [3] * 4, [False] * 4)
    known.y[..., 1] -= 2.0  # far below the limit, the further the larger x
    known = known._replace(front=np.empty((0, 2)))
    found = expected(known, np.array([0.05, 0.5, 0.95]))
    assert np.argmax(found) == 0
