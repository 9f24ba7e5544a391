"""What evaluations cost: the cheap metrics beside the forward passes that they are made from, and a trial that reads
only the sets that steer beside one that reads general too.

    python tests/benchmarks/evaluation.py
    python tests/benchmarks/evaluation.py --trials --rounds 3 --slots 4

One thread, arms in turn. Without --trials: medians of 15; the bare forward runs the same batches and projects the same
positions. With it: CPU seconds of a GradDiff trial on the testbed, alone and in a pack, at an evaluation every 5 steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

PLAIN = {"name": "cost", "model": "testbed", "data": "testbed", "method": "gd"}


def testbed(**sections: Any) -> Any:
    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed

    return with_testbed(from_plain(PLAIN | {"training": {"lr": 1e-3}} | sections))


def forwards() -> None:
    import torch

    from rayul.unlearn.data import load_sets
    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.forward import forward
    from rayul.unlearn.task import load_task
    from rayul.unlearn.tokens import collate

    spec = testbed()
    task = load_task(spec, load_sets(spec.data))
    examples = [e for rows in task.evaluated(task.forward_metrics(spec.evaluate.metrics)).values() for e in rows]
    examples.sort(key=lambda e: len(e.ids))
    batches = [collate(examples[i : i + 64], task.pad) for i in range(0, len(examples), 64)]

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                forward(task.base, batch)

    def full() -> None:
        evaluate(task.base, task, spec.evaluate.metrics, 64)

    times: dict[str, list[float]] = {"bare": [], "full": []}
    for i in range(16):
        for name, function in (("bare", bare), ("full", full)):
            started = time.perf_counter()
            function()
            if i:
                times[name].append(time.perf_counter() - started)
    bare_seconds, full_seconds = (statistics.median(times[name]) for name in ("bare", "full"))
    ratios = [f / b for f, b in zip(times["full"], times["bare"], strict=True)]
    print(f"{len(examples)} rows: forwards {bare_seconds:.3f} s, evaluation {full_seconds:.3f} s")
    print(f"ratio {statistics.median(ratios):.2f} (target: at most 1.5)")


def trials(rounds: int, slots: int) -> None:
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.pack import Pack, Shape
    from rayul.unlearn.task import load_task
    from rayul.unlearn.trial import run_trial

    training = {"lr": 1e-3, "batch_size": 8, "steps": 20, "evaluate_every": 5}
    arms = {"general too": ["general"], "what steers": []}
    specs = {arm: testbed(training=training, evaluate={"sets": sets}) for arm, sets in arms.items()}
    tasks = {arm: load_task(spec, load_sets(spec.data)) for arm, spec in specs.items()}
    baseline = dict.fromkeys(("forget.es", "retain.es"), 1.0)
    packs = {arm: Pack(tasks[arm], spec, Shape(slots, spec.lora.r, 8)) for arm, spec in specs.items()}

    def alone(arm: str) -> int:
        for _ in run_trial(tasks[arm], TrialJob("0000", specs[arm], 0, {}, baseline)):
            pass
        return 1

    def packed(arm: str) -> int:
        pack = packs[arm]
        taken = [pack.join(TrialJob(f"{i:04d}", specs[arm], i, {}, baseline)) for i in range(slots)]
        while pack.running():
            pack.turn()
        for slot in taken:
            pack.leave(slot)
        return slots

    for name, run in (("alone", alone), (f"in a pack of {slots}", packed)):
        taken: dict[str, list[float]] = {arm: [] for arm in arms}
        for i in range(rounds + 1):
            for arm in arms:
                begun = time.process_time()
                ran = run(arm)
                if i:
                    taken[arm].append((time.process_time() - begun) / ran)
        print(name)
        for arm, seconds in taken.items():
            print(f"  {arm}: {statistics.median(seconds):.2f} CPU s a trial ({min(seconds):.2f} to {max(seconds):.2f})")
        ratios = [new / old for old, new in zip(taken["general too"], taken["what steers"], strict=True)]
        print(f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=4)
    options = parser.parse_args()
    if options.trials:
        trials(options.rounds, options.slots)
    else:
        forwards()


if __name__ == "__main__":
    main()
