"""The front against domination by its definition, and who may be on it at all."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import OBJECTIVES, baseline, evaluation, oracle

from rayul.pareto.front import forgotten, front, keeps_all, least_violating, non_dominated, solutions
from rayul.records import Evaluation
from rayul.records.objectives import score, trade_off
from rayul.spec import Limit


def by_definition(points: np.ndarray, directions: list[str]) -> list[bool]:
    """A row is optimal when no other is at least as good everywhere and better somewhere; of equals the first."""
    gains = points * np.array([1.0 if d == "maximize" else -1.0 for d in directions])
    optimal = []
    for i, p in enumerate(gains):
        beaten = np.isnan(p).any()
        for j, q in enumerate(gains):
            if i == j or np.isnan(q).any():
                continue
            beaten |= bool((q >= p).all() and (q > p).any()) or bool((q == p).all() and j < i)
        optimal.append(not beaten)
    return optimal


@pytest.mark.parametrize(
    "directions",
    [
        ["minimize"],
        ["maximize"],
        ["minimize", "maximize"],
        ["maximize", "maximize", "minimize"],
        ["minimize"] * 4,
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_non_dominated_is_the_definition_with_ties_and_nan(directions: list[str], seed: int) -> None:
    draw = np.random.default_rng(seed)
    points = draw.integers(0, 6, (60, len(directions))).astype(float)  # few values: many ties and duplicates
    points[draw.random(points.shape) < 0.05] = np.nan
    assert non_dominated(points, directions).tolist() == by_definition(points, directions)


def test_no_points_and_only_nan_give_no_front() -> None:
    assert non_dominated([], ["minimize", "maximize"]).tolist() == []
    assert non_dominated([[np.nan, 1.0]], ["minimize", "maximize"]).tolist() == [False]


def test_infinite_values_take_part() -> None:
    assert non_dominated([[np.inf, 1.0], [0.5, 1.0]], ["minimize", "maximize"]).tolist() == [False, True]


def test_solutions_leave_out_references_step_zero_the_infeasible_and_what_hardly_forgets() -> None:
    good = evaluation("0", 5, forget=0.5, retain=0.95)
    rows = [
        baseline(),
        oracle(),
        evaluation("0", 0, forget=0.5, retain=0.95),
        good,
        evaluation("1", 5, forget=0.5, retain=0.5),
        evaluation("2", 5, forget=0.98 * 0.951, retain=0.95),
        evaluation("3", 5, forget=float("nan"), retain=0.95),
        Evaluation("4", 5, feasible=False),
    ]
    assert solutions(rows, baseline(), OBJECTIVES) == [good]
    exactly = evaluation("5", 5, forget=0.98 * 0.9499, retain=0.95)
    assert solutions([exactly], baseline(), OBJECTIVES) == [exactly]


def test_front_is_sorted_best_forgetting_first_and_keeps_the_first_of_equals() -> None:
    rows = [
        evaluation("a", 5, 0.6, 0.95),
        evaluation("b", 5, 0.3, 0.90),
        evaluation("c", 5, 0.6, 0.95),
        evaluation("d", 5, 0.7, 0.94),
    ]
    assert [e.trial_id for e in front(rows, baseline(), OBJECTIVES)] == ["b", "a"]


def test_front_of_one_objective_is_its_best_and_of_three_respects_all() -> None:
    rows = [evaluation("a", 5, 0.6, 0.95, train_seconds=1.0), evaluation("b", 5, 0.3, 0.9)]
    assert [e.trial_id for e in front(rows, baseline(), {"forget.es": "minimize"})] == ["b"]
    three = OBJECTIVES | {"general.es": "maximize"}
    rows = [
        evaluation(name, 5, 0.5, 0.9, metrics={"forget.es": 0.5, "retain.es": 0.9, "general.es": g})
        for name, g in (("a", 0.7), ("b", 0.8))
    ]
    assert [e.trial_id for e in front(rows, baseline(), three)] == ["b"]


def test_without_a_forget_objective_nothing_need_be_forgotten() -> None:
    row = evaluation("a", 5, 0.98, 0.95)
    assert front([row], baseline(), {"retain.es": "maximize"}) == [row]
    assert np.isnan(forgotten([row], baseline(), {"retain.es": "maximize"})).all()


def test_forgotten_turns_a_maximised_forget_metric_over() -> None:
    before = baseline({"forget.ppl": 2.0})
    row = evaluation("a", 5, 0, 0, metrics={"forget.ppl": 8.0})
    assert forgotten([row], before, {"forget.ppl": "maximize"}) == pytest.approx([1 - 2.0 / 8.0])


def test_least_violating_ranks_trials_by_their_best_total_violation() -> None:
    rows = [
        baseline(),
        evaluation("a", 0, 0.9, 0.86),
        evaluation("a", 5, 0.9, 0.80),
        evaluation("a", 10, 0.9, 0.70),
        evaluation("b", 5, 0.9, 0.82),
        Evaluation("c", 5, feasible=False),
        evaluation("d", 5, 0.9, float("nan")),
    ]
    assert [e.key[:2] for e in least_violating(rows)] == [("b", 5), ("a", 5)]
    assert len(least_violating(rows, count=1)) == 1
    many = [evaluation(f"{i:04d}", 5, 0.9, 0.80 - i / 100) for i in range(12)]
    assert least_violating(many) == many[:10]
    tie = [evaluation("a", 5, 0.9, 0.80), evaluation("a", 10, 0.9, 0.80)]
    assert least_violating(tie) == tie[:1]


def test_a_solution_may_be_found_at_the_first_step() -> None:
    first = evaluation("a", 1, 0.5, 0.95)
    assert solutions([first], baseline(), OBJECTIVES) == [first]


def test_all_limits_have_to_be_kept() -> None:
    lower, upper = Limit("retain.es", True, 90, relative=True), Limit("forget.es", False, 0.2)
    assert [
        keeps_all([lower, upper], evaluation("a", 5, *point), baseline()) for point in ((0.1, 0.9), (0.3, 0.9))
    ] == [
        True,
        False,
    ]
    assert keeps_all([], evaluation("a", 5, 0.3, 0.9), baseline())


def test_a_trade_off_has_one_objective_of_each_kind() -> None:
    assert trade_off({"retain.es": "maximize", "forget.prob": "minimize"}) == ("forget.prob", "retain.es")
    assert trade_off({"forget.es": "minimize"}) is None
    assert trade_off({"forget.es": "minimize", "forget.prob": "minimize"}) is None
    assert trade_off(OBJECTIVES | {"general.es": "maximize"}) is None


@pytest.mark.parametrize("base", [0.0, -0.83, float("inf"), float("nan")])
def test_of_a_baseline_that_is_not_positive_and_finite_there_are_no_fractions(base: float) -> None:
    assert np.isnan(score("retain.es", "maximize", [0.5, 0.71], base)).all()
