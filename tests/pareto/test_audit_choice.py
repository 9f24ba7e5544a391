"""Which points of a front become finalists, and whether their mixing is found anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic import SPEC, baseline, evaluation, write_folder

from rayul.audit.choice import finalists, recalibrates
from rayul.errors import InputError
from rayul.pareto.targets import target_of
from rayul.report import Results, load_results
from rayul.spec import Finalists, parse_spec

ROWS = [
    evaluation("0001", 20, 0.10, 0.865),
    evaluation("0001", 15, 0.20, 0.90),
    evaluation("0002", 30, 0.25, 0.950),
    evaluation("0003", 30, 0.50, 0.955),
    evaluation("0004", 30, 0.70, 0.960),
    evaluation("0005", 30, 0.80, 0.5, params={"method.name": "ga", "lora.r": 4, "training.lr": 1e-3}),
]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return load_results(write_folder(tmp_path, [baseline(), *ROWS]))


def wanted(text: str) -> Finalists:
    spec = parse_spec(f"name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {{lr: 1e-3}}\nfinalists: {text}")
    assert spec.finalists is not None
    return spec.finalists


def points(results: Results, text: str) -> list[tuple[str, int]]:
    return [(e.trial_id, e.step) for e in finalists(results, wanted(text))]


def test_best_are_those_that_forget_most_one_of_each_trial(results: Results) -> None:
    assert points(results, "3") == [("0001", 20), ("0002", 30), ("0003", 30)]
    assert points(results, "99") == [("0001", 20), ("0002", 30), ("0003", 30), ("0004", 30)]


def test_knee_is_the_knee_of_export_and_then_the_next_to_it(results: Results) -> None:
    from rayul.pareto.choose import knee

    first = knee(results.front, results.baseline, results.objectives, results.limit_values)
    assert points(results, "{n: 2, choose: knee}")[0] == (first.trial_id, first.step)
    assert first.trial_id == "0002"


def test_within_a_limit(results: Results) -> None:
    text = "{n: 9, within: {metric: retain.es, at_least: 99% of baseline}}"  # 0.9504
    assert points(results, text) == [("0003", 30), ("0004", 30)]
    with pytest.raises(
        InputError, match=r"no point of the front keeps retain\.es ≥ 0\.9696: it goes from 0\.865 to 0\.96"
    ):
        finalists(results, wanted("{within: {metric: retain.es, at_least: 0.9696}}"))


def test_named_points(results: Results) -> None:
    assert points(results, '{points: ["0001-15", "4"]}') == [("0001", 15), ("0004", 30)]
    with pytest.raises(InputError, match="not on the front"):
        finalists(results, wanted('{points: ["0005"]}'))
    with pytest.raises(InputError, match="does not name a point"):
        finalists(results, wanted('{points: ["0001-x"]}'))


def test_an_empty_front_has_no_finalists(tmp_path: Path) -> None:
    empty = load_results(write_folder(tmp_path, [baseline(), ROWS[-1]]))
    with pytest.raises(InputError, match="nothing to audit"):
        finalists(empty, Finalists())


def test_the_largest_mixing_that_keeps_the_limits_is_found_anew_another_is_fixed(tmp_path: Path) -> None:
    rows = [
        evaluation("0001", 20, 0.1, 0.5, mixing=1.0),
        evaluation("0001", 20, 0.6, 0.95, mixing=0.5),
        evaluation("0001", 20, 0.4, 0.88, mixing=0.75),
        evaluation("0001", 25, 0.3, 0.87, mixing=1.0),
    ]
    results = load_results(write_folder(tmp_path, [baseline(), *rows]))
    assert [recalibrates(results, e) for e in rows[1:]] == [False, True, True]


def test_of_several_targets_a_point_stands_for_the_largest_that_it_keeps(tmp_path: Path) -> None:
    """control.tau: [0.5, 0.9]: the mixing that keeps half and the one that keeps 90% are both calibrated."""
    rows = [
        evaluation("0001", 20, 0.1, 0.4, mixing=1.0),
        evaluation("0001", 20, 0.2, 0.55, mixing=0.75, feasible=True),
        evaluation("0001", 20, 0.5, 0.9, mixing=0.5),
        evaluation("0001", 20, 0.7, 0.95, mixing=0.25),
    ]
    control = "control: {mixing: true, tau: [0.5, 0.9]}\n"
    spec = re.sub(r"control:\n.*\n", control, SPEC)
    results = load_results(write_folder(tmp_path, [baseline(), *rows], spec))
    assert [target_of(results, e) for e in rows] == [None, 0.5, 0.9, 0.9]
    assert [recalibrates(results, e) for e in rows[1:]] == [True, True, False]
