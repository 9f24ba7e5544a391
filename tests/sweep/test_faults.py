"""What a sweep survives, each fault injected for real: kills, stops, two drivers, trials that break."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from driver import born, children_of, ended, key, lines, rows, start, sweep, write_spec

pytestmark = pytest.mark.slow

TRIALS = 12


@pytest.fixture
def spec_file(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> Path:
    """Trials of a second or two, so that a driver can be met in the middle of one."""
    training = {"lr": {"float": [1e-4, 1e-3], "log": True}, "batch_size": 4, "steps": 40, "evaluate_every": 4}
    search = {"sampler": "random", "trials": TRIALS, "seed": 0}
    return write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, training=training, search=search)


def wait(condition: Callable[[], bool], driver: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline, "the sweep does not get there"
        time.sleep(0.02)


@pytest.fixture
def kill() -> Iterator[Callable[[subprocess.Popen[str]], None]]:
    """kill(driver): SIGKILL to the driver alone. Its Ray processes are left as orphans, to disturb if they can; those
    that still live when the test is over are ended by pid."""
    family: dict[int, str] = {}

    def make(driver: subprocess.Popen[str]) -> None:
        family.update({pid: born(pid) for pid in children_of(driver.pid)})
        driver.kill()
        driver.wait(timeout=120)

    yield make
    for pid, birth in family.items():
        if birth and born(pid) == birth:
            os.kill(pid, signal.SIGKILL)


def finished_is_kept(before: list[bytes], folder: Path) -> None:
    """Every whole line is still there, byte for byte and in place, and no key stands twice."""
    after = (folder / "evaluations.jsonl").read_bytes().split(b"\n")[:-1]
    assert after[: len(before)] == before
    keys = [key(row) for row in rows(folder)]
    assert len(set(keys)) == len(keys)
    assert set(ended(folder)) <= {row["trial_id"] for row in rows(folder)}


def test_kill_9_at_ten_moments_loses_and_repeats_nothing(kill: Any, spec_file: Path, tmp_path: Path) -> None:
    """The third moment is within the write of a record. No signal can be timed to hit one, so the line that a kill in
    the middle of it would leave is written by the test: half a row, without its newline."""
    folder = tmp_path / "results" / "tiny"
    journal = folder / "evaluations.jsonl"
    moments = random.Random(0)
    before: list[bytes] = []
    for moment in range(10):
        driver = start(spec_file, tmp_path / "results", *(["--resume"] if moment else []))
        enough = len(rows(folder)) + moments.randint(3, 8)
        wait(lambda: len(rows(folder)) >= enough, driver)  # noqa: B023 (called at once)
        time.sleep(0.3 * moments.random())
        kill(driver)
        finished_is_kept(before, folder)
        before = journal.read_bytes().split(b"\n")[:-1]
        done = set(ended(folder))
        if moment == 2:
            with open(journal, "ab") as file:
                file.write(before[-1].replace(b'"step": ', b'"step": 1')[: len(before[-1]) // 2])
    final = sweep(spec_file, tmp_path / "results", "--resume")
    assert final.returncode == 0, final.stderr
    finished_is_kept(before, folder)
    assert set(ended(folder)) == {f"{n:04d}" for n in range(TRIALS)}
    later = {line["trial_id"] for line in lines(folder)[len(before) :]}
    assert not done & later, "a finished trial has no new rows"
    on_front = {
        f"{p['trial_id']}-{p['step']}-{p['mixing']:g}" for p in json.loads((folder / "pareto.json").read_text())
    }
    assert {path.name for path in (folder / "adapters").iterdir()} == on_front

    undisturbed = sweep(spec_file, tmp_path / "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    other = {key(row): row for row in rows(tmp_path / "undisturbed" / "tiny")}
    mine = {key(row): row for row in rows(folder)}
    assert mine.keys() == other.keys()
    assert ended(folder) == ended(tmp_path / "undisturbed" / "tiny")
    for k, row in mine.items():
        assert row["params"] == other[k]["params"]
        assert row["metrics"] == pytest.approx(other[k]["metrics"], rel=1e-4)


def test_kill_9_while_the_front_is_measured_and_the_next_run_measures_only_the_rest(
    kill: Any, spec_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results" / "tiny"

    def notes() -> dict[str, int]:
        """Of each point that has one, which file it is: whoever measures it again writes another."""
        return {path.parent.name: path.stat().st_ino for path in (folder / "adapters").glob("*/rayul.json")}

    driver = start(spec_file, tmp_path / "results")
    wait(lambda: bool(notes()), driver)
    kill(driver)
    before, points = notes(), {path.name for path in (folder / "adapters").iterdir()}
    assert set(before) < points, "it was killed in the middle"
    final = sweep(spec_file, tmp_path / "results", "--resume")
    assert final.returncode == 0, final.stderr
    assert before.items() <= notes().items(), "what was measured is not measured again"
    assert set(notes()) == points


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_complete_records_a_report_and_a_way_on(
    number: signal.Signals, spec_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results" / "tiny"
    driver = start(spec_file, tmp_path / "results")
    wait(lambda: len(rows(folder)) >= 8, driver)
    os.kill(driver.pid, number)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, err
    assert "--resume" in out
    assert out.splitlines()[-1] == str(folder / "report.html")
    assert (folder / "report.html").exists()
    before = (folder / "evaluations.jsonl").read_bytes()
    assert before.endswith(b"\n")
    final = sweep(spec_file, tmp_path / "results", "--resume")
    assert final.returncode == 0, final.stderr
    finished_is_kept(before.split(b"\n")[:-1], folder)
    assert set(ended(folder)) == {f"{n:04d}" for n in range(TRIALS)}


def test_a_second_driver_on_the_same_folder_is_refused(spec_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "tiny"
    driver = start(spec_file, tmp_path / "results")
    try:
        wait(lambda: len(rows(folder)) >= 3, driver)
        second = sweep(spec_file, tmp_path / "results", "--resume")
        assert second.returncode == 1
        assert "another sweep is writing" in second.stderr
    finally:
        _, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err
    assert set(ended(folder)) == {f"{n:04d}" for n in range(TRIALS)}


def test_a_killed_worker_costs_its_trial_a_new_start_and_no_row(spec_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "tiny"
    driver = start(spec_file, tmp_path / "results")
    wait(lambda: len(rows(folder)) >= 4, driver)
    workers = [pid for pid, line in children_of(driver.pid).items() if "UnlearningTrial" in line or "Trainable" in line]
    assert workers, "the trials run in processes of their own"
    os.kill(workers[0], signal.SIGKILL)
    _, err = driver.communicate(timeout=250)
    assert driver.returncode == 0, err
    states = ended(folder)
    assert set(states) == {f"{n:04d}" for n in range(TRIALS)}
    assert set(states.values()) <= {"completed", "pruned"}
    keys = [key(row) for row in rows(folder)]
    assert len(set(keys)) == len(keys)


def test_logical_gpus_are_shared_as_the_spec_says(spec_file: Path, tmp_path: Path) -> None:
    """Two logical GPUs, two trials each: every trial holds half a GPU, and no more than four run at a time."""
    code = f"""
import ray, threading, time
from pathlib import Path
from rayul.spec import load_spec
from rayul.sweep.run import run_sweep

ray.init("local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
used = set()

def watch():
    while ray.is_initialized():
        used.add(2 - ray.available_resources().get("GPU", 0.0))
        time.sleep(0.05)

threading.Thread(target=watch, daemon=True).start()
spec = load_spec({str(spec_file)!r}, ["resources={{gpu: 1, trials_per_gpu: 2}}", "training.steps=8"])
run_sweep(spec, Path({str(tmp_path / "gpu")!r}))
print(sorted(used))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 GPU, 4 CPU: 4 trials at a time, 0.5 GPU each" in done.stderr
    used = json.loads(done.stdout.splitlines()[-1])
    assert set(used) <= {0, 0.5, 1, 1.5, 2}
    assert used[-1] >= 1, "trials run side by side"
    assert len(ended(tmp_path / "gpu")) == TRIALS
