"""Retain-report beside retain-select: limits, gaps, and that a reader of the page cannot miss them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import BASE, SPEC, baseline, evaluation, write_folder
from test_pareto_summary import export
from test_report_page import Page

from rayul.pareto.held_out import HeldOut, held_out, keeps_there, on_report
from rayul.pareto.targets import target_of
from rayul.records import Evaluation
from rayul.report import load_results, summarise
from rayul.spec import Limit

POINTS = [evaluation(f"{i:04d}", 5, 0.3 + i / 10, 0.88 + i / 50) for i in range(3)]


def folder_with(path: Path, reported: list[float], spec: str = SPEC, twin: float = 0.8) -> Path:
    folder = write_folder(path, [baseline(BASE | {"retain_report.es": twin}), *POINTS], spec)
    for e, value in zip(POINTS, reported, strict=True):
        export(folder, e, report=value)
    return folder


def test_a_percentage_of_the_baseline_is_one_of_the_baseline_on_the_same_rows(tmp_path: Path) -> None:
    results = load_results(folder_with(tmp_path / "s", [0.71, 0.73, 0.80]))
    (h,) = held_out(results, POINTS[0])
    assert (h.metric, h.twin, h.value) == ("retain.es", "retain_report.es", 0.71)
    assert (h.select, h.report) == (pytest.approx(0.88 / 0.96), pytest.approx(0.71 / 0.8))
    error = ((0.02 / 0.96) ** 2 + (0.02 / 0.8) ** 2) ** 0.5
    assert h.gap == pytest.approx((0.88 / 0.96 - 0.71 / 0.8) / error)
    assert [held_out(results, e)[0].breaks for e in POINTS] == [True, False, False]  # 0.9 * 0.8 = 0.72

    absolute = load_results(folder_with(tmp_path / "a", [0.71, 0.73, 0.80], SPEC.replace("90% of baseline", "0.75")))
    assert [held_out(absolute, e)[0].breaks for e in POINTS] == [True, True, False]


def test_of_several_targets_each_is_judged_on_retain_report_by_its_own_limit(tmp_path: Path) -> None:
    """Shares 0.95, 0.92 and 0.5 of 0.96 are 0.912, 0.8832 and 0.48 there, and 0.76, 0.736 and 0.4 of 0.8."""
    control = "control: {tau: [0.5, 0.92, 0.95]}\n"
    spec = SPEC[: SPEC.index("control:")] + control + SPEC[SPEC.index("search:") :]
    summary = summarise(folder_with(tmp_path / "s", [0.75, 0.73, 0.77], spec))
    results = load_results(tmp_path / "s")
    assert [target_of(results, e) for e in POINTS] == [0.5, 0.92, 0.95]
    assert [held_out(results, e)[0].breaks for e in POINTS] == [False, True, False]
    checks = {c.title: (c.verdict, c.sentence) for c in summary.checks}
    for share, verdict, kept in (("95.0%", "good", 1), ("92.0%", "problem", 0), ("50.0%", "good", 1)):
        found, sentence = checks[f"Does the target of {share} of retain.es hold on retain-report?"]
        assert (found, sentence[:50]) == (verdict, f"It holds for {kept} of 1 exported point with this target."[:50])
    at_baseline = [c.sentence for c in summary.checks if c.title == "Does the baseline keep the criteria?"]
    assert [sum(f"≥ {0.96 * share:.4g}" in one for one in at_baseline) for share in (0.95, 0.92, 0.5)] == [1, 1, 1]
    # 0.92 lies 0.008 above its own limit, with an error of 0.02; from 0.48 all are far.
    (close,) = [c.sentence for c in summary.checks if "within noise" in c.title and "0.912" in c.sentence]
    assert close.startswith("Yes: 1 of 3 front points lies")


def test_what_was_not_measured_is_not_judged(tmp_path: Path) -> None:
    results = load_results(write_folder(tmp_path / "s", [baseline(), *POINTS]))
    assert held_out(results, POINTS[0]) == []
    spec = SPEC[: SPEC.index("control:")] + "control: []\n" + SPEC[SPEC.index("search:") :]
    results = load_results(folder_with(tmp_path / "free", [0.1, 0.1, 0.1], spec))
    assert held_out(results, POINTS[0])[0].breaks is None


def test_every_limit_of_a_metric_and_every_metric_has_to_hold_there(tmp_path: Path) -> None:
    """Of retain.es a floor and a ceiling, and of retain.prob, which is no objective, an upper limit."""
    limits = (
        "[{metric: retain.es, at_least: 0.7}, {metric: retain.es, at_most: 0.75}, {metric: retain.prob, at_most: 0.5}]"
    )
    spec = SPEC[: SPEC.index("control:")] + f"control: {limits}\n" + SPEC[SPEC.index("search:") :]
    points = [
        evaluation(
            "0000", 5, 0.3, 0.72, metrics={"forget.es": 0.3, "retain.es": 0.72, "retain.prob": 0.4}, feasible=True
        )
    ]
    for i, (es, prob, breaks) in enumerate(
        ((0.73, 0.45, [False, False]), (0.78, 0.6, [True, True]), (0.73, 0.6, [False, True]))
    ):
        folder = write_folder(tmp_path / str(i), [baseline(BASE | {"retain_report.es": 0.71}), *points], spec)
        path = export(folder, points[0], report=es) / "rayul.json"
        note = json.loads(path.read_text())
        path.write_text(json.dumps(note | {"report_metrics": {"retain_report.es": es, "retain_report.prob": prob}}))
        results = load_results(folder)
        assert [h.breaks for h in held_out(results, points[0])] == breaks
        assert keeps_there(results, points[0]) is not any(breaks)


def test_a_value_of_zero_below_an_upper_limit_has_no_error_on_the_turned_scale(tmp_path: Path) -> None:
    """retain.prob is no objective and its limit an upper one, so it counts as baseline / value: without bound at 0."""
    spec = SPEC[: SPEC.index("control:")] + "control: [{metric: retain.prob, at_most: 0.5}]\n"
    spec += SPEC[SPEC.index("search:") :]
    metrics = {"forget.es": 0.3, "retain.es": 0.72, "retain.prob": 0.0}
    point = evaluation("0000", 5, 0.3, 0.72, metrics=metrics, stderr=dict.fromkeys(metrics, 0.01), feasible=True)
    for twin, report in ((0.83, 0.0), (0.0, 0.4)):
        folder = write_folder(tmp_path / str(twin), [baseline(BASE | {"retain_report.prob": twin}), point], spec)
        path = export(folder, point, report=0.7) / "rayul.json"
        note = json.loads(path.read_text()) | {"report_metrics": {"retain_report.prob": report}}
        path.write_text(json.dumps(note | {"report_stderr": {"retain_report.prob": 0.02}}))
        (h,) = held_out(load_results(folder), point)
        assert (h.metric, h.value, h.breaks) == ("retain.prob", report, False)
        assert math.isinf(h.select)
        assert math.isnan(h.select_error)
        assert math.isnan(h.report_error)


def test_an_infinite_baseline_leaves_nothing_to_take_a_percentage_of() -> None:
    limit = Limit("retain.ppl", False, 120, relative=True)
    assert on_report(limit, baseline({"retain.ppl": 3.0, "retain_report.ppl": 2.0})) is not None
    assert on_report(limit, baseline({"retain.ppl": float("inf")})) is None


def test_without_errors_there_is_no_gap_in_errors() -> None:
    exact = HeldOut("retain.es", "retain_report.es", 0.6, 0.0, 0.9, 0.8, 0.0, 0.0, None)
    assert exact.gap != exact.gap
    assert replace(exact, select_error=0.03, report_error=0.04).gap == pytest.approx(2)


def test_a_limit_that_does_not_hold_there_is_the_headline(tmp_path: Path) -> None:
    summary = summarise(folder_with(tmp_path / "s", [0.6, 0.74, 0.80]))
    text = re.sub(r"\s+", " ", Page(summary.report).text)
    assert "69% forgotten, but the limit does not hold on unseen rows." in text
    assert "keeps 75.0% of retain.es against 91.7% on retain-select: the limit does not hold there." in text
    assert "The cause of the difference was not measured" in text
    assert "strongest point that keeps the limit on both sets is trial 0001 at step 5, with 59.2% forgotten" in text
    assert "0.600 ± 0.020" in text  # in the table
    checks = {c.title: c for c in summary.checks}
    held = checks["Does the limit of retain.es hold on retain-report?"]
    assert (held.verdict, held.sentence[:38]) == ("warning", "It holds for 2 of 3 exported points. T")
    agree = checks["Does retain_report.es agree with retain.es?"]
    assert "keeps 75.0% on retain-report against 91.7% on retain-select" in agree.sentence


def test_a_limit_that_holds_there_is_said_without_alarm(tmp_path: Path) -> None:
    summary = summarise(folder_with(tmp_path / "s", [0.74, 0.76, 0.80]))
    html = Page(summary.report)
    text = re.sub(r"\s+", " ", html.text)
    assert "69% forgotten within the limits." in text
    assert "keeps 92.5% of retain.es against 91.7% on retain-select." in text
    assert not any(attrs.get("class") == "broken" for _, attrs in html.tags)
    verdicts = {c.title: c.verdict for c in summary.checks}
    assert verdicts["Does the limit of retain.es hold on retain-report?"] == "good"


def test_the_squares_of_the_chart_are_the_parquet_files_values(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    summary = summarise(folder_with(tmp_path / "s", [0.6, 0.74, 0.80]))
    data = Page(summary.report).data
    (squares,) = (t for t in data["figures"]["front"]["data"] if t["meta"] == "report")
    rows: list[Evaluation] = list(load_results(summary.folder).evaluations)
    table = {r["trial_id"]: r for r in pq.read_table(summary.folder / "pareto.parquet").to_pylist()}
    for row, y in zip(squares["customdata"], squares["y"], strict=True):
        assert y == pytest.approx(table[rows[row].trial_id]["metrics.retain_report.es"] / 0.8, rel=1e-4)
