"""Gradient rules in a spec: their settings count where they are drawn, and what older specs wrote for them is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayul.spec import Choice, Float, SpecError, dump_yaml, heaviest, load_spec, parse_spec
from rayul.spec.gradients import OWNER

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"
SEARCHED = "{name: {choice: [ga, gd]}, gradient: {choice: [plain, gru, sam]}, sam_rho: {float: [0.01, 0.1]}}"


def spec(method: str) -> Any:
    return parse_spec(f"{{name: a, model: testbed, data: testbed, method: {method}, training: {{lr: 1e-3}}}}")


def test_settings_are_those_of_the_rules_that_may_be_chosen() -> None:
    assert spec("ga").method.parameters == {"gradient": "plain"}
    assert spec("{name: ga, gradient: sam}").method.parameters == {"gradient": "sam", "sam_rho": 0.05}
    searched = spec(SEARCHED)
    assert searched.method.gradients == ("plain", "gru", "sam")
    assert searched.method.parameters["gru_gamma"] == 0.8
    assert parse_spec(dump_yaml(searched.resolved())) == searched


def test_a_setting_is_active_where_its_rule_was_drawn() -> None:
    searched = spec(SEARCHED)
    keys = ["method.name", "method.gradient", "method.sam_rho"]
    assert list(searched.space) == keys
    assert searched.conditional == ["method.sam_rho"]
    assert [searched.is_active(keys[2], {"method.gradient": rule}) for rule in ("plain", "gru", "sam")] == [0, 0, 1]
    assert spec("{name: ga, gradient: sam, sam_rho: {float: [0.01, 0.1]}}").is_active("method.sam_rho", {})
    params = {"method.name": "ga", "method.gradient": "gru"}
    assert searched.at(params).method.parameters == {"gradient": "gru", "gru_gamma": 0.8}
    with pytest.raises(SpecError, match=r"method\.sam_rho: has no value"):
        searched.at(params | {"method.gradient": "sam"})
    with pytest.raises(SpecError, match=r"method\.gradient: has no value"):
        searched.at({"method.name": "ga"})


def test_the_size_counts_a_rule_with_its_own_settings() -> None:
    grid = "{name: {choice: [ga, gd]}, gradient: {choice: [plain, sam]}, sam_rho: {choice: [0.01, 0.02, 0.05]}}"
    assert spec(grid).size == (2 * (1 + 3), ())


def test_the_heaviest_rule_has_the_most_passes() -> None:
    assert heaviest(spec("{name: ga, gradient: {choice: [plain, sam]}}")) == {"method.gradient": "sam"}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("{name: ga, gru: true}", "{name: ga, gradient: gru}"),
        ("{name: ga, gru: false, gru_gamma: 0.8}", "{name: ga, gru_gamma: 0.8}"),
        ("{name: ga, gru: {choice: [false, true]}}", "{name: ga, gradient: {choice: [plain, gru]}}"),
    ],
)
def test_older_specs_wrote_gru_as_a_switch(older: str, newer: str) -> None:
    assert spec(older) == spec(newer)


def test_what_an_older_sweep_drew_is_read() -> None:
    searched = spec("{name: ga, gru: {choice: [false, true]}}")
    assert searched.at({"method.gru": True}).method.gradients == ("gru",)
    assert searched.at({"method.gru": False}).method.gradients == ("plain",)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("{name: ga, gradient: smam}", "did you mean sam?"),
        ("{name: ga, gradient: sam, sam_rho: 0}", "method.sam_rho: must be"),
        ("{name: ga, gru: 1}", "expected true or false, got 1"),
    ],
)
def test_what_is_wrong_is_said(method: str, said: str) -> None:
    with pytest.raises(SpecError, match=said.replace("?", r"\?")):
        spec(method)


def test_the_shipped_space_searches_every_rule_with_its_settings() -> None:
    shipped = load_spec(SPACES / "gradients.yaml")
    assert isinstance(shipped.space["method.gradient"], Choice)
    assert isinstance(shipped.space["method.sam_rho"], Float)
    assert shipped.conditional == [f"method.{setting}" for setting in OWNER if setting != "latent_layers"]
