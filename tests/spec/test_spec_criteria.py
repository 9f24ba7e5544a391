"""Limits, violations, and what a percentage of the baseline needs."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
from pydantic import ValidationError

from rayul.errors import InputError
from rayul.spec import Criterion, check_baseline_keeps, check_limits, check_objectives, violations


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


@pytest.mark.parametrize(
    ("metric", "side", "why"),
    [
        ("retain.es", {"at_least": 2}, "es is never above 1"),
        ("retain.prob", {"at_least": 1.01}, "prob is never above 1"),
        ("general.em", {"at_most": -0.1}, "em is never below 0"),
        ("retain.ppl", {"at_most": 0.5}, "ppl is never below 1"),
    ],
)
def test_a_limit_that_no_model_can_keep_is_refused_where_it_is_written(
    metric: str, side: dict[str, float], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        Criterion.model_validate({"metric": metric, **side})


def test_limits_at_the_edge_of_what_a_metric_can_be_stay() -> None:
    kept = [("retain.es", {"at_least": 1}), ("retain.es", {"at_most": 0}), ("retain.ppl", {"at_most": 1})]
    kept += [("retain.ppl", {"at_least": 50.0}), ("retain.es", {"at_least": -1})]
    for metric, side in kept:
        asked = Criterion.model_validate({"metric": metric, **side})
        check_limits([asked], {})
        assert asked.limit.value == next(iter(side.values()))


def test_a_metric_of_a_probe_that_may_be_negative_has_negative_limits() -> None:
    context = {"probe_metrics": {"raw_forget": ("privleak", "mia_loss_gap")}}
    for metric, most in (("privleak", -5.0), ("mia_loss_gap", -0.5)):
        written = {"metric": f"raw_forget.{metric}", "at_most": most}
        check_limits([Criterion.model_validate(written, context=context)], {})
    with pytest.raises(ValueError, match="privleak is never below -100"):
        Criterion.model_validate({"metric": "raw_forget.privleak", "at_most": -101.0}, context=context)


def test_a_share_of_the_baseline_that_no_model_can_reach_is_refused_once_the_baseline_is_known() -> None:
    asked = [Criterion.model_validate({"metric": "forget.es", "at_least": "150% of baseline"})]
    check_limits(asked, {"forget.es": 0.6})
    with pytest.raises(InputError, match=r"no model can keep forget\.es ≥ 1\.2: es is never above 1"):
        check_limits(asked, {"forget.es": 0.8})
    with pytest.raises(InputError, match="has no meaning, the baseline is 0"):
        check_limits(asked, {"forget.es": 0.0})


@pytest.mark.parametrize(
    ("metric", "side", "value", "kept"),
    [
        ("retain.es", {"at_least": 0.8}, 0.79, False),
        ("retain.es", {"at_least": 0.8}, 0.8, True),
        ("retain.es", {"at_least": "100% of baseline"}, 0.5, True),
        ("general.ppl", {"at_most": 3.0}, 3.1, False),
        ("general.ppl", {"at_most": 3.0}, 2.9, True),
        ("retain.es", {"at_least": 0.1}, math.nan, False),
        ("forget.es", {"at_most": 0.1}, 0.9, True),  # what unlearning is to reach
        ("forget.ppl", {"at_least": 20.0}, 1.1, True),
        ("general.es", {"at_most": 0.3}, 0.9, True),
    ],
)
def test_a_limit_on_what_is_kept_has_to_be_kept_by_the_baseline(
    metric: str, side: dict[str, Any], value: float, kept: bool
) -> None:
    asked = [Criterion.model_validate({"metric": metric, **side})]
    if kept:
        check_baseline_keeps(asked, {metric: value})
        return
    with pytest.raises(InputError, match=f"does not keep {metric}") as caught:
        check_baseline_keeps(asked, {metric: value})
    assert "of baseline" in caught.value.hint


@pytest.mark.parametrize(
    ("metric", "side", "refused"),
    [
        ("retain.es", {"at_least": "120% of baseline"}, True),
        ("retain.es", {"at_least": "100% of baseline"}, False),
        ("general.ppl", {"at_most": "90% of baseline"}, True),
        ("general.ppl", {"at_most": "110% of baseline"}, False),
        ("forget.ppl", {"at_least": "150% of baseline"}, False),
        ("general.es", {"at_most": "30% of baseline"}, False),
    ],
)
def test_a_share_beyond_the_baseline_is_refused_before_anything_is_measured(
    metric: str, side: dict[str, str], refused: bool
) -> None:
    with pytest.raises(ValidationError, match="does not keep") if refused else nullcontext():
        Criterion.model_validate({"metric": metric, **side})


def test_two_limits_that_exclude_each_other_are_refused() -> None:
    both = [criterion(at_least="90% of baseline"), criterion(at_most=0.5)]
    check_limits(both, {"retain.es": 0.5})
    with pytest.raises(InputError, match=r"both retain\.es ≥ 0\.72 and retain\.es ≤ 0\.5"):
        check_limits(both, {"retain.es": 0.8})


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, math.inf])
def test_what_has_nothing_to_forget_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"objective forget\.es is .* for the model before unlearning"):
        check_objectives(["forget.es", "retain.es"], {"forget.es": value, "retain.es": 0.5})
    check_objectives(["forget.es", "retain.es"], {"forget.es": 1e-3, "retain.es": 0.0})
