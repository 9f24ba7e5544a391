"""Limits, violations, and what a percentage of the baseline needs."""

from __future__ import annotations

import math

import pytest

from rayul.errors import InputError
from rayul.spec import Criterion, violations


def criterion(**fields: object) -> Criterion:
    return Criterion.model_validate({"metric": "retain.es", **fields})


def test_a_percentage_is_of_the_baseline() -> None:
    assert criterion(at_least="90% of baseline").limit.on({"retain.es": 0.5}) == pytest.approx(0.45)
    assert criterion(at_most=" 120.5 %  of baseline ").limit.on({"retain.es": 2.0}) == pytest.approx(2.41)
    assert criterion(at_least=0.9).limit.on({}) == 0.9
    assert criterion(at_least=-1).limit.on({}) == -1.0


@pytest.mark.parametrize("baseline", [0.0, -0.5, math.nan, math.inf])
def test_a_percentage_of_such_a_baseline_is_refused(baseline: float) -> None:
    with pytest.raises(InputError, match=r"retain\.es: 90% of baseline has no meaning"):
        criterion(at_least="90% of baseline").limit.on({"retain.es": baseline})


def test_a_percentage_of_a_missing_baseline_is_refused() -> None:
    with pytest.raises(InputError, match=r"retain\.es"):
        criterion(at_least="90% of baseline").limit.on({"forget.es": 1.0})


def test_violation_is_relative_and_signed() -> None:
    lower, upper = criterion(at_least=0.8).limit, criterion(at_most=0.8).limit
    assert lower.violation(0.6) == pytest.approx(0.25)
    assert lower.violation(1.0) == pytest.approx(-0.25)
    assert lower.violation(0.8) == 0.0
    assert upper.violation(1.0) == pytest.approx(0.25)
    assert upper.violation(0.6) == pytest.approx(-0.25)
    assert criterion(at_least=-2).limit.violation(-3.0) == pytest.approx(0.5)


def test_violation_of_a_zero_limit_is_absolute() -> None:
    assert criterion(at_least=0).limit.violation(-0.25) == 0.25
    assert criterion(at_most=0).limit.violation(0.25) == 0.25


def test_nan_violates_without_end() -> None:
    assert criterion(at_least=0.5).limit.violation(math.nan) == math.inf
    assert criterion(at_most=0.5).limit.violation(math.nan) == math.inf


def test_violations_by_metric() -> None:
    criteria = [
        criterion(at_least="50% of baseline"),
        criterion(at_most=0.3),
        Criterion.model_validate({"metric": "general.em", "at_least": 0.5}),
    ]
    found = violations(criteria, {"retain.es": 0.6}, {"retain.es": 1.0})
    assert found == {"retain.es": pytest.approx(1.0), "general.em": math.inf}
    assert violations([], {}, {}) == {}
