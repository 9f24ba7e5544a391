"""Trials, workers, disks and terminals that break under a real sweep: what the user is left with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from driver import command, ended, key, rows, start, sweep, write_spec
from test_faults import children_of, finished_is_kept, wait

pytestmark = pytest.mark.slow

LONG = {"lr": 1e-3, "batch_size": 4, "steps": 40, "evaluate_every": 4}


def one_after_the_other(folder: Path, tiny_folder: Path, data_folder: Path, **sections: object) -> Path:
    """A spec whose trials share one worker, since each asks for both cores."""
    plain = {"method": "ga", "training": LONG, "control": [], "resources": {"cpu": os.cpu_count() or 1}}
    return write_spec(folder / "tiny.yaml", tiny_folder, data_folder, **(plain | sections))


def test_a_trial_that_runs_out_of_memory_or_diverges_is_one_row_and_the_next_in_its_process_is_well(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """A rank of 10^13 asks for a petabyte; a learning rate of 1e25 gives no numbers."""
    spec = one_after_the_other(
        tmp_path,
        tiny_folder,
        data_folder,
        lora={"r": {"choice": [10**13, 4]}},
        training={"lr": {"choice": [1e25, 1e-3]}, "batch_size": 4, "steps": 4, "evaluate_every": 2},
        search={"sampler": "grid", "trials": 4},
    )
    done = sweep(spec, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    last = [row for row in rows(tmp_path / "tiny") if row["state"] != "running" and row["params"]]
    found = {(row["params"]["lora.r"], row["params"]["training.lr"]): row for row in last}
    assert len(found) == len(last) == 4
    for lr in (1e25, 1e-3):
        assert found[10**13, lr]["state"] == "failed"
        assert found[10**13, lr]["reason"].startswith("out of memory: lower ")
    assert found[4, 1e25]["state"] == "failed"
    assert found[4, 1e25]["reason"].startswith("diverged: step ")
    assert found[4, 1e-3]["state"] == "completed"
    for row in last:
        assert bool(row["metrics"]) == (row["state"] == "completed")
        assert row["feasible"] == (row["state"] == "completed")


def test_a_worker_that_dies_every_time_makes_one_failed_row(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """As the kernel does to a process that eats the memory. The sweep goes on to its end and reports."""
    spec = one_after_the_other(tmp_path, tiny_folder, data_folder, search={"sampler": "random", "trials": 1})
    folder = tmp_path / "tiny"
    driver = start(spec, tmp_path)
    killed: set[int] = set()
    deadline = time.monotonic() + 200
    while driver.poll() is None and time.monotonic() < deadline:
        for pid, line in children_of(driver.pid).items():
            if "ray::" in line and "Trainable" in line and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.2)
    _, err = driver.communicate(timeout=100)
    assert driver.returncode == 0, err
    assert len(killed) > 1, "it was started again"
    last = [row for row in rows(folder) if row["trial_id"] == "0000"]
    assert [row["state"] for row in last if row["state"] != "running"] == ["failed"]
    assert "worker process died again and again" in last[-1]["reason"]
    assert (folder / "report.html").exists()


def test_a_disk_that_fills_up_stops_the_sweep_with_the_way_out_and_a_resume_goes_on(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """The journal's name leads to /dev/full for a while, where every write fails as on a full disk."""
    spec = one_after_the_other(tmp_path, tiny_folder, data_folder, search={"sampler": "random", "trials": 2})
    folder = tmp_path / "tiny"
    journal, aside = folder / "evaluations.jsonl", tmp_path / "aside.jsonl"
    driver = start(spec, tmp_path)
    wait(lambda: len(rows(folder)) >= 4, driver)
    (tmp_path / "full").symlink_to("/dev/full")
    os.link(journal, aside)
    (tmp_path / "full").replace(journal)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert "No space left on device" in err
    assert "--resume" in err
    assert "Traceback" not in err
    before = aside.read_bytes()
    assert before.endswith(b"\n")
    aside.replace(journal)
    again = sweep(spec, tmp_path, "--resume")
    assert again.returncode == 0, again.stderr
    finished_is_kept(before.split(b"\n")[:-1], folder)
    assert set(ended(folder)) == {"0000", "0001"}


def test_ctrl_c_on_a_terminal_reaches_every_process_and_still_stops_in_order(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """A terminal sends SIGINT to the whole foreground group, Ray's processes included."""
    spec = one_after_the_other(tmp_path, tiny_folder, data_folder, search={"sampler": "random", "trials": 3})
    folder = tmp_path / "tiny"
    driver = subprocess.Popen(
        command(spec, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    wait(lambda: len(rows(folder)) >= 4, driver)
    os.killpg(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, err
    assert "Traceback" not in err
    assert out.splitlines()[-1] == str(folder / "report.html")
    assert "failed" not in set(ended(folder).values())
    keys = [key(row) for row in rows(folder)]
    assert len(set(keys)) == len(keys)


def test_ctrl_c_before_the_first_trial_leaves_nothing_that_stands_in_the_way(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    spec = one_after_the_other(tmp_path, tiny_folder, data_folder, search={"sampler": "random", "trials": 1})
    driver = start(spec, tmp_path)
    wait(lambda: any("raylet" in line for line in children_of(driver.pid).values()), driver)
    os.kill(driver.pid, signal.SIGINT)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, err
    assert "Traceback" not in err
    again = sweep(spec, tmp_path, *(["--resume"] if (tmp_path / "tiny").exists() else []))
    assert again.returncode == 0, again.stderr


def test_a_model_without_weights_is_bad_input_and_no_traceback(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """The driver reads the tokenizer only; the weights are missed by a worker, and its words reach the user."""
    shutil.copytree(tiny_folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    spec = write_spec(tmp_path / "tiny.yaml", tmp_path / "model", data_folder)
    done = sweep(spec, tmp_path)
    assert done.returncode == 2
    assert str(tmp_path / "model") in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tiny").exists()


def test_a_criterion_on_a_set_that_the_data_lacks_is_bad_input(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    shutil.copytree(data_folder, tmp_path / "data", ignore=shutil.ignore_patterns("general*"))
    control = [{"metric": "general.prob", "at_least": 0.001}]
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, tmp_path / "data", control=control)
    done = sweep(spec, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "general" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tiny").exists()
