"""Machines whose folders, letters, memory or patience are not what a program expects."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from driver import command, ended, rows, start, sweep, write_spec
from test_faults import children_of, wait

from rayul.sweep.memory import is_memory_pressure

# isort: split
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune.error import TuneError


def small(folder: Path, tiny_folder: Path, data_folder: Path, trials: int = 2, steps: int = 4) -> Path:
    return write_spec(
        folder / "tiny.yaml",
        tiny_folder,
        data_folder,
        training={"lr": 1e-3, "batch_size": 4, "steps": steps, "evaluate_every": 2},
        search={"sampler": "random", "trials": trials},
    )


def run(spec: Path, results: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(spec, results, *flags),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}])
def test_numbers_reach_a_terminal_that_knows_ascii_only(
    locale: dict[str, str], tiny_folder: Path, data_folder: Path
) -> None:
    argv = [
        sys.executable,
        "-m",
        "rayul",
        "evaluate",
        str(tiny_folder),
        "--data",
        str(data_folder),
        "--metrics",
        "prob",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ | locale)
    assert done.returncode == 0, done.stderr
    assert "+-" in done.stdout


def test_output_that_a_full_disk_does_not_take_is_told(tiny_folder: Path, data_folder: Path) -> None:
    argv = [sys.executable, "-m", "rayul", "evaluate", str(tiny_folder), "--data", str(data_folder), "--metrics", "es"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("cannot write the output: No space left on device")


@pytest.mark.slow
def test_a_sweep_with_a_long_temporary_folder_no_home_and_ascii_ends_well(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    long = tmp_path / ("job-" + "x" * 100)
    long.mkdir()
    nowhere = {"HOME": "/proc/nowhere", "TMPDIR": str(long), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = run(small(tmp_path, tiny_folder, data_folder), tmp_path, **nowhere)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "tiny" / "report.html")


@pytest.mark.slow
def test_memory_pressure_is_one_sentence_and_a_resume_goes_on(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """Ray's monitor ends every worker of a node of which more than a thousandth is in use."""
    spec = small(tmp_path, tiny_folder, data_folder, trials=4)
    full = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    for flags in ((), ("--set", "resources.trials_per_gpu=2")):
        done = run(spec, tmp_path, *flags, **full)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "a node ran out of memory" in done.stderr
        assert "--resume" in done.stderr
        assert len(done.stderr.splitlines()) < 12
    again = run(spec, tmp_path, "--resume-if-any")
    assert again.returncode == 0, again.stderr


def test_memory_pressure_is_known_through_all_that_wraps_it() -> None:
    told = "Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: killed due to the node running low on memory."
    lost = RayActorError(error_msg=told)
    assert is_memory_pressure(lost)
    assert is_memory_pressure(OutOfMemoryError("Task was killed"))
    assert is_memory_pressure(RayTaskError("step", "traceback", lost))
    tuned = TuneError("a trial failed")
    tuned.__cause__ = lost
    assert is_memory_pressure(tuned)
    assert not is_memory_pressure(RayActorError(error_msg="Worker exit type: SYSTEM_ERROR"))
    assert not is_memory_pressure(ValueError(told)), "a text of the user's own"
    assert not is_memory_pressure(None)


@pytest.mark.slow
def test_sigterm_before_during_and_after_is_a_stop_without_a_dump(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    spec = small(tmp_path, tiny_folder, data_folder, steps=400)
    folder = tmp_path / "tiny"
    driver = start(spec, tmp_path)
    wait(lambda: any("ray::" in line for line in children_of(driver.pid).values()), driver)
    os.kill(driver.pid, signal.SIGTERM)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, err
    assert "SIGTERM received" not in err
    assert "Traceback" not in err
    assert "--resume-if-any" in out
    driver = start(spec, tmp_path, "--resume-if-any")
    wait(lambda: len(rows(folder)) >= 6, driver)
    os.kill(driver.pid, signal.SIGTERM)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, err
    assert "SIGTERM received" not in err
    assert "--resume" in out
    assert "failed" not in ended(folder).values()
    assert sweep(spec, tmp_path, "--resume").returncode == 0
