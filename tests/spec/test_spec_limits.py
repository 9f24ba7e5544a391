"""search.time_limit, search.max_device_hours and search.stagnation: what they mean and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayul.spec import SpecError, Stagnation, dump_yaml, load_spec, parse_spec

MINIMAL = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"


def search(text: str):  # type: ignore[no-untyped-def]
    return parse_spec(MINIMAL + f"search: {text}").search


def problem(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        search(text)
    (only,) = caught.value.problems
    return str(only)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("90s", 90),
        ("30m", 30 * 60),
        ("2h", 2 * 60 * 60),
        ("1h30m", 90 * 60),
        ("1 h 30 m", 90 * 60),
        ("1.5h", 90 * 60),
        ("1d", 24 * 60 * 60),
        ("2H", 7200),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert search(f"{{time_limit: {text}}}").time_limit == seconds


@pytest.mark.parametrize(
    "text", ["0", "-5", "0m", "30 minutes", "soon", "true", "[1]", "1:30", ".inf", ".nan", "h", '""']
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert problem(f"{{time_limit: {text}}}").startswith("<text>:6: search.time_limit: ")


def test_a_duration_without_a_unit_that_is_known_names_those_that_are() -> None:
    said = problem("{time_limit: 30 minutes}")
    assert '"30 minutes"' in said
    assert "30m" in said.split("hint: ")[1]


def test_nothing_is_limited_by_default() -> None:
    got = parse_spec(MINIMAL).search
    assert (got.time_limit, got.max_device_hours, got.stagnation) == (None, None, None)


@pytest.mark.parametrize("text", ["0", "-1", '"3"', "{float: [1, 2]}"])
def test_device_hours_are_a_number_above_zero(text: str) -> None:
    assert "search.max_device_hours: " in problem(f"{{max_device_hours: {text}}}")


def test_stagnation_in_long_and_in_short() -> None:
    assert search("{stagnation: {trials: 20, growth: 0.05}}").stagnation == Stagnation(trials=20, growth=0.05)
    assert search("{stagnation: 20}").stagnation == Stagnation(trials=20)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{trials: 0}", "search.stagnation.trials"),
        ("{growth: 0.1}", "search.stagnation.trials"),
        ("{trials: 5, growth: -0.1}", "search.stagnation.growth"),
        ("{trials: 5, grwoth: 0.1}", "search.stagnation.grwoth"),
        ("true", "search.stagnation"),
    ],
)
def test_stagnation_refuses(text: str, key: str) -> None:
    assert f": {key}: " in problem(f"{{stagnation: {text}}}")


def test_the_resolved_spec_has_the_same_limits(tmp_path: Path) -> None:
    spec = parse_spec(MINIMAL + "search: {time_limit: 1h30m, max_device_hours: 2.5, stagnation: 12}")
    (tmp_path / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    assert load_spec(tmp_path / "spec.yaml") == spec
