"""From a trial's results to rows on disk: how a trial ends, also one that was cut off and started again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from rayul.records import (
    COMPLETED,
    FAILED,
    PRUNED,
    RUNNING,
    Evaluation,
    Journal,
    adapter_folder,
    read_journal,
    to_json,
)
from rayul.sweep import cluster  # noqa: F401  before ray.tune, as everywhere
from rayul.sweep.pruning.scheduler import ControlScheduler
from rayul.sweep.recorder import Recorder
from rayul.sweep.search.searcher import OptunaSearcher, open_study

CONTROL = {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline", "patience": 1}]}
Row = Callable[..., Evaluation]


class Driver:
    """What a driver has in hand, without Tune: results go through scheduler and recorder in Tune's order."""

    def __init__(self, folder: Path, spec: Any, baseline: Evaluation) -> None:
        self.folder, self.spec = folder, spec
        self.journal = Journal(folder / "evaluations.jsonl")
        self.journal.append(baseline)
        self.study = open_study(folder / "study.journal", spec)
        self.searcher = OptunaSearcher(self.study, spec, self.journal, baseline, limit=4)
        self.scheduler = ControlScheduler(spec, baseline.metrics, self.journal)
        self.heard: list[Evaluation] = []
        self.recorder = Recorder(folder, spec, self.journal, baseline, self.scheduler, self.searcher, self.heard.append)

    def begin(self) -> Any:
        config = self.searcher.suggest("")
        return SimpleNamespace(trial_id="", config=config, get_pickled_error=lambda: None)

    def result(self, trial: Any, *rows: Evaluation) -> str:
        report = {"evaluations": [to_json(r) for r in rows]}
        done = rows[-1].state != RUNNING
        decision = "STOP" if done else self.scheduler.on_trial_result(None, trial, report)  # type: ignore[arg-type]
        self.recorder.on_trial_result(0, [trial], trial, report)
        return decision

    def of(self, number: int) -> list[tuple[int, str]]:
        rows = read_journal(self.folder / "evaluations.jsonl")
        return [(r.step, r.state) for r in rows if r.trial_id == f"{number:04d}"]


@pytest.fixture
def driver(tmp_path: Path, make_spec: Callable[..., Any], baseline: Evaluation) -> Driver:
    spec = make_spec(control=CONTROL, training={"lr": {"float": [1e-4, 1e-2]}})
    (tmp_path / "adapters").mkdir()
    return Driver(tmp_path, spec, baseline)


def test_the_row_at_which_a_trial_was_stopped_is_pruned_and_optuna_hears(driver: Driver, row: Row) -> None:
    trial = driver.begin()
    p = trial.config["params"]
    assert driver.result(trial, row(driver.spec, 0, 5, 0.6, 0.48, params=p)) == "CONTINUE"
    assert driver.study.trials[0].state == TrialState.RUNNING
    assert driver.result(trial, row(driver.spec, 0, 10, 0.2, 0.2, params=p)) == "STOP"
    assert driver.of(0) == [(5, RUNNING), (10, PRUNED)]
    assert "retain.es 0.2 < 0.45" in driver.heard[-1].reason
    told = driver.study.trials[0]
    assert told.values == [0.2, 0.2]
    assert list(told.constraints.values()) == [0.0], "it had a solution"


def test_a_trial_that_starts_again_adds_what_is_new(driver: Driver, row: Row) -> None:
    trial = driver.begin()
    p = trial.config["params"]
    first = [row(driver.spec, 0, step, 0.6, 0.48, params=p) for step in (0, 5, 10)]
    for r in [*first, *first, row(driver.spec, 0, 15, 0.5, 0.48, params=p, state=COMPLETED)]:
        driver.result(trial, r)
    assert driver.of(0) == [(0, RUNNING), (5, RUNNING), (10, RUNNING), (15, COMPLETED)]
    assert len(driver.heard) == 4


@pytest.mark.parametrize("state", [FAILED, COMPLETED])
def test_an_ending_where_it_had_gone_on_before_gets_a_row_of_its_own(driver: Driver, row: Row, state: str) -> None:
    """On another device the second attempt may break at a step that the first one passed."""
    trial = driver.begin()
    p = trial.config["params"]
    for step in (1, 2, 3):
        driver.result(trial, row(driver.spec, 0, step, 0.6, 0.48, params=p))
    driver.result(trial, row(driver.spec, 0, 1, 0.6, 0.48, params=p))
    driver.result(trial, Evaluation("0000", 2, params=p, feasible=False, state=state, reason="why"))
    assert driver.of(0) == [(1, RUNNING), (2, RUNNING), (3, RUNNING), (4, state)]
    assert driver.heard[-1].reason == "why"
    assert driver.study.trials[0].state == TrialState.COMPLETE  # told: the solution that it had reached


def test_a_worker_that_dies_too_often_is_one_failed_row(driver: Driver, row: Row) -> None:
    begun, fresh = driver.begin(), driver.begin()
    driver.result(begun, row(driver.spec, 0, 5, 0.79, 0.5, params=begun.config["params"]))
    for trial in (begun, fresh):
        driver.searcher.on_trial_complete("", error=True)  # Tune says so before the callback
        driver.recorder.on_trial_error(0, [trial], trial)
    assert driver.of(0) == [(5, RUNNING), (6, FAILED)]
    assert driver.of(1) == [(0, FAILED)]
    assert "worker process died" in driver.heard[-1].reason
    assert driver.heard[-1].params == fresh.config["params"]
    assert [t.user_attrs["state"] for t in driver.study.trials] == [FAILED, FAILED]
    assert driver.searcher.remaining == 2


def test_adapters_of_ended_trials_stay_only_on_the_front(driver: Driver, row: Row) -> None:
    trials = [driver.begin() for _ in range(3)]
    points = [(0, 5, 0.6, 0.47), (1, 5, 0.5, 0.48), (2, 5, 0.7, 0.46)]  # the second beats the other two
    for number, step, forget, retain in points:
        (driver.folder / "adapters" / f"{number:04d}-{step}-1").mkdir()
        params = trials[number].config["params"]
        driver.result(trials[number], row(driver.spec, number, step, forget, retain, params=params))

    def left() -> list[str]:
        return sorted(p.name for p in (driver.folder / "adapters").iterdir())

    assert left() == ["0000-5-1", "0001-5-1", "0002-5-1"], "those of running trials are theirs"
    (driver.folder / "adapters" / "0000-9-1.tmp").mkdir()
    for number in (0, 1):
        params = trials[number].config["params"]
        driver.result(trials[number], row(driver.spec, number, 10, 0.9, 0.5, params=params, state=COMPLETED))
    assert left() == ["0001-5-1", "0002-5-1"]
    assert adapter_folder(driver.folder, Evaluation("0001", 5)).exists()
