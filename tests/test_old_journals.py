"""Journals of versions whose rows carried `state` and `reason`: opened, continued and reported as they were then."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent / "pareto"))
from test_report_page import Page

from rayul.records import BASELINE, COMPLETED, FAILED, PRUNED, UNSTEADY, Ending, Evaluation, Journal, read_journal
from rayul.records.folder import load_records
from rayul.report import summarise
from rayul.report.status import pruned_by, read_status, status_lines

ROOT = Path(__file__).resolve().parents[1]
TESTBED = ROOT / "results" / "testbed"


def line(trial: str, step: int, state: str = "running", reason: str = "", **more: Any) -> dict[str, Any]:
    """A row as it was written then."""
    metrics = {} if state == "failed" else {"forget.es": 0.4, "retain.es": 0.8}
    row = {"trial_id": trial, "step": step, "mixing": 1.0, "seed": 3, "params": {"training.lr": 1e-3}}
    row |= {"metrics": metrics, "stderr": {}, "rows": {}, "violation": {}, "feasible": bool(metrics)}
    return row | {"state": state, "reason": reason, "train_seconds": 2.5, "device": "cpu", "numerics": "alone"} | more


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


@pytest.mark.parametrize(
    ("state", "reason", "more", "rule"),
    [
        ("completed", "", {}, ""),
        ("pruned", "retain.es 0.8 < 0.9 (90% of baseline) at step 5", {"violation": {"retain.es": 0.1}}, "retain.es"),
        ("pruned", "b 0 < 1 at step 5", {"violation": {"a": -0.1, "b": "inf", "c": 0.2}}, "b"),
        (
            "pruned",
            "dominance at step 5: with 99.0% of retain.es kept",
            {"violation": {"retain.es": -0.1}},
            "dominance",
        ),
        ("pruned", "budget at step 5: its hypervolume contribution 0.0000", {}, "budget"),
        ("pruned", "calibrated forget.es has not improved for 4 evaluations (best: 0.4 at step 5)", {}, "stall"),
        ("pruned", "somebody else's words", {}, "somebody else's words"),
    ],
)
def test_the_last_row_of_a_trial_is_an_evaluation_and_an_ending(
    tmp_path: Path, state: str, reason: str, more: dict[str, Any], rule: str
) -> None:
    path = write(tmp_path / "evaluations.jsonl", [line("0000", 0), line("0000", 5, state, reason, **more)])
    evaluations, endings = read_journal(path)
    assert [e.step for e in evaluations] == [0, 5]
    assert evaluations[-1].metrics == {"forget.es": 0.4, "retain.es": 0.8}
    assert endings == {"0000": Ending("0000", state, rule, reason, 3, {"training.lr": 1e-3}, 2.5)}


@pytest.mark.parametrize(
    ("reason", "rule"),
    [
        ("diverged: step 4: loss nan, gradient norm nan", "diverged"),
        ("out of memory: lower training.batch_size", "out of memory"),
        ("ValueError: no: such layer", "ValueError"),
        ("its worker process died again and again", "its worker process died again and again"),
    ],
)
def test_a_failed_row_is_an_ending_alone(tmp_path: Path, reason: str, rule: str) -> None:
    """Nothing was evaluated there, and its step was one more than any that was taken."""
    lines = [line("0000", 0), line("0000", 5), line("0000", 6, "failed", reason), line("0001", 0, "failed", reason)]
    evaluations, endings = read_journal(write(tmp_path / "evaluations.jsonl", lines))
    assert [(e.trial_id, e.step) for e in evaluations] == [("0000", 0), ("0000", 5)]
    assert {trial: (end.state, end.rule, end.reason) for trial, end in endings.items()} == dict.fromkeys(
        ("0000", "0001"), (FAILED, rule, reason)
    )


def test_what_was_noted_on_a_row_that_ended_nothing_stays_a_note(tmp_path: Path) -> None:
    lines = [line("0000", 5, reason=UNSTEADY), line("0000", 10, "completed", UNSTEADY), line(BASELINE, 0)]
    evaluations, endings = read_journal(write(tmp_path / "evaluations.jsonl", lines))
    assert [e.notes for e in evaluations] == [(UNSTEADY,), (UNSTEADY,), ()]
    assert endings["0000"].reason == ""


def test_a_resume_goes_on_behind_the_old_rows(tmp_path: Path) -> None:
    lines = [line(BASELINE, 0), line("0000", 5, "completed"), line("0001", 0, "failed", "x: y"), line("0002", 5)]
    path = write(tmp_path / "evaluations.jsonl", lines)
    before = path.read_bytes()
    journal = Journal(path)
    assert {trial: end.state for trial, end in journal.endings.items()} == {"0000": COMPLETED, "0001": FAILED}
    repeated, new = journal.of("0002")[0], Evaluation("0002", 10, metrics={"forget.es": 0.3})
    assert journal.append(repeated, new, new.ended(PRUNED, "dominance")) == [new, new.ended(PRUNED, "dominance")]
    assert journal.append(journal.of("0000")[0].ended(FAILED)) == []
    assert path.read_bytes().startswith(before)
    assert list(Journal(path).endings) == ["0000", "0001", "0002"]


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/testbed of the repository, whose tables an earlier version made, as that wrote its journal."""
    lines = []
    for row in pq.read_table(TESTBED / "evaluations.parquet").to_pylist():
        nested: dict[str, Any] = {name: {} for name in ("params", "metrics", "stderr", "violation", "rows")}
        for name, value in row.items():
            group, dot, key = name.partition(".")
            if dot and value is not None:
                nested[group][key] = value
        lines.append({name: value for name, value in row.items() if "." not in name} | nested)
    folder = tmp_path_factory.mktemp("results") / "ga"
    write(folder / "evaluations.jsonl", lines)
    provenance = "\nprovenance: {command: rayul sweep search_spaces/ga.yaml}\n"
    spec = (ROOT / "search_spaces" / "ga.yaml").read_text().replace("mixing: true", "mixing: false")
    (folder / "spec.yaml").write_text(spec.replace("trials: 48", "trials: 64") + provenance)
    return folder


def test_of_a_real_folder_every_trial_ends_as_its_table_says(testbed: Path) -> None:
    then = {row["trial_id"]: row for row in pq.read_table(TESTBED / "trials.parquet").to_pylist()}
    results = load_records(testbed)
    assert len(results.evaluations) == pq.read_metadata(TESTBED / "evaluations.parquet").num_rows
    assert results.states == dict.fromkeys((COMPLETED, PRUNED, FAILED), 0) | Counter(
        row["state"] for row in then.values()
    )
    summarise(testbed)
    now = pq.read_table(testbed / "trials.parquet").to_pylist()
    assert [{name: row[name] for name in then[row["trial_id"]]} for row in now] == list(then.values())


def test_of_a_real_folder_status_and_report_count_as_they_did(testbed: Path) -> None:
    """They told a rule by the criteria that the last row breaks, else by the reason's words up to " at step "."""
    then = pq.read_table(TESTBED / "trials.parquet").to_pylist()
    last = {row["trial_id"]: row for row in pq.read_table(TESTBED / "evaluations.parquet").to_pylist()}
    expected = Counter(
        "retain.es ≥ 0.9" if last[row["trial_id"]]["violation.retain.es"] > 0 else row["reason"].split(" at step ")[0]
        for row in then
        if row["state"] == "pruned"
    )
    assert set(expected) == {"retain.es ≥ 0.9", "dominance"}
    results = load_records(testbed)
    assert pruned_by(results) == expected
    lines = status_lines(read_status(testbed, False))
    for label, count in expected.items():
        assert f"  {count:>4}  {label}" in lines
    assert f"{len(then)}/64 ended" in lines[1]
    text = re.sub(r"\s+", " ", Page(summarise(testbed).report).text)
    for count in expected.values():
        assert f"One of {count} with this reason" in text
