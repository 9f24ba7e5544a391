"""Machines whose folders, letters, memory or patience are not what a program expects."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from driver import command, ended, rows, start, sweep, write_spec
from test_faults import children_of, wait

from rayul.sweep.losses import is_memory_pressure

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


FULL = """
set -e
mkdir -p {group}
echo $((3 << 30)) > {group}/memory.limit_in_bytes
echo $$ > {group}/cgroup.procs
mount --bind {group} /sys/fs/cgroup/memory
exec {command}
"""
"""A driver whose Ray sees a node of 3 GB: all that it and its processes may take together."""

HOG = """
import time
from pathlib import Path

group, held, seconds = Path({group!r}), [], {seconds}
(group / "cgroup.procs").write_text("0")
limit = int((group / "memory.limit_in_bytes").read_text())
end = time.monotonic() + seconds
while time.monotonic() < end:
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    used = int((group / "memory.usage_in_bytes").read_text()) - int(stat["total_inactive_file"])
    if used < 0.96 * limit:
        held.append(bytearray(b"x" * (20 << 20)))
    time.sleep(0.02)
"""
"""Another process on that node, which keeps it over Ray's threshold of 95%."""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory/memory.limit_in_bytes", os.W_OK), reason="needs cgroups v1")
@pytest.mark.parametrize("slots", [1, 2], ids=["alone", "in packs"])
def test_a_node_that_is_full_for_a_while_in_the_middle_of_a_sweep(
    slots: int, tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """Ray ends the broker and clients, or the processes of the trials. All of them start again."""
    spec = small(tmp_path, tiny_folder, data_folder, trials=3, steps=600)
    group = Path(f"/sys/fs/cgroup/memory/rayul-{os.getpid()}-{slots}")
    sweeping = shlex.join(command(spec, tmp_path, "--set", f"resources.trials_per_gpu={slots}"))
    monitored = os.environ | {"OMP_NUM_THREADS": "1", "RAY_memory_monitor_refresh_ms": "100"}
    driver = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", FULL.format(group=group, command=sweeping)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=monitored,
    )
    wait(lambda: len(rows(tmp_path / "tiny")) >= 6, driver)
    born_before = set(children_of(driver.pid))
    subprocess.run([sys.executable, "-c", HOG.format(group=str(group), seconds=3)], check=True, timeout=60)
    assert born_before - set(children_of(driver.pid)), "Ray has ended nothing"
    _, err = driver.communicate(timeout=250)
    group.rmdir()
    assert driver.returncode == 0, err
    assert "Traceback" not in err
    assert len({(r["trial_id"], r["step"]) for r in rows(tmp_path / "tiny")}) == len(rows(tmp_path / "tiny"))
    assert len(ended(tmp_path / "tiny")) == 3
    assert set(ended(tmp_path / "tiny").values()) <= {"completed", "pruned"}


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


def _has_child(pid: int, name: str) -> bool:
    return any(name in line for line in children_of(pid).values())


@pytest.mark.slow
def test_sigterm_before_during_and_after_is_a_stop_without_a_dump(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    spec = small(tmp_path, tiny_folder, data_folder, steps=400)
    folder = tmp_path / "tiny"
    for seen in (
        "ray::DashboardAgent",
        "ray::_with_threads",
    ):  # as Ray starts; as the baseline is measured
        driver = start(spec, tmp_path)
        wait(partial(_has_child, driver.pid, seen), driver)
        os.kill(driver.pid, signal.SIGTERM)
        out, err = driver.communicate(timeout=120)
        assert driver.returncode == 130, err
        assert "SIGTERM received" not in err
        assert "Traceback" not in err
        assert "--resume-if-any" in out or "nothing was begun; begin with: rayul sweep" in err
    driver = start(spec, tmp_path, "--resume-if-any")
    wait(lambda: len(rows(folder)) >= 6, driver)
    os.kill(driver.pid, signal.SIGTERM)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, err
    assert "SIGTERM received" not in err
    assert "--resume" in out
    assert "failed" not in ended(folder).values()
    assert sweep(spec, tmp_path, "--resume").returncode == 0
