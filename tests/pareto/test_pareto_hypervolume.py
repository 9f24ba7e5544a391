"""Hypervolume against areas by hand, Monte Carlo, and every prefix of the journal."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from synthetic import BASE, OBJECTIVES, baseline, evaluation, evaluations_of, oracle, sweep

from rayul.pareto.hypervolume import hypervolume, hypervolume_history, unit_scores
from rayul.records import Evaluation

LIMITS = {"retain.es": 0.9 * BASE["retain.es"]}


def staircase(points: list[tuple[float, float]]) -> float:
    """Area under the staircase of points in the unit square against (0, 0)."""
    area, height = 0.0, 0.0
    for x, y in sorted(points, reverse=True):
        if y > height:
            area += x * (y - height)
            height = y
    return area


def scaled(e: Evaluation) -> tuple[float, float]:
    """x = 1 - forget/baseline; y' = (y - 0.9) / 0.1, by DESIGN section 5."""
    x = min(max(1 - e.metrics["forget.es"] / BASE["forget.es"], 0), 1)
    return x, min(max((e.metrics["retain.es"] / BASE["retain.es"] - 0.9) / 0.1, 0), 1)


def test_one_point_is_a_rectangle() -> None:
    row = evaluation("a", 5, forget=0.49, retain=0.95 * 0.96)
    assert hypervolume([row], baseline(), OBJECTIVES) == pytest.approx(0.5 * 0.95)
    assert hypervolume([row], baseline(), OBJECTIVES, LIMITS) == pytest.approx(0.5 * 0.5)


def test_the_ideal_is_one_and_nothing_is_zero() -> None:
    assert hypervolume([evaluation("a", 5, 0.0, 0.99)], baseline(), OBJECTIVES, LIMITS) == 1.0
    assert hypervolume([], baseline(), OBJECTIVES) == 0.0
    assert hypervolume([baseline(), oracle()], baseline(), OBJECTIVES) == 0.0
    assert hypervolume([evaluation("a", 5, 0.2, 0.5)], baseline(), OBJECTIVES, LIMITS) == 0.0
    assert hypervolume([evaluation("a", 5, 0.95, 0.95)], baseline(), OBJECTIVES) == 0.0  # forgets 3%


def test_a_limit_at_or_above_the_baseline_is_not_applied() -> None:
    row = evaluation("a", 5, 0.49, 0.96)
    assert hypervolume([row], baseline(), OBJECTIVES, {"retain.es": 0.97}) == pytest.approx(0.5)
    before = baseline({"forget.es": 0.83, "retain.es": 0.71})
    row = evaluation("a", 5, 0.4 * 0.83, 0.93 * 0.71, base=before)
    for limit in (0.71, 1.2 * 0.71):
        assert hypervolume([row], before, OBJECTIVES, {"retain.es": limit}) == pytest.approx(0.6 * 0.93)


def test_without_objectives_there_are_no_scores() -> None:
    assert unit_scores([evaluation("a", 5, 0.2, 0.9)] * 3, baseline(), {}, {}).shape == (3, 0)


def test_history_has_the_area_of_every_prefix() -> None:
    rows = evaluations_of(sweep(30, seed=3))
    history = hypervolume_history(rows, baseline(), OBJECTIVES, LIMITS)
    trained = [e for e in rows if not e.is_reference]
    before = [replace(e, step=0) for e in trained[:3]]
    assert hypervolume_history([*before, *rows], baseline(), OBJECTIVES, LIMITS) == history, "no step was taken"
    at = dict(history)
    assert history[0] == (0, 0.0)
    assert history[-1][0] == len(trained)
    now = 0.0
    for count in range(1, len(trained) + 1):
        now = at.get(count, now)
        ok = [
            e
            for e in trained[:count]
            if e.feasible and e.metrics and e.metrics["forget.es"] <= 0.95 * BASE["forget.es"]
        ]
        assert now == pytest.approx(staircase([scaled(e) for e in ok]), abs=1e-12)


def test_history_lists_growth_only() -> None:
    history = hypervolume_history(evaluations_of(sweep(40)), baseline(), OBJECTIVES, LIMITS)
    counts, volumes = zip(*history, strict=True)
    assert list(counts) == sorted(set(counts))
    assert all(a < b for a, b in pairwise(volumes[:-1]))
    assert volumes[-1] >= volumes[-2]


def test_a_point_that_only_just_keeps_its_limit_adds_no_growth() -> None:
    tie = evaluation("a", 5, 0.1, LIMITS["retain.es"])
    grown = evaluation("b", 5, 0.49, 0.95 * 0.96)
    assert tie.feasible
    assert hypervolume_history([tie, tie], baseline(), OBJECTIVES, LIMITS) == [(0, 0.0), (2, 0.0)]
    history = hypervolume_history([tie, grown], baseline(), OBJECTIVES, LIMITS)
    assert history == [(0, 0.0), (2, pytest.approx(0.5 * 0.5))], "the last growth is not listed twice"


def test_three_objectives_by_monte_carlo() -> None:
    draw = np.random.default_rng(0)
    objectives = OBJECTIVES | {"general.es": "maximize"}
    rows = []
    for i, (f, r, g) in enumerate(draw.random((25, 3)) * 0.9):
        rows.append(
            evaluation(str(i), 5, f, r, metrics={"forget.es": f, "retain.es": r, "general.es": g}, feasible=True)
        )
    scores = np.array(
        [
            [1 - e.metrics["forget.es"] / 0.98, e.metrics["retain.es"] / 0.96, min(e.metrics["general.es"] / 0.9, 1)]
            for e in rows
            if e.metrics["forget.es"] <= 0.95 * 0.98
        ]
    )
    darts = draw.random((200_000, 3))
    hit = np.zeros(len(darts), dtype=bool)
    for s in scores:
        hit |= (darts <= s).all(axis=1)
    assert hypervolume(rows, baseline(), objectives) == pytest.approx(hit.mean(), abs=4 * 0.5 / np.sqrt(len(darts)))


def test_one_objective_is_the_best_value() -> None:
    rows = [evaluation("a", 5, 0.49, 0.95), evaluation("b", 5, 0.245, 0.95)]
    assert hypervolume(rows, baseline(), {"forget.es": "minimize"}) == pytest.approx(0.75)


def test_perplexities_are_turned_over() -> None:
    before = baseline({"forget.ppl": 1.5, "retain.ppl": 2.0})
    objectives = {"forget.ppl": "maximize", "retain.ppl": "minimize"}
    row = evaluation("a", 5, 0, 0, metrics={"forget.ppl": 6.0, "retain.ppl": 2.5}, feasible=True)
    assert hypervolume([row], before, objectives) == pytest.approx((1 - 1.5 / 6.0) * (2.0 / 2.5))
    # At most 4: half the baseline on the turned scale.
    expected = (1 - 1.5 / 6.0) * (0.8 - 0.5) / 0.5
    assert hypervolume([row], before, objectives, {"retain.ppl": 4.0}) == pytest.approx(expected)


def test_a_baseline_of_zero_or_nan_measures_nothing_and_does_not_fail() -> None:
    for value in (0.0, float("nan")):
        before = baseline({"forget.es": value, "retain.es": 0.9})
        assert hypervolume([evaluation("a", 5, 0.1, 0.9)], before, OBJECTIVES) == 0.0
