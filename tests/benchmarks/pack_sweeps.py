"""Whole sweeps of the same trials, three ways: a process a trial, reused processes, packs. Wall time and peak memory.

    python tests/benchmarks/pack_sweeps.py [--spec search_spaces/ga.yaml] [--trials 64] [--steps 60] [--slots 4 8]
                                           [--rounds 5] [--compile]

Arms: (a) what one writes with Ray Tune: every trial is a process that loads the model, trains through PEFT and ends;
(b) rayul with resources.packs false: one process a core, reused by its trials; (c) rayul with packs of K a core, with
--compile also compiled: torch keeps what it compiled on the disk, so a machine new to these shapes compiles in the
first round (`TORCHINDUCTOR_CACHE_DIR=$(mktemp -d)` makes any machine new). The trials are the same in all (drawn at
random from search.seed, none pruned, the same steps and evaluations); (b) and (c) also measure baseline and oracle,
verify the exported adapters and write the report, and that is in their time.
Arms take turns in every round, each in a driver of its own; numbers are medians over the rounds, ratios the median of
the rounds' ratios. Memory is the sum of Pss over the driver and all its descendants, Ray's own processes included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SAMPLE_SECONDS = 1.0


def overrides(arguments: argparse.Namespace) -> list[str]:
    return [
        "search.sampler=random",
        f"search.trials={arguments.trials}",
        f"training.steps={arguments.steps}",
        "control.mixing=false",
        "pruning={criteria: false, dominance: false}",
    ]


def run_tune(arguments: argparse.Namespace) -> None:
    """Arm (a)."""
    import ray
    from ray import tune

    from rayul.spec import load_spec
    from rayul.sweep.search.samplers import suggest
    from rayul.sweep.search.searcher import open_study
    from rayul.testbed import with_testbed

    spec = with_testbed(load_spec(arguments.spec, overrides(arguments)))
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    scratch = Path(tempfile.mkdtemp())
    study = open_study(scratch / "study.journal", spec)
    drawn = [suggest(study.ask(), spec) for _ in range(arguments.trials)]

    def trial(config: dict[str, Any]) -> None:
        import torch

        from rayul.unlearn.data import load_sets
        from rayul.unlearn.evaluate import evaluate
        from rayul.unlearn.job import TrialJob
        from rayul.unlearn.task import load_task
        from rayul.unlearn.trial import run_trial

        torch.set_num_threads(1)
        task = load_task(spec, load_sets(spec.data))
        baseline = evaluate(task.base, task, spec.evaluate.metrics, spec.evaluate.batch_size).values
        params = drawn[config["number"]]
        for snapshot in run_trial(task, TrialJob("t", spec.at(params), config["number"], params, baseline)):
            tune.report(snapshot.evaluations[-1].metrics)

    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"number": tune.grid_search(list(range(arguments.trials)))},
        run_config=tune.RunConfig(storage_path=str(scratch), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors, results.errors
    shutil.rmtree(scratch)


def run_rayul(arguments: argparse.Namespace, *more: str) -> None:
    """Arms (b) and (c)."""
    from rayul.spec import load_spec
    from rayul.sweep.run import run_sweep

    folder = Path(tempfile.mkdtemp()) / "sweep"
    run_sweep(load_spec(arguments.spec, [*overrides(arguments), *more]), folder)
    shutil.rmtree(folder.parent)


def pss(pid: int) -> int:
    """Bytes of a process and its descendants, shared pages counted once."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(path.read_text().rsplit(")", 1)[1].split()[1]), []).append(int(path.parent.name))
        except OSError:
            continue
    total, todo = 0, [pid]
    while todo:
        one = todo.pop()
        todo += parents.get(one, [])
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def measured(arm: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak bytes of one sweep."""
    command = [sys.executable, __file__, "--arm", arm, "--spec", str(arguments.spec)]
    command += ["--trials", str(arguments.trials), "--steps", str(arguments.steps)]
    begin, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    errors: list[bytes] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    while process.poll() is None:
        peak = max(peak, pss(process.pid))
        time.sleep(SAMPLE_SECONDS)
    reader.join()
    if process.returncode:
        raise SystemExit(errors[0].decode()[-3000:])
    return {"seconds": time.perf_counter() - begin, "bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=Path("search_spaces/ga.yaml"))
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--slots", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--arm", help="run one arm here, unmeasured: a, b, or the slots of a pack (4, 4 compiled)")
    arguments = parser.parse_args()
    if arguments.arm == "a":
        return run_tune(arguments)
    if arguments.arm == "b":
        return run_rayul(arguments, "resources.packs=false")
    if arguments.arm:
        slots, _, compiled = arguments.arm.partition(" ")
        return run_rayul(
            arguments, f"resources.trials_per_gpu={slots}", f"resources.compile={str(bool(compiled)).lower()}"
        )

    arms = ["a", "b"]
    for slots in map(str, arguments.slots):
        arms += [slots, f"{slots} compiled"] if arguments.compile else [slots]
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for i in range(arguments.rounds):
        for arm in arms:
            found[arm].append(measured(arm, arguments))
            print(f"round {i + 1}, arm {arm}: {json.dumps(found[arm][-1])}", file=sys.stderr, flush=True)
    print(f"{arguments.trials} trials of {arguments.steps} steps of {arguments.spec.name}, {arguments.rounds} rounds\n")
    print("| arm | seconds | faster than (a) | faster than (b) | peak memory, GiB |")
    print("| --- | --- | --- | --- | --- |")
    names = {"a": "(a) a process a trial", "b": "(b) reused processes"}
    for arm in arms:
        seconds = [one["seconds"] for one in found[arm]]
        cells = [names.get(arm, f"(c) packs of {arm}"), f"{statistics.median(seconds):.0f}"]
        for other in "ab":
            ratios = [o["seconds"] / s for o, s in zip(found[other], seconds, strict=True)]
            cells.append(f"{statistics.median(ratios):.2f}x")
        cells.append(f"{statistics.median(one['bytes'] for one in found[arm]) / 2**30:.1f}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
