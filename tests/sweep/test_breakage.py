"""Trials, workers, disks and terminals that break under a real sweep: what the user is left with."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from driver import command, ended, endings, key, rows, start, sweep, write_spec
from test_faults import children_of, finished_is_kept, wait

pytestmark = pytest.mark.slow

LONG = {"lr": 1e-3, "batch_size": 4, "steps": 40, "evaluate_every": 4}


def one_after_the_other(folder: Path, tiny_folder: Path, data_folder: Path, **sections: object) -> Path:
    """A spec whose trials share one worker, since each asks for both cores."""
    plain = {"method": "ga", "training": LONG, "control": [], "resources": {"cpu": os.cpu_count() or 1}}
    return write_spec(folder / "tiny.yaml", tiny_folder, data_folder, **(plain | sections))


def test_a_trial_that_runs_out_of_memory_or_diverges_fails_and_the_next_in_its_process_is_well(
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
    ends = endings(tmp_path / "tiny")
    found = {(end["params"]["lora.r"], end["params"]["training.lr"]): end for end in ends.values()}
    assert len(found) == len(ends) == 4
    for lr in (1e25, 1e-3):
        assert found[10**13, lr]["state"] == "failed"
        assert found[10**13, lr]["reason"].startswith("out of memory: lower ")
    assert found[4, 1e25]["state"] == "failed"
    assert found[4, 1e25]["reason"].startswith("diverged: step ")
    assert found[4, 1e-3]["state"] == "completed"
    assert {end["rule"] for end in ends.values()} == {"out of memory", "diverged", ""}
    steps = {trial: [row["step"] for row in rows(tmp_path / "tiny") if row["trial_id"] == trial] for trial in ends}
    for trial, end in ends.items():
        assert steps[trial] == ([0, 2, 4] if end["state"] == "completed" else [0] if end["rule"] == "diverged" else [])


def test_a_worker_that_dies_every_time_makes_one_failure(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> None:
    """As the kernel does to a process that eats the memory. The sweep goes on to its end, reports, and says that no
    trial was well."""
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
    assert driver.returncode == 1, err
    assert "the only trial that ended failed: its worker process died again and again" in err
    assert "Traceback" not in err
    assert len(killed) > 1, "it was started again"
    assert ended(folder) == {"0000": "failed"}
    assert "worker process died again and again" in endings(folder)["0000"]["reason"]
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


HANGS = """
from rayul.unlearn.losses import mean_nll


def hangs(forget, retain, idk, *, hang: bool = False):
    if hang:
        sum(range(10**15))  # in C, with the interpreter's lock held: no Python thread runs any more
    return -mean_nll(forget)
"""


def test_a_trial_that_hangs_fails_by_its_time_limit_and_the_others_run(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    (tmp_path / "own.py").write_text(HANGS)
    spec = one_after_the_other(
        tmp_path,
        tiny_folder,
        data_folder,
        method={"name": f"{tmp_path / 'own.py'}:hangs", "hang": {"choice": [True, False]}},
        search={"sampler": "grid", "trials": 2, "trial_time_limit": "60s"},
        resources={"cpu": os.cpu_count() or 1, "packs": False},
    )
    done = sweep(spec, tmp_path)
    assert done.returncode == 0, done.stderr
    last = {end["params"]["method.hang"]: end for end in endings(tmp_path / "tiny").values()}
    assert last[True]["state"] == "failed"
    assert "took longer than search.trial_time_limit of 60 s" in last[True]["reason"]
    assert last[False]["state"] == "completed"
    assert last[True]["rule"] == "search.trial_time_limit"
    assert sorted(ended(tmp_path / "tiny").values()) == ["completed", "failed"]


HANGS_ONCE = """
from pathlib import Path
from rayul.unlearn.losses import mean_nll

def hangs(forget, retain, idk):
    if not (mark := Path(__file__).with_name("hung")).exists():
        mark.touch()
        sum(range(10**15))
    return -mean_nll(forget)
"""


def test_a_device_that_hangs_ends_too_and_the_next_trials_have_a_new_one(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """In a pack the whole device hangs with the trial, and with it those that began together with it."""
    (tmp_path / "own.py").write_text(HANGS_ONCE)
    spec = one_after_the_other(
        tmp_path,
        tiny_folder,
        data_folder,
        method={"name": f"{tmp_path / 'own.py'}:hangs"},
        training={"lr": 1e-3, "batch_size": 4, "steps": 4, "evaluate_every": 2},
        search={"sampler": "random", "trials": 4, "trial_time_limit": "40s"},
        resources={"cpu": os.cpu_count() or 1, "trials_per_gpu": 2},
    )
    done = sweep(spec, tmp_path)
    assert done.returncode == 0, done.stderr
    states = ended(tmp_path / "tiny")
    assert set(states) == {"0000", "0001", "0002", "0003"}, done.stderr
    assert 1 <= list(states.values()).count("failed") <= 2
    assert states["0002"] == states["0003"] == "completed"


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long offset(void) {
    char text[32] = "0";
    FILE *file = fopen(getenv("CLOCK_OFFSET"), "r");
    if (file) { if (!fgets(text, sizeof text, file)) text[0] = '0'; fclose(file); }
    return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && id == CLOCK_REALTIME) now->tv_sec += offset();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec t;
    int failed = clock_gettime(CLOCK_REALTIME, &t);
    if (!failed) { now->tv_sec = t.tv_sec; now->tv_usec = t.tv_nsec / 1000; }
    return failed;
}
time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
"""
"""The clock that can be set, of the processes that load it; the one that cannot stays as it is."""


@pytest.mark.skipif(shutil.which("cc") is None, reason="a C compiler makes the clock that jumps")
def test_a_clock_that_jumps_changes_neither_rows_nor_the_time_that_was_spent(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """A day ahead and then a year back, as everything in the driver, its workers and Ray's own processes sees it."""
    spec = one_after_the_other(
        tmp_path, tiny_folder, data_folder, search={"sampler": "random", "trials": 4, "time_limit": "2h"}
    )
    clock, folder = tmp_path / "clock", tmp_path / "tiny"
    clock.write_text("0")
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    faked = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(clock), "OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen(
        command(spec, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | faked
    )
    for count, jump in ((3, str(24 * 3600)), (14, str(-365 * 24 * 3600))):
        wait(lambda: len(rows(folder)) >= count, driver, 300)  # noqa: B023 (called at once)
        clock.write_text(jump)
    _, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, err
    (run,) = json.loads((folder / "run.json").read_text())["runs"]
    began, ended_at = (datetime.fromisoformat(run[key]) for key in ("began", "ended"))
    assert timedelta(0) < ended_at - began < timedelta(hours=1)
    more = sweep(spec, tmp_path, "--resume", "--trials", "5")
    assert more.returncode == 0, more.stderr
    assert "stopped" not in err + more.stderr
    assert ended(folder) == dict.fromkeys(("0000", "0001", "0002", "0003", "0004"), "completed")
    keys = [key(row) for row in rows(folder)]
    assert len(set(keys)) == len(keys)


def test_an_object_store_that_is_smaller_than_the_rows_is_only_slower(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """Rows of 120 MB through a store of 80 MB; what does not fit goes by the disk."""
    shutil.copytree(data_folder, tmp_path / "data")
    lines = (tmp_path / "data" / "general.jsonl").read_text().splitlines()
    large = [json.loads(line) | {"paraphrased_answer": "x" * (40 << 20)} for line in lines[:3]]
    (tmp_path / "data" / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in large))
    spec = one_after_the_other(
        tmp_path, tiny_folder, tmp_path / "data", search={"sampler": "random", "trials": 2}, resources={"gpu": 0}
    )
    code = f"""
import ray
from pathlib import Path
from rayul.spec import load_spec
from rayul.sweep.run import run_sweep

quiet = {{"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}}
ray.init("local", num_cpus=2, object_store_memory=80 << 20, **quiet)
run_sweep(load_spec({str(spec)!r}), Path({str(tmp_path / "small")!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert ended(tmp_path / "small") == {"0000": "completed", "0001": "completed"}


def test_files_that_end_in_the_middle_are_read_as_far_as_they_are_whole_or_made_again(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """What a machine leaves that loses its power in the middle of a write."""
    spec = one_after_the_other(tmp_path, tiny_folder, data_folder, search={"sampler": "random", "trials": 2})
    folder = tmp_path / "tiny"
    assert sweep(spec, tmp_path).returncode == 0
    before = (folder / "evaluations.jsonl").read_bytes()
    for name in ("evaluations.parquet", "trials.parquet", "pareto.parquet", "pareto.json", "report.html"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    (folder / "evaluations.jsonl").write_bytes(before + b'{"trial_id": "0001", "step": 9')
    with open(folder / "study.journal", "ab") as file:
        file.write(b'{"op_code": 5, "worker_id"')
    for arguments in (["status", str(folder)], ["report", str(folder)]):
        command = [sys.executable, "-m", "rayul", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
    assert pq.read_table(folder / "evaluations.parquet").num_rows == sum(
        b'"step"' in line for line in before.splitlines()
    )
    again = sweep(spec, tmp_path, "--resume", "--trials", "3")
    assert again.returncode == 0, again.stderr
    finished_is_kept(before.split(b"\n")[:-1], folder)
    assert set(ended(folder)) == {"0000", "0001", "0002"}


# --- infrastructure: never the end of a trial -------------------------------------------------------------------------


def packed(folder: Path, tiny_folder: Path, data_folder: Path, trials: int = 4, **resources: object) -> Path:
    """A spec whose trials share one device, in packs of two, long enough to be met in the middle."""
    return one_after_the_other(
        folder,
        tiny_folder,
        data_folder,
        training=LONG | {"lr": {"float": [1e-3, 1e-2], "log": True}},
        search={"sampler": "random", "trials": trials},
        resources={"cpu": os.cpu_count() or 1, "trials_per_gpu": 2} | resources,
    )


def victim(driver: subprocess.Popen[str], name: str) -> int:
    """The process of a driver whose command line has this in it."""
    (pid,) = [pid for pid, line in children_of(driver.pid).items() if name in line]
    return pid


def complete(folder: Path, trials: int) -> None:
    """Every trial is there to its last step, each row once."""
    assert ended(folder) == {f"{n:04d}": "completed" for n in range(trials)}
    keys = [key(row) for row in rows(folder)]
    assert len(set(keys)) == len(keys)
    for trial in ended(folder):
        assert [row["step"] for row in rows(folder) if row["trial_id"] == trial] == list(range(0, 41, 4))


@pytest.mark.parametrize("packs", [True, False], ids=["in packs", "alone"])
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a small disk needs root and unshare")
def test_adapters_that_cannot_be_written_stop_the_sweep_and_a_resume_goes_on(
    packs: bool, tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """adapters/ is a disk of one page, as this driver and its workers see it."""
    spec = packed(tmp_path, tiny_folder, data_folder, trials=2, packs=packs)
    folder = tmp_path / "tiny"
    (folder / "adapters").mkdir(parents=True)
    small = f"mount -t tmpfs -o size=4k tmpfs {folder / 'adapters'} && exec {shlex.join(command(spec, tmp_path))}"
    small_disk = ["unshare", "-m", "sh", "-c", small]
    done = subprocess.run(small_disk, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 1, done.stderr
    assert f"cannot write {folder / 'adapters'}/" in done.stderr
    assert "No space left on device" in done.stderr
    assert "free the disk" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert ended(folder) == {}
    again = sweep(spec, tmp_path, "--resume")
    assert again.returncode == 0, again.stderr
    complete(folder, 2)
    on_front = {
        f"{p['trial_id']}-{p['step']}-{p['mixing']:g}" for p in json.loads((folder / "pareto.json").read_text())
    }
    assert on_front
    assert {path.name for path in (folder / "adapters").iterdir()} == on_front


def test_a_broker_that_dies_is_replaced_as_often_as_that_happens(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """Seven times, which is more often than a trial may fail."""
    spec = packed(tmp_path, tiny_folder, data_folder, checkpoint_every="0.1s")
    folder = tmp_path / "tiny"
    driver = start(spec, tmp_path)
    for _ in range(7):
        enough = len(rows(folder)) + 2
        wait(lambda: len(rows(folder)) >= enough, driver)  # noqa: B023 (called at once)
        # Rows also come of devices that Ray ends a moment later, before the next broker is there.
        wait(lambda: any("ray::Broker" in line for line in children_of(driver.pid).values()), driver)
        os.kill(victim(driver, "ray::Broker"), signal.SIGKILL)
    _, err = driver.communicate(timeout=280)
    assert driver.returncode == 0, err
    assert "the broker of the devices was lost and has been replaced; its " in err
    assert "Traceback" not in err
    complete(folder, 4)


@pytest.mark.parametrize("name", ["gcs_server", "raylet/raylet", "dashboard/agent.py", "runtime_env/agent"])
def test_a_process_of_rays_own_that_dies_ends_the_sweep_with_the_way_on(
    name: str, tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """Ray ends the driver by its own code then, which runs no Python any more."""
    spec = packed(tmp_path, tiny_folder, data_folder, trials=2)
    folder = tmp_path / "tiny"
    driver = start(spec, tmp_path)
    wait(lambda: len(rows(folder)) >= 4, driver)
    os.kill(victim(driver, name), signal.SIGKILL)
    _, err = driver.communicate(timeout=200)
    before = (folder / "evaluations.jsonl").read_bytes().split(b"\n")[:-1]
    if driver.returncode:
        assert f"go on with: rayul sweep {spec} --resume" in err or "Ray lost a process: " in err
        assert "--resume" in err
        assert "Traceback" not in err
        again = sweep(spec, tmp_path, "--resume")
        assert again.returncode == 0, again.stderr
        finished_is_kept(before, folder)
    complete(folder, 2)
