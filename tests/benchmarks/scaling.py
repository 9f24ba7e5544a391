"""How far one driver goes: trials of known duration in place of training, everything else as in a sweep.

    python tests/benchmarks/scaling.py --gpus 1 2 4 8 16 32 64 --seconds 30 --trials-per-gpu 4
    python tests/benchmarks/scaling.py --gpus 256 --nodes 8 --seconds 30 --every 5 --trials-per-gpu 4 --pruned 0.5
    python tests/benchmarks/scaling.py --many 5000
    python tests/benchmarks/scaling.py --ours 5000

The first measures throughput on logical GPUs against trials x seconds / GPUs, with every start-up in it, and what the
driver spends per report. All workers share this machine, so their start-up is paid by its cores, not by those of a
cluster: throughput is given with all of that, and in full flight. The second has nodes as Ray's own tests have them,
each with its raylet, on this machine, and trials half of which break the limit at their middle report: "turnover" is
how long it takes from a trial's end until the next trial's work begins in its place (median, and the longest). Workers
import no torch. The third sends many trials of no duration through one driver and shows whether anything grows with
their number. The fourth is our part of that, without Ray: searcher, scheduler and recorder in Tune's order.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import statistics
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
from rich.console import Console

from rayul.records import BASELINE, COMPLETED, JOURNAL, STUDY, Evaluation, Journal, Record
from rayul.records.manifest import Manifest
from rayul.spec.spec import from_plain
from rayul.sweep import run
from rayul.sweep.cluster import Allocation
from rayul.sweep.driver_disk import served
from rayul.sweep.folder import begin
from rayul.sweep.pruning.scheduler import PruningScheduler
from rayul.sweep.recorder import Recorder
from rayul.sweep.result import TrialResult
from rayul.sweep.search.searcher import OptunaSearcher

# isort: split
import ray
from ray.cluster_utils import Cluster
from ray.tune import Trainable

BASE = {"forget.es": 0.8, "retain.es": 0.9}


class NullTrial(Trainable):
    """Reports `reports` evaluations, a pause before each; forgets at a rate that its parameter gives."""

    pause, reports, pruned = 0.0, 3, 0.0

    def setup(self, config: dict[str, Any], **shared: Any) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config, self.at = new_config, 0
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(self.pause)
        self.at += 1
        number, rate = self.config["number"], self.config["params"]["training.lr"]
        forgotten = min(1.0, 40 * rate * self.at / self.reports)
        luck = zlib.crc32(str(number).encode()) / 2**32  # without it every trial would be on the front
        broken = luck < self.pruned and 2 * self.at >= self.reports
        row = Evaluation(
            f"{number:04d}",
            self.at,
            params=self.config["params"],
            metrics={
                "forget.es": BASE["forget.es"] * (1 - forgotten),
                "retain.es": BASE["retain.es"] * (0.5 if broken else 1 - 0.3 * forgotten**2 - 0.1 * luck),
            },
            violation={"retain.es": 0.1 if broken else -0.1},
            feasible=not broken,
            train_seconds=self.pause * self.at,
        )
        return TrialResult([row], row.ended(COMPLETED) if self.at == self.reports else None).to_ray()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass


def null_spec(trials: int, sampler: str) -> Any:
    return from_plain(
        {
            "name": "null",
            "model": "testbed",
            "data": "testbed",
            "method": "ga",
            "training": {"lr": {"float": [1e-4, 2e-2], "log": True}, "steps": 30, "evaluate_every": 1},
            "control": [{"metric": "retain.es", "at_least": "60% of baseline"}],
            "pruning": {"dominance": {"margin": 1.0}},  # computed, but no trial is that far behind: all last as long
            "search": {"sampler": sampler, "trials": trials},
        }
    )


class Watch:
    """Wall-clock and driver CPU at every evaluation, and when trials ended."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, str]] = []
        self.ends: list[float] = []

    def listen(self, record: Record) -> None:
        if isinstance(record, Evaluation):
            self.rows.append((time.monotonic(), time.process_time(), record.trial_id))
        else:
            self.ends.append(time.monotonic())


def sweep(
    trials: int, slots: int, pause: float, reports: int, sampler: str, pruned: float = 0.0
) -> tuple[float, float, Watch]:
    """One sweep of null trials; seconds and driver CPU seconds that it took, and all of its rows."""
    spec = null_spec(trials, sampler)
    folder = Path(tempfile.mkdtemp(prefix="rayul-scaling-"))
    begin(folder, spec, Manifest())
    journal = Journal(folder / JOURNAL)
    baseline = Evaluation(BASELINE, 0, mixing=0.0, metrics=BASE)
    journal.append(baseline)
    watch = Watch()
    add = run.Progress.add

    def listen(self: Any, record: Record) -> None:
        watch.listen(record)
        add(self, record)

    run.Progress.add = listen  # type: ignore[method-assign]
    run.UnlearningTrial = type("Null", (NullTrial,), {"pause": pause, "reports": reports, "pruned": pruned})  # type: ignore[misc]
    allocation = Allocation(0.01, 1.0, slots, "")
    began, cpu = time.monotonic(), time.process_time()
    try:
        with served(folder, spec, remote=False) as disk:
            study, quiet = run.open_study(folder / STUDY, spec), Console(file=io.StringIO())
            held = run.Sweep(spec, {}, disk, Manifest(), allocation, None, journal, study, baseline, [], quiet)
            run._search(held, run.ProgressBar(quiet))
    finally:
        run.Progress.add = add  # type: ignore[method-assign]
    took = time.monotonic() - began, time.process_time() - cpu
    states = Counter(ending.state for ending in journal.endings.values())
    assert states.total() == trials, states
    assert pruned or (states == {COMPLETED: trials} and len(list(journal)) == 1 + trials * reports), states
    shutil.rmtree(folder)
    return *took, watch


@contextmanager
def started(gpus: int, nodes: int = 1) -> Iterator[None]:
    options = {"log_to_driver": False, "logging_level": "ERROR"}
    if nodes == 1:
        ray.init("local", num_cpus=4, num_gpus=gpus, include_dashboard=False, **options)
        yield
        ray.shutdown()
        return
    cluster = Cluster()
    for _ in range(nodes):
        cluster.add_node(num_cpus=4, num_gpus=gpus // nodes, include_dashboard=False, object_store_memory=2**27)
    ray.init(cluster.address, **options)
    yield
    ray.shutdown()
    cluster.shutdown()


def scaling(gpus: list[int], seconds: float, every: float, per_gpu: int, nodes: int, pruned: float) -> None:
    print(f"trials of {seconds:g} s, a report every {every:g} s, {per_gpu} trials per GPU, {os.cpu_count()} cores")
    print("GPUs  trials  wall s  of linear  in full flight  driver CPU  ms CPU/report  reports/s  turnover s  RSS MB")
    reports = round(seconds / every)
    for slots in gpus:
        with started(slots, nodes):
            wall, cpu, watch = sweep(slots * per_gpu, slots, every, reports, "tpe", pruned)
        # In full flight: from the first report of the last worker to start to that of the last trial to start. Before
        # it some workers are not there yet, after it some have nothing left to do.
        firsts = sorted({name: at for at, _, name in reversed(watch.rows)}.values())
        first, last = firsts[slots - 1], firsts[-1]
        rate = sum(first < at <= last for at, *_ in watch.rows) / (last - first)
        steady = rate * every / slots
        # Every trial that starts later takes the place of one that has ended.
        turnover = [start - every - end for end, start in zip(sorted(watch.ends), firsts[slots:], strict=False)]
        rss = psutil.Process().memory_info().rss / 2**20
        print(
            f"{slots:4}  {slots * per_gpu:6}  {wall:6.1f}  {per_gpu * seconds / wall:8.1%}  {steady:14.1%}"
            f"  {cpu / wall:10.1%}  {1000 * cpu / len(watch.rows):13.2f}  {rate:9.1f}"
            f"  {statistics.median(turnover):5.2f} ({max(turnover):.1f})  {rss:6.0f}",
            flush=True,
        )


def many(trials: int, slots: int, reports: int, sampler: str) -> None:
    print(f"{trials} trials of no duration, {reports} reports each, {slots} at a time, sampler {sampler}")
    with started(slots):
        wall, cpu, watch = sweep(trials, slots, 0.0, reports, sampler)
    print("trials so far  ms wall/report  ms driver CPU/report")
    size = max(1, len(watch.rows) // 10)
    for i in range(0, len(watch.rows) - size + 1, size):
        first, last = watch.rows[i], watch.rows[i + size - 1]
        print(
            f"{(i + size) // reports:13}  {1000 * (last[0] - first[0]) / size:14.2f}"
            f"  {1000 * (last[1] - first[1]) / size:20.2f}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"wall {wall:.0f} s, driver CPU {cpu:.0f} s, peak RSS {peak:.0f} MB")


def ours(trials: int, reports: int, sampler: str) -> None:
    print(f"{trials} trials, {reports} reports each, sampler {sampler}: ms of CPU per trial")
    print("trials so far  suggest  scheduler  recorder (with journal and tell)")
    spec, folder = null_spec(trials, sampler), Path(tempfile.mkdtemp(prefix="rayul-scaling-"))
    begin(folder, spec, Manifest())
    journal = Journal(folder / JOURNAL)
    baseline = Evaluation(BASELINE, 0, mixing=0.0, metrics=BASE)
    journal.append(baseline)
    searcher = OptunaSearcher(run.open_study(folder / STUDY, spec), spec, journal, baseline, trials)
    progress, scheduler = run.Progress(spec, baseline, journal.records, trials), PruningScheduler(spec, BASE, journal)
    recorder = Recorder(folder, spec, journal, baseline, scheduler, searcher, progress.add)
    spent = [0.0, 0.0, 0.0]
    for count in range(1, trials + 1):
        clock = [time.process_time()]
        config = searcher.suggest("")
        spent[0] += time.process_time() - clock[0]
        null = NullTrial.__new__(NullTrial)
        null.reports = reports
        null.reset_config(config)
        trial = SimpleNamespace(config=config, trial_id="")
        for _ in range(reports):
            result = null.step()
            clock = [time.process_time()]
            if not result["done"]:
                scheduler.on_trial_result(None, trial, result)
            clock.append(time.process_time())
            recorder.on_trial_result(0, [], trial, result)
            clock.append(time.process_time())
            spent[1], spent[2] = spent[1] + clock[1] - clock[0], spent[2] + clock[2] - clock[1]
        if count % max(1, trials // 10) == 0:
            a, b, c = (1000 * seconds / max(1, trials // 10) for seconds in spent)
            print(f"{count:13}  {a:7.2f}  {b:9.2f}  {c:8.2f}", flush=True)
            spent = [0.0, 0.0, 0.0]
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--trials-per-gpu", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--pruned", type=float, default=0.0, help="share of trials that break the limit half-way")
    parser.add_argument("--many", type=int)
    parser.add_argument("--ours", type=int)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--reports", type=int, default=3)
    parser.add_argument("--sampler", default="tpe")
    asked = parser.parse_args()
    if asked.gpus:
        scaling(asked.gpus, asked.seconds, asked.every, asked.trials_per_gpu, asked.nodes, asked.pruned)
    if asked.many:
        many(asked.many, asked.slots, asked.reports, asked.sampler)
    if asked.ours:
        ours(asked.ours, asked.reports, asked.sampler)


if __name__ == "__main__":
    main()
