"""control.tau: what utility has to be kept, as one share, a searched one, or several."""

from __future__ import annotations

from typing import Any

import pytest

from rayul.spec import Limit, SpecError, dump_yaml, limits, parse_spec

TEXT = """\
name: a
model: testbed
data: testbed
method: ga
training: {{lr: 1e-3}}
objectives: {objectives}
control: {{tau: {tau}, mixing: true}}
"""
BOTH = "{forget.es: minimize, retain.es: maximize}"


def spec(tau: str, objectives: str = BOTH) -> Any:
    return parse_spec(TEXT.format(tau=tau, objectives=objectives))


def test_one_share_is_a_criterion_on_each_utility_objective() -> None:
    found = spec("0.55", "{forget.es: minimize, retain.es: maximize, general.ppl: minimize}")
    assert [(c.metric, c.at_least, c.at_most) for c in found.criteria] == [
        ("retain.es", Limit("retain.es", True, 55, relative=True), None),
        ("general.ppl", None, Limit("general.ppl", False, round(100 / 0.55, 9), relative=True)),
    ]
    base = {"forget.es": 1.0, "retain.es": 0.8, "general.ppl": 11.0}
    assert limits(found.criteria, base) == pytest.approx({"retain.es": 0.44, "general.ppl": 20.0})
    assert found.targets == ()


def test_of_several_the_smallest_judges_and_each_has_its_criteria() -> None:
    found = spec("[0.7, 0.95, 0.5, 0.9]")
    assert found.targets == (0.95, 0.9, 0.7, 0.5)
    assert [c.at_least for c in found.criteria] == [Limit("retain.es", True, 50, relative=True)]
    assert [found.criteria_at(tau)[0].at_least.value for tau in found.targets] == [95, 90, 70, 50]


def test_it_stands_beside_other_criteria() -> None:
    text = TEXT.format(tau="0.9", objectives=BOTH)
    text = text.replace("mixing", "criteria: [{metric: retain.prob, at_least: 0.5}], mixing")
    assert [c.metric for c in parse_spec(text).criteria] == ["retain.prob", "retain.es"]


def test_it_can_be_searched() -> None:
    found = spec("{float: [0.5, 0.95]}")
    assert list(found.space) == ["control.tau"]
    assert limits(found.criteria, {"retain.es": 1.0}) == {}, "it differs from trial to trial"
    assert found.at({"control.tau": 0.7}).criteria[0].at_least == Limit("retain.es", True, 70, relative=True)


@pytest.mark.parametrize("tau", ["0.9", "[0.5, 0.9]", "{choice: [0.5, 0.9]}", "null"])
def test_the_resolved_spec_says_the_same(tau: str) -> None:
    found = spec(tau)
    assert parse_spec(dump_yaml(found.resolved())) == found


@pytest.mark.parametrize(
    ("tau", "objectives", "said"),
    [
        ("0", BOTH, "above 0 and at most 1"),
        ("90", BOTH, "above 0 and at most 1, got 90"),
        ("true", BOTH, "expected a share"),
        ("90%", BOTH, "expected a share"),
        ("[]", BOTH, "no target in the list"),
        ("[0.5, 0.5]", BOTH, "stands twice"),
        ("{choice: [0.5, 2]}", BOTH, "above 0 and at most 1, got 2"),
        ("0.9", "{forget.es: minimize}", "no objective measures utility"),
    ],
)
def test_what_makes_no_sense_is_refused(tau: str, objectives: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(tau, objectives)
    assert "control.tau" in str(refused.value)
    assert said in str(refused.value)
