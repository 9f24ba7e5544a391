"""From a trial's results to records on disk: how a trial ends, also one that was cut off and started again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from rayul.errors import RayulError
from rayul.records import (
    COMPLETED,
    FAILED,
    PRUNED,
    Ending,
    Evaluation,
    Journal,
    Record,
    adapter_folder,
    read_journal,
    to_json,
)
from rayul.sweep import connection  # noqa: F401  before ray.tune, as everywhere
from rayul.sweep.pruning.scheduler import PruningScheduler
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
        self.scheduler = PruningScheduler(spec, baseline.metrics, self.journal)
        self.heard: list[Record] = []
        self.recorder = Recorder(folder, spec, self.journal, baseline, self.scheduler, self.searcher, self.heard.append)

    def begin(self) -> Any:
        config = self.searcher.suggest("")
        return SimpleNamespace(trial_id="", config=config, error_file=None)

    def result(self, trial: Any, *rows: Evaluation, ending: Ending | None = None) -> str:
        end = None if ending is None else to_json(ending)
        report = {"evaluations": [to_json(r) for r in rows], "ending": end}
        decision = "STOP" if end else self.scheduler.on_trial_result(None, trial, report)  # type: ignore[arg-type]
        self.recorder.on_trial_result(0, [trial], trial, report)
        return decision

    def of(self, number: int) -> tuple[list[int], str | None]:
        """Steps and state of a trial, on disk."""
        evaluations, endings = read_journal(self.folder / "evaluations.jsonl")
        ending = endings.get(f"{number:04d}")
        steps = [row.step for row in evaluations if row.trial_id == f"{number:04d}"]
        return steps, None if ending is None else ending.state


@pytest.fixture
def driver(tmp_path: Path, make_spec: Callable[..., Any], baseline: Evaluation) -> Driver:
    spec = make_spec(control=CONTROL, training={"lr": {"float": [1e-4, 1e-2]}})
    (tmp_path / "adapters").mkdir()
    return Driver(tmp_path, spec, baseline)


def test_a_trial_that_was_stopped_ends_after_its_last_evaluation_and_optuna_hears(driver: Driver, row: Row) -> None:
    trial = driver.begin()
    p = trial.config["params"]
    assert driver.result(trial, row(driver.spec, 0, 5, 0.6, 0.48, params=p)) == "CONTINUE"
    assert driver.study.trials[0].state == TrialState.RUNNING
    assert driver.result(trial, row(driver.spec, 0, 10, 0.2, 0.2, params=p)) == "STOP"
    assert driver.of(0) == ([5, 10], PRUNED)
    *_, last, ending = driver.heard
    assert isinstance(last, Evaluation)
    assert isinstance(ending, Ending)
    assert (last.step, ending.rule) == (10, "retain.es")
    assert "retain.es 0.2 < 0.45" in ending.reason
    assert (ending.params, ending.seed) == (last.params, last.seed)
    told = driver.study.trials[0]
    assert told.values == [0.2, 0.2]
    assert list(told.constraints.values()) == [0.0], "it had a solution"


def test_a_trial_that_starts_again_adds_what_is_new(driver: Driver, row: Row) -> None:
    trial = driver.begin()
    p = trial.config["params"]
    first = [row(driver.spec, 0, step, 0.6, 0.48, params=p) for step in (0, 5, 10)]
    for r in [*first, *first]:
        driver.result(trial, r)
    last = row(driver.spec, 0, 15, 0.5, 0.48, params=p)
    driver.result(trial, last, ending=last.ended(COMPLETED))
    assert driver.of(0) == ([0, 5, 10, 15], COMPLETED)
    assert len(driver.heard) == 4 + 1


@pytest.mark.parametrize("state", [FAILED, COMPLETED])
def test_an_ending_where_it_had_gone_on_before_adds_no_evaluation(driver: Driver, row: Row, state: str) -> None:
    """On another device the second attempt may break at a step that the first one passed."""
    trial = driver.begin()
    p = trial.config["params"]
    for step in (1, 2, 3):
        driver.result(trial, row(driver.spec, 0, step, 0.6, 0.48, params=p))
    driver.result(trial, row(driver.spec, 0, 1, 0.6, 0.48, params=p))
    rows = [] if state == FAILED else [row(driver.spec, 0, 2, 0.6, 0.48, params=p)]
    driver.result(trial, *rows, ending=Ending("0000", state, "kind", "why", params=p))
    assert driver.of(0) == ([1, 2, 3], state)
    assert driver.heard[-1] == Ending("0000", state, "kind", "why", params=p)
    assert driver.study.trials[0].state == TrialState.COMPLETE  # told: the solution that it had reached


def test_a_trial_ends_once(driver: Driver, row: Row) -> None:
    """A worker may die after its trial's last result."""
    trial = driver.begin()
    last = row(driver.spec, 0, 5, 0.6, 0.48, params=trial.config["params"])
    driver.result(trial, last, ending=last.ended(COMPLETED))
    driver.recorder.on_trial_error(0, [trial], trial)
    assert driver.of(0) == ([5], COMPLETED)
    assert len(driver.heard) == 2
    assert driver.study.trials[0].user_attrs["state"] == COMPLETED


def test_a_worker_that_dies_too_often_is_one_failure(driver: Driver, row: Row) -> None:
    begun, fresh = driver.begin(), driver.begin()
    params = begun.config["params"]
    driver.result(begun, row(driver.spec, 0, 5, 0.79, 0.5, params=params, train_seconds=3.0))
    for trial in (begun, fresh):
        driver.searcher.on_trial_complete("", error=True)  # Tune says so before the callback
        driver.recorder.on_trial_error(0, [trial], trial)
    assert driver.of(0) == ([5], FAILED)
    assert driver.of(1) == ([], FAILED)
    first, second = (driver.journal.endings[trial] for trial in ("0000", "0001"))
    assert "worker process died" in second.reason
    assert first.rule == second.rule == "worker died"
    assert (first.train_seconds, second.train_seconds) == (3.0, 0.0)
    assert (second.params, second.seed) == (fresh.config["params"], 1)
    assert [t.user_attrs["state"] for t in driver.study.trials] == [FAILED, FAILED]
    assert driver.searcher.remaining == 2


def failing(driver: Driver, folder: Path, error: str) -> Any:
    """A trial whose last error Tune has written down."""
    trial = driver.begin()
    trial.error_file = str(folder / f"error-{trial.config['number']}.txt")
    Path(trial.error_file).write_text(f"Failure # 1 (occurred at noon)\nold\nFailure # 2 (occurred at one)\n{error}\n")
    return trial


IN_A_DEVICE = """ray::PackedTrial.train() (pid=7, ip=10.0.0.1)
  File "packed_trial.py", line 42, in step
ray.exceptions.RayTaskError({kind}): ray::DeviceActor.next() (pid=8, ip=10.0.0.1)
  File "device.py", line 120, in next
rayul.sweep.packs.{kind}: {message}
  hint: none"""


def test_an_error_is_told_as_what_it_was(driver: Driver, tmp_path: Path) -> None:
    trial = failing(driver, tmp_path, IN_A_DEVICE.format(kind="ZeroDivisionError", message="by zero: in own.py"))
    driver.recorder.on_trial_error(0, [trial], trial)
    ending = driver.journal.endings["0000"]
    assert (ending.rule, ending.reason) == ("ZeroDivisionError", "ZeroDivisionError: by zero: in own.py")


def test_a_device_that_breaks_for_every_trial_stops_the_sweep_and_one_trial_that_breaks_it_fails(
    driver: Driver, row: Row, tmp_path: Path
) -> None:
    broken = IN_A_DEVICE.format(kind="DeviceBroken", message="the device stopped: RuntimeError: CUDA error: lost")
    first, second, healthy = failing(driver, tmp_path, broken), failing(driver, tmp_path, broken), driver.begin()
    first.trial_id, second.trial_id = "one", "two"
    driver.recorder.on_trial_recover(0, [first], first)
    driver.result(healthy, row(driver.spec, 2, 5, 0.79, 0.5, params=healthy.config["params"]))
    driver.recorder.on_trial_error(0, [first], first)
    assert driver.of(0) == ([], FAILED)
    assert "CUDA error: lost" in driver.journal.endings["0000"].reason
    driver.recorder.on_trial_recover(0, [second], second)
    with pytest.raises(RayulError, match=r"trial 0001 broke again and again: .* CUDA error: lost") as caught:
        driver.recorder.on_trial_error(0, [second], second)
    assert "--resume" in caught.value.hint
    assert driver.of(1) == ([], None)


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
        last = row(driver.spec, number, 10, 0.9, 0.5, params=params)
        driver.result(trials[number], last, ending=last.ended(COMPLETED))
    assert left() == ["0001-5-1", "0002-5-1"]
    assert adapter_folder(driver.folder, Evaluation("0001", 5)).exists()
