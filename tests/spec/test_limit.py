"""A limit: its text forms, its number on a baseline, what keeps it, and the scale on which it stays the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rayul.errors import InputError
from rayul.spec import Criterion, Limit, known_limits, limits, parse_spec

BASE = {"retain.es": 0.83, "retain_report.es": 0.71, "general.ppl": 2.4, "forget.es": 0.0}
LOWER = Limit("retain.es", True, 90, relative=True)
UPPER = Limit("general.ppl", False, 120, relative=True)


def test_a_percentage_is_of_its_own_metric_at_the_baseline() -> None:
    assert LOWER.on(BASE) == pytest.approx(0.747)
    assert Limit("retain_report.es", True, 90, relative=True).on(BASE) == pytest.approx(0.639)
    assert UPPER.on(BASE) == pytest.approx(2.88)
    assert Limit("retain.es", True, 0.9).on(BASE) == Limit("retain.es", True, 0.9).on({}) == 0.9


@pytest.mark.parametrize(
    ("limit", "value", "keeps"),
    [
        (LOWER, 0.748, True),
        (LOWER, 0.746, False),
        (LOWER, 0.9 * 0.83, True),  # a tie keeps it
        (UPPER, 2.87, True),
        (UPPER, 2.89, False),
        (UPPER, 1.2 * 2.4, True),
        (UPPER, math.inf, False),
        (Limit("retain.es", True, 0.9), 0.89, False),
        (Limit("forget.es", False, 0.2), 0.2, True),
        (Limit("forget.es", False, -0.2), -0.1, False),
        (Limit("forget.es", False, 0), 0.0, True),
        (LOWER, math.nan, False),
        (UPPER, math.nan, False),
    ],
)
def test_what_keeps_it_and_how_far_it_is_broken(limit: Limit, value: float, keeps: bool) -> None:
    assert limit.keeps(value, BASE) is keeps
    assert limit.fixed(BASE).keeps(value) is keeps
    number = limit.on(BASE)
    beyond = (number - value if limit.at_least else value - number) / abs(number or 1)
    assert limit.violation(value, BASE) == pytest.approx(math.inf if math.isnan(value) else beyond)


def test_fixed_is_the_same_limit_as_a_number() -> None:
    assert UPPER.fixed(BASE) == Limit("general.ppl", False, pytest.approx(2.88))
    assert (LOWER.direction, UPPER.direction) == ("maximize", "minimize")
    assert (LOWER.key, UPPER.key) == ("at_least", "at_most")


@pytest.mark.parametrize("limit", [LOWER, UPPER, Limit("retain.es", True, 0.7), Limit("general.ppl", False, 3)])
def test_on_its_own_scale_a_limit_is_one_number_whatever_the_baseline(limit: Limit) -> None:
    """Values are on the same side of `at` on that scale as of the limit in the metric's own unit."""
    for base in (0.31, 0.83, 2.4):
        values = np.linspace(0.1, 4, 23)
        scaled = limit.scaled(values, np.full(23, base))
        other = Limit(limit.metric, limit.at_least, limit.at)
        assert [other.keeps(v) for v in scaled] == [limit.keeps(v, {limit.metric: base}) for v in values]


@pytest.mark.parametrize("base", [0.0, -0.5, math.nan, math.inf])
def test_a_percentage_of_nothing_is_refused_with_the_limit_that_it_was(base: float) -> None:
    with pytest.raises(InputError, match=r"general\.ppl: 120% of baseline has no meaning") as caught:
        UPPER.keeps(1.0, {"general.ppl": base})
    assert "at_most: 0.5" in str(caught.value)
    with pytest.raises(InputError, match=r"the baseline has no general\.ppl"):
        UPPER.on({"retain.es": 1.0})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("retain.es>=0.95*baseline", "retain.es ≥ 95% of baseline"),
        ("retain.es>=.55 * baseline", "retain.es ≥ 55% of baseline"),
        ("general.ppl<=1.205*baseline", "general.ppl ≤ 120.5% of baseline"),
        ("forget.es<=1e-1", "forget.es ≤ 0.1"),
    ],
)
def test_a_condition_and_the_criterion_that_says_the_same_are_one_limit(text: str, said: str) -> None:
    limit = Limit.parse(text)
    assert str(limit) == said
    criterion = Criterion.model_validate({"metric": limit.metric, limit.key: limit.to_yaml()})
    assert criterion.limit == limit


@pytest.mark.parametrize("text", ["retain.es>=0*baseline", "retain.es>=-0.5*baseline"])
def test_a_condition_on_no_part_of_the_baseline_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a limit"):
        Limit.parse(text)


def test_of_two_limits_from_one_side_the_tighter_counts_and_a_searched_one_does_not() -> None:
    criteria: list[dict[str, Any]] = [
        {"metric": "retain.es", "at_least": "50% of baseline"},
        {"metric": "retain.es", "at_least": "80% of baseline"},
        {"metric": "retain.es", "at_least": 0.6},
        {"metric": "general.ppl", "at_most": "150% of baseline"},
        {"metric": "general.ppl", "at_most": "120% of baseline"},
        {"metric": "general.ppl", "at_most": 3},
        {"metric": "general.es", "at_least": {"choice": [0.5, "90% of baseline"]}},
    ]
    spec = parse_spec(
        "name: a\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n" + f"control: {criteria}\n"
    )
    assert [limit.metric for limit in known_limits(spec.criteria)] == ["retain.es"] * 3 + ["general.ppl"] * 3
    assert limits(spec.criteria, BASE) == pytest.approx({"retain.es": 0.664, "general.ppl": 2.88})
    assert [criterion.is_searched for criterion in spec.criteria] == [False] * 6 + [True]
    trial = spec.at({"control.criteria.6.at_least": "90% of baseline"})
    assert trial.criteria[6].limit == Limit("general.es", True, 90, relative=True)


@pytest.mark.parametrize(
    "side", ["0% of baseline", "half of baseline", "90%", "-5% of baseline", "9" * 400 + "% of baseline"]
)
def test_what_is_no_percentage_above_zero_is_refused(side: str) -> None:
    with pytest.raises(ValueError, match="is not a limit"):
        Limit.of("retain.es", True, side)


def test_a_small_percentage_is_a_limit() -> None:
    assert Limit.of("forget.es", False, "0.5% of baseline").on({"forget.es": 0.83}) == pytest.approx(0.00415)


def test_without_an_operator_a_text_is_no_condition() -> None:
    with pytest.raises(InputError, match="is not a condition"):
        Limit.parse("retain.es 0.9")


def test_a_metric_that_the_baseline_lacks_is_named_with_those_that_it_has() -> None:
    for base, measured in (({}, "nothing"), ({"retain.prob": 0.7, "forget.es": 0.9}, r"retain\.prob, forget\.es$")):
        with pytest.raises(InputError, match=f"measured are {measured}"):
            LOWER.on(base)
