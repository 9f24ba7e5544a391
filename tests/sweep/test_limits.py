"""What ends a sweep before its last trial: time, device-hours, a front that no longer grows."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rayul.records import COMPLETED, FAILED, RUNNING, Evaluation, Record, read_journal
from rayul.records.manifest import Manifest, Run
from rayul.sweep.budget import Budget, run_begins, run_ends

BASELINE = Evaluation("baseline", 0, metrics={"forget.es": 1.0, "retain.es": 1.0})


def row(trial: int, forget: float, state: str = COMPLETED, step: int = 1, seconds: float = 0.0) -> list[Record]:
    """An evaluation, and unless the trial is running on its ending; of a failure the ending alone."""
    metrics = {"forget.es": forget, "retain.es": 1.0}
    evaluation = Evaluation(f"{trial:04d}", step, metrics=metrics, train_seconds=seconds)
    ending = evaluation.ended(state)
    return [evaluation] if state == RUNNING else [ending] if state == FAILED else [evaluation, ending]


class Fed(Budget):
    def hears(self, records: list[Record]) -> None:
        for record in records:
            self.add(record)


@pytest.fixture
def budget(make_spec: Callable[..., Any]) -> Callable[..., Fed]:
    def make(rows: Any = (), spent: float = 0.0, devices: float = 1.0, **search: Any) -> Fed:
        return Fed(make_spec(search=search), BASELINE, itertools.chain(*rows), spent=spent, devices=devices)

    return make


def test_nothing_ends_a_sweep_without_limits(budget: Callable[..., Fed]) -> None:
    unlimited = budget([row(i, 0.5, seconds=1e9) for i in range(50)], spent=1e9)
    assert (unlimited.exhausted(), unlimited.stagnant()) == ("", "")


def test_time_of_earlier_runs_counts(budget: Callable[..., Fed]) -> None:
    assert budget(spent=3500.0, time_limit="1h").exhausted() == ""
    assert "time_limit of 3600 s" in budget(spent=3600.0, time_limit="1h").exhausted()


def test_device_hours_are_the_latest_seconds_of_each_trial_times_its_share(budget: Callable[..., Fed]) -> None:
    limited = budget(devices=0.25, max_device_hours=2.0)
    limited.hears(row(0, 0.9, RUNNING, step=1, seconds=3600))
    limited.hears(row(0, 0.8, COMPLETED, step=2, seconds=5 * 3600))
    limited.hears(row(1, 0.8, RUNNING, step=1, seconds=2 * 3600))
    limited.add(BASELINE)
    assert limited.device_hours == pytest.approx((5 + 2) * 0.25)
    assert limited.exhausted() == ""
    limited.hears(row(1, 0.8, FAILED, step=2))  # a worker that died knows no seconds
    limited.hears(row(2, 0.8, RUNNING, step=1, seconds=3600))
    assert limited.device_hours == pytest.approx(2.0)
    assert "max_device_hours of 2" in limited.exhausted()


def test_stagnation_counts_ended_trials_without_growth(budget: Callable[..., Fed]) -> None:
    limited = budget(stagnation={"trials": 3, "growth": 0.1})
    said = []
    # hypervolume: 0.5, then within 10% of it for three trials
    for number, forget in enumerate((0.5, 0.49, 0.6, 0.47)):
        limited.hears(row(number, 0.9, RUNNING, step=1))
        limited.hears(row(number, forget, step=2))
        said.append(limited.stagnant())
    assert said[:3] == ["", "", ""]
    assert "0.5000 -> 0.5300 over the last 3 trials" in said[3]
    limited.hears(row(4, 0.2))
    assert limited.stagnant() == ""


def test_failed_trials_count_and_running_ones_do_not(budget: Callable[..., Fed]) -> None:
    limited = budget([row(0, 0.5)], stagnation=2)
    limited.hears(row(1, 0.5, RUNNING))
    limited.hears(row(2, 0.5, RUNNING))
    limited.hears(row(3, 0.5, FAILED))
    assert limited.stagnant() == ""
    limited.hears(row(4, 0.5, FAILED))
    assert limited.stagnant()


def test_a_search_that_has_found_nothing_yet_goes_on(budget: Callable[..., Fed]) -> None:
    assert budget([row(i, 1.0) for i in range(20)], stagnation=5).stagnant() == ""


def test_a_resumed_budget_is_the_one_that_was_stopped(budget: Callable[..., Fed]) -> None:
    rows = [row(i, f, seconds=60.0) for i, f in enumerate((0.5, 0.5, 0.5, 0.5))]
    at_once, grown = budget(rows, stagnation=3), budget(stagnation=3)
    for one in rows:
        grown.hears(one)
    assert at_once.stagnant() == grown.stagnant() != ""
    assert at_once.device_hours == grown.device_hours == pytest.approx(4 / 60)


def test_a_killed_run_lasted_until_its_last_record(tmp_path: Path) -> None:
    journal = tmp_path / "evaluations.jsonl"
    journal.write_text("")
    began = datetime(2026, 1, 1, 12, tzinfo=UTC)
    last = (began + timedelta(minutes=10)).timestamp()
    os.utime(journal, (last, last))
    first = Run(began=began, ended=began + timedelta(minutes=5), stopped="Ctrl-C")
    manifest = run_begins(Manifest(command="rayul", runs=(first, Run(began=began))), journal)
    assert manifest.command == "rayul"
    assert len(manifest.runs) == 3
    assert manifest.runs[0] == first
    assert manifest.runs[1].stopped == "killed"
    ended = run_ends(manifest, "", 60.0)
    assert not ended.runs[2].stopped
    assert ended.runs[2].ended == ended.runs[2].began + timedelta(seconds=60)
    assert ended.seconds(datetime.now(UTC)) == pytest.approx((5 + 10) * 60 + 60, abs=0.01)


def test_a_run_that_goes_on_counts_until_now_and_none_counts_less_than_nothing() -> None:
    began = datetime(2026, 1, 1, 12, tzinfo=UTC)
    set_back = Run(began=began, ended=began - timedelta(days=1))
    manifest = Manifest(runs=(set_back, Run(began=began, ended=began + timedelta(seconds=5)), Run(began=began)))
    assert manifest.seconds(began + timedelta(seconds=30)) == 35


def sweep(spec: Any, folder: Path, resume: bool = False) -> str:
    from rayul.sweep.run import run_sweep

    said = io.StringIO()
    run_sweep(spec, folder, resume=resume, console=Console(file=said, width=200))
    return said.getvalue()


def runs(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "run.json").read_text())["runs"]
    return found


@pytest.mark.slow
def test_a_sweep_ends_at_its_limit_and_a_resume_counts_on(make_spec: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "limited"
    searched = {"lr": {"float": [1e-3, 1e-2]}}
    resources = {"cpu": os.cpu_count()}  # one trial at a time

    def spec(**search: Any) -> Any:
        return make_spec(training=searched, search={"trials": 4} | search, resources=resources)

    said = sweep(spec(max_device_hours=1e-9), folder)
    assert "stopped: search.max_device_hours" in said
    assert "max_device_hours" in runs(folder)[-1]["stopped"]
    rows, endings = read_journal(folder / "evaluations.jsonl")
    assert 0 < len({r.trial_id for r in rows if not r.is_reference}) < 4
    assert (folder / "report.html").exists()

    assert "stopped: search.max_device_hours" in sweep(spec(max_device_hours=1e-9), folder, resume=True)
    assert read_journal(folder / "evaluations.jsonl") == (rows, endings)

    assert "stopped" not in sweep(spec(), folder, resume=True)
    after, endings = read_journal(folder / "evaluations.jsonl")
    assert after[: len(rows)] == rows
    assert [end.state for end in endings.values()] == [COMPLETED] * 4
    assert len(runs(folder)) == 3
    assert "stopped" not in runs(folder)[-1]


@pytest.mark.slow
def test_a_sweep_ends_when_its_front_stops_growing(make_spec: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "stagnant"
    spec = make_spec(
        training={"lr": {"float": [1e-2, 2e-2]}, "steps": 4},
        objectives={"forget.prob": "minimize", "retain.prob": "maximize"},
        search={"trials": 12, "stagnation": {"trials": 2, "growth": 100.0}},
    )
    said = sweep(spec, folder)
    assert "stopped: search.stagnation" in said
    evaluations, endings = read_journal(folder / "evaluations.jsonl")
    assert 3 <= len(endings) < 12
    assert set(endings) == {r.trial_id for r in evaluations if not r.is_reference}  # what was running ran on to its end
