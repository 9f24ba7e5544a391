"""Dominance at matched utility, on arrays and through the scheduler's verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rayul.records import Evaluation
from rayul.sweep.pruning.dominance import Rivals, can_catch_up, front_at, is_behind
from rayul.sweep.pruning.scheduler import PruningScheduler

FRONT_GAINED, FRONT_KEPT = np.array([0.3, 0.5, 0.6]), np.array([1.0, 0.95, 0.91])


def test_the_front_is_read_at_equal_utility() -> None:
    kept = np.array([1.0, 0.97, 0.95, 0.91, 0.5])
    assert front_at(kept, FRONT_GAINED, FRONT_KEPT).tolist() == [0.3, 0.3, 0.5, 0.6, 0.6]
    assert front_at(np.array([1.01]), FRONT_GAINED, FRONT_KEPT).tolist() == [-np.inf]
    assert front_at(np.array([0.9]), np.array([]), np.array([])).tolist() == [-np.inf]


@pytest.mark.parametrize(
    ("gained", "kept", "patience", "expected"),
    [
        ([0.1, 0.2], [0.95, 0.95], 2, True),
        ([0.1, 0.2], [1.0, 1.0], 2, True),
        ([0.1, 0.27], [1.0, 1.0], 2, False),  # within the margin of 0.05
        ([0.5, 0.1], [0.95, 0.95], 2, False),  # only once
        ([0.5, 0.1], [0.95, 0.95], 1, True),
        ([0.1], [0.95], 2, False),
        ([0.1, np.nan], [0.95, 0.95], 1, False),
    ],
)
def test_behind_is_by_more_than_the_margin_and_so_many_times(
    gained: list[float], kept: list[float], patience: int, expected: bool
) -> None:
    assert is_behind(np.array(gained), np.array(kept), FRONT_GAINED, FRONT_KEPT, 0.05, patience) is expected


def test_exactly_the_margin_is_not_behind() -> None:
    """Of numbers without rounding: 0.5 against 0.25."""
    front = np.array([0.5]), np.array([1.0])
    assert not is_behind(np.array([0.25]), np.array([1.0]), *front, 0.25, 1)
    assert is_behind(np.array([0.125]), np.array([1.0]), *front, 0.25, 1)


def catches_up(steps: list[int], gained: list[float], kept: list[float], last: int = 60) -> bool:
    return can_catch_up(steps, np.array(gained), np.array(kept), FRONT_GAINED, FRONT_KEPT, 0.9, last)


def test_a_slow_starter_with_time_left_may_catch_up_and_one_without_may_not() -> None:
    assert catches_up([0, 5, 10, 15], [0, 0, 0, 0], [1, 1, 1, 1])
    assert not catches_up([0, 45, 50, 55], [0, 0, 0, 0], [1, 1, 1, 1])


def test_fast_growth_is_believed() -> None:
    assert catches_up([0, 45, 50, 55], [0, 0.02, 0.08, 0.2], [1, 1, 1, 1])


def test_a_trial_that_pays_more_utility_than_the_front_cannot_catch_up() -> None:
    # From 0.95 kept and 0.2 gained, at 0.5 utility per forgotten fraction it is at the limit with 0.3.
    assert not catches_up([0, 20, 25], [0, 0.1, 0.2], [1.05, 1.0, 0.95])
    # At a tenth of the price it reaches 0.6 with 0.91 kept.
    assert catches_up([0, 20, 25], [0, 0.1, 0.2], [0.96, 0.955, 0.95])


def test_one_dip_of_utility_is_not_the_price_of_all_that_follows() -> None:
    """A WGA trial of the benchmark: 0.914 is kept at step 20, and 0.933 at step 32, with 78% forgotten."""
    steps, gained, kept = [0, 12, 16, 20], [0.0, 0.10, 0.30, 0.62], [1.0, 1.0, 1.0, 0.914]
    front = np.array([0.68]), np.array([0.96])
    assert can_catch_up(steps, np.array(gained), np.array(kept), *front, 0.9, 40)


def catches_up_plainly(
    steps: list[int], gained: list[float], kept: list[float], front: np.ndarray, limit: float, last: int, mixing: bool
) -> bool:
    """The docstring of can_catch_up, step by step."""
    known = list(zip(steps, gained, kept, strict=True))[-4:]
    grown = [max(g, 0.01) for _, g, _ in known]
    pairs = list(zip(pairwise(known), pairwise(grown), strict=True))
    rates = [math.log(after / before) / (b[0] - a[0]) for (a, b), (before, after) in pairs]
    rate = max(math.log(2) / (last / (8 if mixing else 12)), *rates)
    prices = [(a[2] - b[2]) / (b[1] - a[1]) for (a, b), _ in pairs if b[1] > a[1]]
    price = 0.0 if mixing or not prices else max(0.0, min(prices))
    for step in range(steps[-1], last + 1):
        reached = min(1.0, grown[-1] * math.exp(rate * (step - steps[-1])))
        left = kept[-1] - price * (reached - grown[-1])
        ahead = max((g for g, k in front if k >= left), default=-math.inf)
        if reached >= ahead and left >= limit:
            return True
    return False


@pytest.mark.parametrize("mixing", [False, True])
def test_the_continuation_is_that_of_the_docstring(mixing: bool) -> None:
    draw, found = np.random.default_rng(3), []
    for _ in range(600):
        count, last = int(draw.integers(2, 7)), int(draw.integers(30, 90))
        steps = sorted(draw.choice(np.arange(last + 1), count, replace=False).tolist())
        gained, kept = draw.uniform(-0.02, draw.choice([0.1, 0.6]), count), draw.uniform(0.8, 1.0, count)
        front, limit = (
            np.column_stack([draw.uniform(0.2, 1, 3), draw.uniform(0.8, 1, 3)]),
            float(draw.choice([0.9, -np.inf])),
        )
        ours = can_catch_up(steps, gained, kept, front[:, 0], front[:, 1], limit, last, mixing)
        assert ours == catches_up_plainly(steps, gained.tolist(), kept.tolist(), front, limit, last, mixing)
        found.append(ours)
    assert 0.2 < np.mean(found) < 0.8, "there must be something to agree on"


def test_more_than_all_cannot_be_forgotten_nor_paid_for() -> None:
    """Within one step it would grow from 0.6 to 1.8; at 1.0 all is forgotten, with 0.92 kept and the limit at 0.9."""
    steps, gained, kept = [57, 58, 59], np.array([0.0667, 0.2, 0.6]), np.array([1.1067, 1.08, 1.0])
    assert can_catch_up(steps, gained, kept, np.array([0.95]), np.array([1.0]), 0.9, 60)
    assert not can_catch_up(steps, gained, kept, np.array([0.95]), np.array([1.0]), 0.93, 60)


def test_who_reaches_the_front_or_stays_at_the_limit_has_caught_up() -> None:
    """All is forgotten on the front, and by the trial in the end; it pays nothing and has just what it must keep."""
    arguments = [57, 58, 59], np.array([0.125, 0.25, 0.5]), np.array([0.875] * 3), np.array([1.0]), np.array([1.0])
    assert can_catch_up(*arguments, 0.875, 60)
    assert not can_catch_up(*arguments, 0.876, 60)


def evaluations(trial: str, points: list[tuple[int, float, float]]) -> list[Evaluation]:
    return [
        Evaluation(
            trial, s, metrics={"forget.es": f, "retain.es": r}, violation={"retain.es": 0.9 - r}, feasible=r >= 0.9
        )
        for s, f, r in points
    ]


def verdict(spec: Any, mine: list[tuple[int, float, float]], others: list[tuple[int, float, float]]) -> str:
    rows = [*evaluations("0000", others), *evaluations("0001", mine)]
    stop = PruningScheduler(spec, {"forget.es": 1.0, "retain.es": 1.0}, rows).verdict("0001", mine[-1][0])
    return "" if stop is None else stop.reason


OTHERS = [(0, 1.0, 1.0), (30, 0.5, 1.0)]
SLOW = [(0, 1.0, 1.0), (50, 1.0, 1.0), (55, 0.99, 1.0)]


def test_the_scheduler_stops_it_and_says_why(make_spec: Callable[..., Any]) -> None:
    training = {"steps": 60, "lr": 1e-3}
    spec = make_spec(training=training, control=[{"metric": "retain.es", "at_least": 0.9}])
    assert verdict(spec, SLOW, OTHERS) == (
        "dominance at step 55: with 100.0% of retain.es kept it has forgotten 1.0%, the front 50.0%, "
        "and it would not catch up by step 60"
    )
    assert verdict(spec, SLOW, OTHERS[:1]) == "", "nobody is ahead"
    assert verdict(spec, SLOW[:2], OTHERS) == "", "once is not twice"


def test_the_first_evaluations_count_of_the_trial_and_of_its_rivals(make_spec: Callable[..., Any]) -> None:
    spec = make_spec(training={"steps": 60}, control=[{"metric": "retain.es", "at_least": 0.9}])
    assert "dominance at step 59" in verdict(spec, [(1, 1.0, 1.0), (59, 0.99, 1.0)], OTHERS[1:])


def test_who_breaks_a_limit_is_nobodys_rival(make_spec: Callable[..., Any]) -> None:
    spec = make_spec(training={"steps": 60}, control=[{"metric": "retain.es", "at_least": 0.9}])
    rivals = [replace(e, feasible=False) for e in evaluations("0000", OTHERS)]  # of another metric
    scheduler = PruningScheduler(spec, {"forget.es": 1.0, "retain.es": 1.0}, [*rivals, *evaluations("0001", SLOW)])
    assert scheduler.verdict("0001", 55) is None


def test_the_front_is_that_of_the_utility_that_is_left_now(make_spec: Callable[..., Any]) -> None:
    spec = make_spec(training={"steps": 60}, control=[{"metric": "retain.es", "at_least": 0.8}])
    mine = [(0, 1.0, 1.0), (40, 1.0, 1.0), (50, 0.999, 0.99), (59, 0.99, 0.85)]
    others = [(10, 0.6, 1.0), (20, 0.5, 0.95), (30, 0.3, 0.9)]
    assert "with 85.0% of retain.es kept it has forgotten 1.0%, the front 70.0%" in verdict(spec, mine, others)


def test_only_a_limit_on_the_utility_ends_the_continuation(make_spec: Callable[..., Any]) -> None:
    """It pays 0.5 of utility per forgotten fraction, so it passes the front of 0.5 with 0.85 kept."""
    mine = [(0, 1.0, 1.1), (20, 0.9, 1.05), (30, 0.8, 1.0)]
    others = [(30, 0.5, 1.06)]
    for control, stopped in (
        ({"metric": "retain.es", "at_least": 0.9}, True),
        ({"metric": "general.es", "at_least": 0.5}, False),
    ):
        spec = make_spec(training={"steps": 60}, control=[control], pruning={"criteria": False})
        assert bool(verdict(spec, mine, others)) is stopped


@pytest.mark.parametrize(
    "sections",
    [
        {"pruning": {"dominance": False}},
        {"objectives": {"forget.es": "minimize"}},
    ],
    ids=["off", "one objective"],
)
def test_where_it_does_not_apply(sections: dict[str, Any], make_spec: Callable[..., Any]) -> None:
    spec = make_spec(**({"training": {"steps": 60}, "control": [{"metric": "retain.es", "at_least": 0.9}]} | sections))
    assert verdict(spec, SLOW, OTHERS) == ""


def test_criteria_can_be_switched_off(make_spec: Callable[..., Any]) -> None:
    spec = make_spec(
        training={"steps": 60}, control=[{"metric": "retain.es", "at_least": 0.9}], pruning={"criteria": False}
    )
    assert verdict(spec, [(0, 1.0, 1.0), (5, 0.1, 0.2)], OTHERS) == ""


@pytest.mark.parametrize("seed", range(8))
def test_rivals_give_each_trial_the_front_of_all_others_as_a_search_through_every_point_does(seed: int) -> None:
    """On a coarse grid, so that many points are equal in one or both."""
    random = np.random.default_rng(seed)
    points = [(f"{random.integers(6):04d}", *random.integers(0, 8, 2) / 7) for _ in range(120)]
    levels = np.linspace(0, 1, 15)
    rivals = Rivals()
    for count, (trial, gained, kept) in enumerate(points, 1):
        rivals.add(trial, gained, kept)
        for asking in ("0000", trial, "nobody"):
            rest = np.array([(g, k) for t, g, k in points[:count] if t != asking]).reshape(-1, 2)
            found = front_at(levels, *rivals.front_of_others(asking))
            assert found.tolist() == front_at(levels, rest[:, 0], rest[:, 1]).tolist()
        for one, gained, kept in zip(rivals.trials, rivals.gained, rivals.kept, strict=True):
            better = rivals.trials[(rivals.gained >= gained) & (rivals.kept >= kept)].tolist()
            better.remove(one)
            assert one not in better
            assert len(set(better)) <= 1, "whoever asks, one of two others is there"
    assert len(rivals.gained) <= 2 * 8, "two points at most for each level of what is kept"


def test_a_point_that_is_no_number_is_nobodys_rival() -> None:
    rivals = Rivals()
    rivals.add("0000", float("nan"), 1.0)
    assert rivals.front_of_others("0001")[0].size == 0


def test_with_mixing_a_trial_pays_no_more_utility_than_it_has() -> None:
    """Scaled back, it goes on at the limit: what without mixing cannot catch up may, unless its growth is too slow."""
    arguments = (np.array([0.0, 0.1, 0.2]), np.array([1.09, 1.0, 0.91]), FRONT_GAINED, FRONT_KEPT, 0.9, 60)
    assert not can_catch_up([0, 20, 25], *arguments)
    assert can_catch_up([0, 20, 25], *arguments, mixing=True)
    assert not can_catch_up([0, 50, 59], *arguments[:-1], 60, mixing=True)


def test_the_scheduler_judges_the_calibrated_evaluation(make_spec: Callable[..., Any]) -> None:
    control = {"criteria": [{"metric": "retain.es", "at_least": 0.9}], "mixing": True}
    spec = make_spec(training={"steps": 60, "lr": 1e-3}, control=control)
    assert "dominance at step 55" in verdict(spec, SLOW, OTHERS)
    rows = [*evaluations("0000", OTHERS), *evaluations("0001", [(50, 0.1, 0.2), (55, 0.05, 0.1)])]
    for forget, stopped in ((0.45, False), (0.98, True)):
        calibrated = [replace(e, mixing=0.5) for e in evaluations("0001", [(50, forget, 0.95), (55, forget, 0.95)])]
        scheduler = PruningScheduler(spec, {"forget.es": 1.0, "retain.es": 1.0}, [*rows, *calibrated])
        assert bool(scheduler.verdict("0001", 55)) is stopped
