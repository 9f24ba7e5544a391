"""What Optuna is told of a trial: where it ended, or its best solution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayul.records import PRUNED, Evaluation
from rayul.sweep.search.outcome import outcome

BEST = {"tell": "best"}
KEEP_90 = {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline"}]}

Row = Callable[..., Evaluation]
Make = Callable[..., Any]


def test_the_feasible_evaluation_that_alone_dominates_most_is_told(
    make_spec: Make, row: Row, baseline: Evaluation
) -> None:
    spec = make_spec(control=KEEP_90, search=BEST)
    points = [(0.78, 0.50), (0.60, 0.49), (0.45, 0.47), (0.30, 0.452), (0.10, 0.40), (0.0, 0.0)]
    rows = [row(spec, 0, 5 * (i + 1), *point) for i, point in enumerate(points)]

    def volume(forget: float, retain: float) -> float:
        """Area that this point alone dominates: forgotten fraction, times what is kept above 90%."""
        x, y = 1 - forget / 0.8, (retain / 0.5 - 0.9) / 0.1
        return x * y if x >= 0.05 and y >= 0 else -1.0

    best = max(points, key=lambda p: volume(*p))
    assert best == (0.60, 0.49)  # neither the first nor the last feasible one
    told = outcome(rows, spec, baseline)
    assert told is not None
    assert told.values == best
    assert told.step == 10
    assert told.violations["retain.es"] == pytest.approx((0.45 - 0.49) / 0.45)


def test_at_a_tie_the_one_that_forgets_most_is_told(make_spec: Make, row: Row, baseline: Evaluation) -> None:
    """On the limit itself every point spans no area at all."""
    spec = make_spec(control=KEEP_90, search=BEST)
    rows = [row(spec, 0, 1, 0.5, 0.45), row(spec, 0, 2, 0.3, 0.45), row(spec, 0, 3, 0.4, 0.45)]
    told = outcome(rows, spec, baseline)
    assert told is not None
    assert told.step == 2


def test_without_a_solution_the_last_evaluation_is_told_with_what_it_violates(
    make_spec: Make, row: Row, baseline: Evaluation
) -> None:
    spec = make_spec(control=KEEP_90)
    rows = [
        row(spec, 0, 0, 0.8, 0.5),
        row(spec, 0, 5, 0.79, 0.5),  # feasible, but it forgets under 5%
        row(spec, 0, 10, 0.5, 0.4),
        row(spec, 0, 15, 0.2, 0.3),
    ]
    told = outcome(rows, spec, baseline)
    assert told is not None
    assert told.values == (0.2, 0.3)
    assert told.step == 15
    assert told.violations["retain.es"] == pytest.approx((0.45 - 0.3) / 0.45)


def test_a_trial_with_nothing_but_step_0_has_no_outcome(make_spec: Make, row: Row, baseline: Evaluation) -> None:
    """As the baseline it would look like a perfect keeper of utility."""
    spec = make_spec(control=KEEP_90)
    assert outcome([row(spec, 0, 0, 0.8, 0.5)], spec, baseline) is None
    assert outcome([], spec, baseline) is None


def test_a_trial_that_failed_late_is_worth_what_it_had_reached(make_spec: Make, row: Row, baseline: Evaluation) -> None:
    spec = make_spec(control=KEEP_90, search=BEST)
    rows = [row(spec, 0, 5, 0.6, 0.49), row(spec, 0, 10, 0.1, 0.1)]
    told = outcome(rows, spec, baseline)
    assert told is not None
    assert told.step == 5


def test_values_come_in_the_order_of_the_objectives(make_spec: Make, row: Row, baseline: Evaluation) -> None:
    spec = make_spec(objectives={"retain.es": "maximize", "forget.es": "minimize"})
    told = outcome([row(spec, 0, 5, 0.4, 0.45)], spec, baseline)
    assert told is not None
    assert told.values == (0.45, 0.4)


def test_a_calibrated_point_counts_like_any_other(make_spec: Make, row: Row, baseline: Evaluation) -> None:
    spec = make_spec(control=KEEP_90 | {"mixing": True})
    rows = [row(spec, 0, 5, 0.1, 0.2, mixing=1.0), row(spec, 0, 5, 0.5, 0.48, mixing=0.5)]
    told = outcome(rows, spec, baseline)
    assert told is not None
    assert (told.step, told.mixing) == (5, 0.5)


def test_a_searched_limit_is_the_trials_own(make_spec: Make, row: Row, baseline: Evaluation) -> None:
    """With a limit of 50% the strong point is worth more, with one of 90% it is infeasible."""
    spec = make_spec(control={"criteria": [{"metric": "retain.es", "at_least": {"choice": [0.25, 0.45]}}]}, search=BEST)
    for limit, step in ((0.25, 10), (0.45, 5)):
        params = {"control.criteria.0.at_least": limit}
        rows = [row(spec, 0, 5, 0.7, 0.495, params=params), row(spec, 0, 10, 0.1, 0.44, params=params)]
        told = outcome(rows, spec.at(params), baseline)
        assert told is not None
        assert told.step == step


POINTS = [(0.6, 0.49), (0.3, 0.46), (0.1, 0.2)]
"""Two solutions, and where the trial was stopped."""


def test_the_last_evaluation_of_a_trial_that_had_a_solution_breaks_no_constraint(
    make_spec: Make, row: Row, baseline: Evaluation
) -> None:
    spec = make_spec(control=KEEP_90, search={"tell": "last"})
    rows = [row(spec, 0, 5 * (i + 1), *point) for i, point in enumerate(POINTS)]
    told = outcome(rows, spec, baseline)
    assert told is not None
    assert (told.values, told.step) == ((0.1, 0.2), 15)
    assert told.constraints == {"retain.es": 0.0}
    assert told.violations["retain.es"] == pytest.approx((0.45 - 0.2) / 0.45)
    attributes = told.attributes(rows[-1].ended(PRUNED, "retain.es", "why"))
    assert attributes["violation.retain.es"] == told.violations["retain.es"]
    assert (attributes["state"], attributes["rule"], attributes["reason"]) == (PRUNED, "retain.es", "why")
    assert (attributes["step"], attributes["mixing"]) == (15, 1.0)


@pytest.mark.parametrize(
    ("sections", "step"),
    [
        ({"control": KEEP_90}, 15),
        ({"control": KEEP_90, "objectives": {"forget.es": "minimize"}}, 10),  # only the constraint knows of retain.es
        ({"control": KEEP_90 | {"mixing": True}}, 5),
        ({"control": {"tau": 0.9}}, 15),
        ({"control": {}}, 15),
    ],
)
def test_where_a_trial_ended_is_told_unless_something_better_stands_for_it(
    sections: dict[str, Any], step: int, make_spec: Make, row: Row, baseline: Evaluation
) -> None:
    spec = make_spec(**sections)
    rows = [row(spec, 0, 5 * (i + 1), *point) for i, point in enumerate(POINTS)]
    told = outcome(rows, spec, baseline)
    assert told is not None
    assert told.step == step
