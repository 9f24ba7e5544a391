"""What `relearned.es` as an objective costs a trial.

    nice python tests/benchmarks/relearned_cost.py [--trials 6]

Trials with settings drawn at random from search_spaces/relearned.yaml, each with the objective relearned.es and with
forget.es in its place, the two in turns from evaluation to evaluation. CPU seconds of the process on one thread, so
what else the machine does hardly matters.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from certificate_record import drawn

from rayul.spec import Spec, load_spec
from rayul.testbed import with_testbed
from rayul.unlearn.data import load_sets
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.task import load_task
from rayul.unlearn.trial import run_trial

SPACE = Path(__file__).resolve().parents[2] / "search_spaces" / "relearned.yaml"


def arms() -> dict[str, Spec]:
    found = with_testbed(load_spec(SPACE))
    plain = {"forget.es" if key == "relearned.es" else key: value for key, value in found.objectives.items()}
    return {"with": found, "without": found.model_copy(update={"objectives": plain})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    specs = arms()
    tasks = {arm: load_task(spec, load_sets(spec.data)) for arm, spec in specs.items()}
    metrics = evaluate(tasks["with"].base, tasks["with"], specs["with"].evaluate.metrics, 64).values
    baseline = dict(metrics) | {"relearned.es": 1.0}
    seconds: dict[str, list[float]] = {arm: [] for arm in specs}
    print("| trial | with | without | evaluations under attack |\n| --- | --- | --- | --- |")
    for number in range(asked.trials):
        attacked, spent = 0, dict.fromkeys(specs, 0.0)
        params = drawn(specs["with"].space, number)
        running = {
            arm: run_trial(tasks[arm], TrialJob("0000", spec.at(params), number, params, baseline))
            for arm, spec in specs.items()
        }
        while running:
            for arm, trial in list(running.items()):
                started = time.process_time()
                snapshot = next(trial, None)
                spent[arm] += time.process_time() - started
                if snapshot is None:
                    del running[arm]
                elif arm == "with":
                    attacked += sum("relearned.es" in e.metrics and e.step > 0 for e in snapshot.evaluations)
        for arm, taken in spent.items():
            seconds[arm].append(taken)
        print(f"| {number} | {spent['with']:.1f} s | {spent['without']:.1f} s | {attacked} |", flush=True)
    ratios = [a / b - 1 for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    total = sum(seconds["with"]) / sum(seconds["without"]) - 1
    print(f"\nrelearned.es costs {total:.1%} of all trials without it, median {statistics.median(ratios):.1%}")


if __name__ == "__main__":
    main()
