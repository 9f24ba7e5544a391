"""Choosing a point of a front: conditions, the knee, a named trial, and the way out when there is no adapter."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import BASE, OBJECTIVES, SPEC, baseline, evaluation, sweep, write_folder
from test_pareto_summary import export

from rayul.cli.documents import PointPart
from rayul.errors import InputError
from rayul.pareto.best import best_of, best_of_trials
from rayul.pareto.choose import adapter_path, best_at, knee, named, rerun, scores_for_knee
from rayul.report import Results, load_results
from rayul.spec import Limit, load_spec


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load_results(write_folder(tmp_path_factory.mktemp("choose") / "s", sweep(40)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("retain.es>=0.95*baseline", Limit("retain.es", True, 95, relative=True)),
        (" retain.es >= 0.95 * baseline ", Limit("retain.es", True, 95, relative=True)),
        ("forget.es<=.2", Limit("forget.es", False, 0.2)),
        ("forget.ppl>=1e3", Limit("forget.ppl", True, 1000.0)),
    ],
)
def test_conditions_are_read(text: str, expected: Limit) -> None:
    assert Limit.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "named_in_error"),
    [
        ("", "condition"),
        ("retain.es", "condition"),
        ("retain.es>=", "condition"),
        ("retain.es>0.9", "'>'"),
        ("retain.es=0.9", "'='"),
        ("retain.es>=high", "'high'"),
        ("retain.es>=90%", "'90%'"),
        ("retain.es>=0.9*oracle", "oracle"),
        ("retain.es>=nan", "'nan'"),
        ("es>=0.9", "'es'"),
        ("retain_report.es>=0.9", "retain_report"),
    ],
)
def test_a_condition_at_fault_is_named_with_the_way_out(text: str, named_in_error: str) -> None:
    with pytest.raises(InputError) as caught:
        Limit.parse(text)
    assert named_in_error in str(caught.value)
    assert "hint" in str(caught.value)


def test_the_best_point_within_a_condition(results: Results) -> None:
    limit = 0.97 * BASE["retain.es"]
    found = best_at(Limit.parse("retain.es>=0.97*baseline"), results.front, results)
    keeping = [e.metrics["forget.es"] for e in results.front if e.metrics["retain.es"] >= limit]
    assert found.metrics["forget.es"] == min(keeping)
    assert found == results.best(at="retain.es >= 0.97*baseline")

    found = results.best(at="forget.es<=0.6")
    keeping = [e.metrics["retain.es"] for e in results.front if e.metrics["forget.es"] <= 0.6]
    assert found.metrics["retain.es"] == max(keeping)


def test_a_condition_may_be_on_rows_that_were_read_at_the_end_alone(tmp_path: Path) -> None:
    points = [evaluation(f"{i:04d}", 5, forget, 0.9) for i, forget in enumerate((0.2, 0.4, 0.6))]
    points = [replace(e, metrics={k: v for k, v in e.metrics.items() if k != "general.es"}) for e in points]
    points = [replace(e, metrics=e.metrics | {"retain.es": 0.88 + i / 50}) for i, e in enumerate(points)]
    folder = write_folder(tmp_path / "s", [baseline(), *points])
    for e, general in zip(points, (0.3, 0.7, 0.8), strict=True):
        path = export(folder, e) / "rayul.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"report_metrics": {"general.es": general}}))
    results = load_results(folder)
    assert results.best() == points[0]
    assert results.best(at="general.es>=0.6") == points[1]
    point = PointPart.of(points[1], results)
    assert (point.metrics["general.es"], point.metrics["retain.es"]) == (0.7, points[1].metrics["retain.es"])


def test_a_condition_that_no_point_keeps_says_what_there_is(results: Results) -> None:
    best = max(e.metrics["retain.es"] for e in results.front)
    with pytest.raises(InputError, match=f"to {best:.4g}"):
        results.best(at="retain.es>=2*baseline")
    with pytest.raises(InputError, match=r"baseline has no retain\.mink"):
        results.best(at="retain.mink>=0.5*baseline")
    with pytest.raises(InputError, match=r"it has no general\.prob"):
        results.best(at="general.prob>=0.5")


def test_the_knee_is_farthest_from_the_line_between_the_extremes() -> None:
    forgets, retains = [0.1, 0.2, 0.3, 0.6, 0.8], [0.87, 0.90, 0.94, 0.95, 0.955]
    front = [evaluation(f"{i:04d}", 5, f, r) for i, (f, r) in enumerate(zip(forgets, retains, strict=True))]
    points = np.stack([1 - np.array(forgets) / BASE["forget.es"], np.array(retains) / BASE["retain.es"]], axis=1)
    scaled = (points - points.min(0)) / (points.max(0) - points.min(0))
    along = scaled[-1] - scaled[0]
    distances = np.abs(along[0] * (scaled - scaled[0])[:, 1] - along[1] * (scaled - scaled[0])[:, 0])
    assert knee(front, baseline(), OBJECTIVES, {}) == front[int(distances.argmax())]
    assert knee(front[:1], baseline(), OBJECTIVES, {}) == front[0]
    assert knee(front[:2], baseline(), OBJECTIVES, {}) == front[0]
    with pytest.raises(InputError, match="empty"):
        knee([], baseline(), OBJECTIVES, {})


def test_scores_for_the_knee_span_the_front_in_each_objective() -> None:
    front = [evaluation("0000", 5, 0.3, 0.88), evaluation("0001", 5, 0.5, 0.91), evaluation("0002", 5, 0.6, 0.95)]
    scores = scores_for_knee(front, baseline(), OBJECTIVES, {})
    assert scores.min(0).tolist() == [0, 0]
    assert scores.max(0).tolist() == [1, 1]
    flat = [evaluation("0000", 5, 0.3, 0.9), evaluation("0001", 5, 0.5, 0.9)]
    assert scores_for_knee(flat, baseline(), OBJECTIVES, {}).tolist() == [[1, 0], [0, 0]]


def test_the_best_of_each_trial_is_its_solution_that_forgot_most_at_a_tie_the_first(tmp_path: Path) -> None:
    rows = [(5, 0.7, 0.95), (10, 0.5, 0.93), (15, 0.5, 0.92), (20, 0.6, 0.91), (25, 0.2, 0.5)]
    trial = [evaluation("0003", *row) for row in rows]
    results = load_results(write_folder(tmp_path / "s", [baseline(), *trial]))
    ((name, (best, gone)),) = best_of_trials(results).items()
    assert (name, best) == ("0003", trial[1])
    assert gone == pytest.approx(1 - 0.5 / BASE["forget.es"])
    spec = SPEC.replace("forget.es: minimize, ", "")
    results = load_results(write_folder(tmp_path / "t", [baseline(), *trial], spec))
    ((best, gone),) = best_of_trials(results).values()
    assert best == trial[3], "nothing says how much was forgotten, so the last one"
    assert np.isnan(gone)


def test_a_point_without_the_forget_metric_does_not_change_what_best_means(tmp_path: Path) -> None:
    """Within limits the most forgotten counts, not the product with the utility above the limit."""
    points = [
        evaluation("0000", 5, 0.1, 0.9 * BASE["retain.es"]),
        evaluation("0001", 5, 0.5, 0.94),
        evaluation("0002", 5, float("nan"), 0.95),
    ]
    results = load_results(write_folder(tmp_path / "s", [baseline(), *points]))
    assert best_of(points, results) == points[0]


def test_a_trial_is_named_with_or_without_zeros_and_step(results: Results) -> None:
    point = results.front[0]
    assert named(results, results.front, point.trial_id) == point
    assert named(results, results.front, point.trial_id.lstrip("0") or "0", point.step) == point


def test_errors_about_names_say_what_there_is(results: Results) -> None:
    with pytest.raises(InputError, match="no trial 4711"):
        named(results, results.front, "4711")
    with pytest.raises(InputError, match="not evaluated at step 7"):
        named(results, results.front, results.front[0].trial_id, 7)


def test_a_point_off_the_front_is_named_with_six_of_the_front_and_what_can_be_trained_again(tmp_path: Path) -> None:
    front = [evaluation(f"{i:04d}", 5, 0.1 + i / 20, 0.88 + i / 100) for i in range(8)]
    params = {"method.name": "ga", "lora.r": 4, "training.lr": 1e-3}
    off = [evaluation("0009", 1, 0.9, 0.87, params=params), evaluation("0009", 5, 0.8, 0.87, metrics={}, params=params)]
    start = [
        evaluation("0010", 0, 0.98, 0.96, params=params),
        evaluation("0010", 5, 0.8, 0.9, metrics={}, params=params),
    ]
    gone = SPEC.replace("data: testbed", "data: {forget: gone.jsonl, retain: gone.jsonl}")
    results = load_results(write_folder(tmp_path / "s", [baseline(), *front, *off, *start], gone))
    assert len(results.front) == 8
    with pytest.raises(InputError, match="trial 0009 is not on the front") as caught:
        named(results, results.front, "9")
    assert caught.value.hint.count("--trial ") == 6
    assert "training.steps=1 " in caught.value.hint, "its last evaluation has no metrics"
    with pytest.raises(InputError, match="trial 0009 at step 1 is not on the front"):
        named(results, results.front, "9", 1)
    with pytest.raises(InputError, match="trial 0009 at step 5 is not on the front") as caught:
        named(results, results.front, "9", 5)
    assert "training.steps=5 " in caught.value.hint, "it has no other"
    with pytest.raises(InputError, match="trial 0010 is not on the front") as caught:
        named(results, results.front, "10")
    assert "training.steps=5 " in caught.value.hint, "at step 0 nothing was trained"


@pytest.mark.parametrize("feasible", [True, False])
def test_a_point_off_the_front_is_had_by_a_command_that_the_spec_accepts(results: Results, feasible: bool) -> None:
    on_front = {e.key for e in results.front}
    off = next(
        e
        for rows in results.trials.values()
        for e in rows
        if e.step > 10 and e.metrics and e.feasible is feasible and e.key not in on_front
    )
    with pytest.raises(InputError) as caught:
        named(results, results.front, off.trial_id, off.step)
    command = rerun(results, off)
    assert command in str(caught.value)
    assert f"--trial {results.front[0].trial_id}" in str(caught.value)

    words = shlex.split(command)
    assert words[:2] == ["rayul", "sweep"]
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    spec = load_spec(words[2], overrides)
    assert not spec.space
    assert (spec.training.steps, spec.training.evaluate_every, spec.search.seed) == (off.step, off.step, off.seed)
    assert (spec.training.lr, spec.lora.r) == (off.params["training.lr"], off.params["lora.r"])
    assert spec.method.name == off.params["method.name"]
    assert bool(spec.control.criteria) is feasible


def test_a_missing_adapter_is_named(results: Results) -> None:
    point = results.front[0]
    with pytest.raises(InputError, match=f"{point.trial_id}-{point.step}-1: no adapter"):
        adapter_path(results, point)
    folder = results.folder / "adapters" / f"{point.trial_id}-{point.step}-1"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    assert adapter_path(results, point) == folder


def test_nothing_to_choose_from(tmp_path: Path) -> None:
    empty = load_results(write_folder(tmp_path / "s", [baseline()]))
    with pytest.raises(InputError, match="empty"):
        empty.best()
