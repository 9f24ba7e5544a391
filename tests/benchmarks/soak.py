"""A long sweep under fire: its processes are killed at random while it runs.

    python tests/benchmarks/soak.py --minutes 30
    python tests/benchmarks/soak.py --minutes 30 --own-ray

A head without cores and two nodes in this machine, or with --own-ray the Ray that the sweep starts itself; real trials
on the tiny model of the tests. Up to half a minute after the sweep has gone on, something dies by SIGKILL: the driver
(which is started again with --resume), a process that trains or one of its clients, the broker; on the cluster a whole
node (another one joins), and of the sweep's own Ray the GCS or the raylet, after which the driver has to end by itself
and name the way on. With --own-ray, and as root, the results are on a small disk of their own that fills up now and
then: the driver has to stop and say so, and goes on when there is room again. After every kill and at the end: each
whole line of the journal that was there is still there, no key stands twice, no trial that had ended has a new row,
none has failed, and at the end every trial has ended and the certify rows have been read once. Exits 1 where one of
that is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "sweep")]

from conftest import rows_of, small_sets, write_tiny_model  # noqa: E402
from driver import children_of, key, rows, start, sweep, write_spec  # noqa: E402

from rayul.records.certificate import read_certificates  # noqa: E402
from rayul.unlearn.data import FILES, write_rows  # noqa: E402

GROUPS = tuple(f"Author {first}{last}" for first in "ABCD" for last in "xyz")
"""Of the certify rows."""
HEAD = {"num_cpus": 0, "include_dashboard": False}


class Watch:
    """What may never be lost, and what has been found lost or twice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[bytes] = []
        self.ended: dict[str, str] = {}
        self.lost = self.duplicates = self.repeated = self.failed = 0

    def look(self) -> None:
        path = self.folder / "evaluations.jsonl"
        if not path.exists():
            return
        # Read once: a row that came between two readings would look as if it had been written after its trial's end.
        lines = path.read_bytes().split(b"\n")[:-1]
        self.lost += sum(old != new for old, new in zip(self.lines, lines, strict=False))
        self.lost += max(0, len(self.lines) - len(lines))
        found = [json.loads(line) for line in lines]
        self.duplicates += len(found) - len({key(line) if "step" in line else line["trial_id"] for line in found})
        for row in found[len(self.lines) :]:
            if row["trial_id"] in self.ended:
                self.repeated += 1
                print("after the end of its trial:", json.dumps(row)[:300], flush=True)
        now = {line["trial_id"]: line["state"] for line in found if "step" not in line}
        self.lost += sum(now.get(trial) != state for trial, state in self.ended.items())
        self.lines, self.ended = lines, now
        self.failed = list(now.values()).count("failed")


PROCESSES = {
    "worker": ("Trainable", "ray::PackedTrial", "ray::UnlearningTrial"),
    "device": ("ray::Device",),
    "broker": ("ray::Broker",),
    "gcs": ("gcs/gcs_server",),
    "raylet": ("raylet/raylet",),
}
"""What the command line of a victim has in it. (Without one of Ray's own agents a raylet ends, too.)"""


def alive(roots: Iterable[int], name: str) -> list[int]:
    """Descendants of these processes that may be killed under a name."""
    lines = {pid: line for root in roots for pid, line in children_of(root).items()}
    return [pid for pid, line in lines.items() if any(part in line for part in PROCESSES[name])]


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not condition():
        time.sleep(0.3)


def fill(folder: Path) -> Path:
    """A file that takes all that is left of a disk."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def soak(minutes: float, trials: int, seed: int, own_ray: bool, folder: Path) -> bool:
    data = folder / "data"
    data.mkdir()
    for name, some in (small_sets() | {"retain_certify": tuple(rows_of(GROUPS))}).items():
        write_rows(data / FILES[name], some)
    results = folder / "results"
    results.mkdir()
    spec = write_spec(
        folder / "tiny.yaml",
        write_tiny_model(folder / "model"),
        data,
        training={"lr": {"float": [1e-4, 1e-2], "log": True}, "batch_size": 4, "steps": 200, "evaluate_every": 10},
        search={"sampler": "tpe", "trials": trials},
        certify={"points": 5},
        resources={"gpu": 0, "cpu": 1, "trials_per_gpu": 2, "checkpoint_every": "1s"},
    )
    cluster, targets = None, ["driver", "worker", "device", "broker", "gcs", "raylet"]
    if own_ray and os.geteuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(results)], check=True)
        targets.append("disk")
    flags: tuple[str, ...] = ("--resume-if-any",)
    if not own_ray:
        cluster, targets = Cluster(initialize_head=True, head_node_args=HEAD), ["driver", "worker", "device", "node"]
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        flags = ("--address", cluster.address, *flags)
    watch, kills, dice = Watch(results / "tiny"), Counter[str](), random.Random(seed)
    driver: Any = start(spec, results, *flags)
    unasked = silent = 0
    deadline = time.monotonic() + 60 * minutes

    def left() -> float:
        return max(0.0, deadline - time.monotonic())

    while left():
        before = len(rows(watch.folder))
        # Not before the sweep has brought something that could be lost, unless that takes very long.
        wait_for(lambda: len(rows(watch.folder)) > before or driver.poll() is not None, min(240, left()))  # noqa: B023
        wait_for(lambda: driver.poll() is not None, min(dice.uniform(2, 30), left()))  # noqa: B023
        if driver.poll() is not None:
            out, err = driver.communicate()
            watch.look()
            if driver.returncode == 0:
                break
            unasked += 1
            print(f"driver ended by itself with {driver.returncode}:\n{out[-2000:]}\n{err[-4000:]}", flush=True)
            driver = start(spec, results, *flags)
            continue
        target = dice.choice(targets)
        roots = [driver.pid]
        if cluster is not None:
            roots = [node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes]
        filler = fill(results) if target == "disk" else None
        if target == "driver":
            driver.kill()
        elif filler is not None:
            wait_for(lambda: driver.poll() is not None, 120)  # noqa: B023
        elif target == "node":
            cluster.remove_node(dice.choice(list(cluster.worker_nodes)), allow_graceful=False)
            cluster.add_node(num_cpus=1)
        else:
            victims = alive(roots, target)
            if not victims:
                continue
            os.kill(dice.choice(victims), signal.SIGKILL)
        if target in ("driver", "gcs", "raylet", "disk"):
            _, err = driver.communicate(timeout=200)
            silent += "--resume" not in err or (filler is not None and "free the disk" not in err)
            if filler is not None:
                filler.unlink()
            driver = start(spec, results, *flags)
        kills[target] += 1
        watch.look()
        count = f"{len(watch.lines)} rows, {len(watch.ended)} trials ended"
        print(f"{dict(kills)}: {count}, {left() / 60:.0f} min left", flush=True)
    if driver.poll() is None:  # time is up: it may finish what it has
        driver.terminate()
        driver.communicate(timeout=300)
    watch.look()
    begun = {row["trial_id"] for row in rows(watch.folder) if row["trial_id"].isdigit()}
    final = sweep(spec, results, *flags, "--trials", str(max(1, len(begun))))
    watch.look()
    if cluster is not None:
        cluster.shutdown()
    readings = [(len(r.dials), sum(d.passed > 0 for d in r.dials)) for r in read_certificates(watch.folder).readings]
    states = Counter(watch.ended.values())
    unfinished = len(begun - set(watch.ended))
    print(f"kills: {sum(kills.values())} ({', '.join(f'{n} of a {what}' for what, n in kills.items())})")
    print(f"rows: {len(watch.lines)}, trials ended: {len(watch.ended)} ({dict(states)}), not ended: {unfinished}")
    print(f"readings of the certify rows, each with its points and how many are certified: {readings}")
    print(f"rows or endings lost: {watch.lost}, duplicates: {watch.duplicates}")
    print(f"trials run again that had ended: {watch.repeated}")
    print(f"drivers that were ended and did not name the way on: {silent}")
    print(f"drivers that ended by themselves before the end: {unasked}; the last resume exited {final.returncode}")
    bad = watch.lost + watch.duplicates + watch.repeated + watch.failed
    bad += unasked + silent + final.returncode + unfinished + (len(readings) != 1)
    if final.returncode:
        print(final.stderr[-3000:])
    return not bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--trials", type=int, default=2000, help="more than the time is enough for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--own-ray", action="store_true", help="the sweep starts its own Ray, which is a victim, too")
    asked = parser.parse_args()
    if asked.own_ray and os.geteuid() == 0 and "RAYUL_SOAK" not in os.environ:
        # The small disk is this process's and its children's alone, and goes with them.
        os.environ["RAYUL_SOAK"] = "apart"
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory(prefix="rayul-soak-", ignore_cleanup_errors=True) as folder:
        well = soak(asked.minutes, asked.trials, asked.seed, asked.own_ray, Path(folder))
    sys.exit(not well)


if __name__ == "__main__":
    main()
