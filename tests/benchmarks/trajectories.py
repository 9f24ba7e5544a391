"""Real runs to the end, without pruning: the cache that the search benchmark replays its arms from.

    nice python tests/benchmarks/trajectories.py --cache ~/.cache/rayul/trajectories.jsonl [--limit N] [--part I/N]

Every configuration of search_space.yaml is trained to its last step on the testbed with the seed that belongs to it,
and evaluated with mixing. A line a configuration; those that are there are not run again; several processes may fill
one file (--part 1/2 and --part 2/2).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

SPEC = Path(__file__).with_name("search_space.yaml")


class Point(NamedTuple):
    """One evaluation: `cpu` are the seconds of the trial up to this step, all of its forwards included; the errors are
    standard errors over groups, where these were recorded."""

    step: int
    mixing: float
    forget: float
    retain: float
    cpu: float
    forget_error: float = 0.0
    retain_error: float = 0.0


def space_spec() -> Any:
    from rayul.spec import load_spec

    return load_spec(SPEC)


def configurations(spec: Any) -> list[dict[str, Any]]:
    """All of the space: the small batches first, each half in an order shuffled with a fixed seed."""
    from rayul.sweep.search.samplers import grid

    cells = list(grid(spec))
    random.Random(0).shuffle(cells)
    return sorted(cells, key=lambda cell: cell["training.batch_size"])


def key_of(params: dict[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def seed_of(params: dict[str, Any]) -> int:
    """The training seed that belongs to a configuration."""
    return int.from_bytes(hashlib.sha256(key_of(params).encode()).digest()[:4], "big")


def load(path: Path) -> dict[str, list[Point]]:
    """Trajectories by key, the rows of a step in the order of their evaluation, the calibrated one last."""
    found = {}
    if path.exists():
        for line in path.read_text().splitlines():
            record = json.loads(line)
            found[key_of(record["params"])] = [Point(*point) for point in record["points"]]
    return found


class Runner:
    """Trains configurations one after the other on one base model."""

    def __init__(self) -> None:
        import torch

        from rayul.testbed import with_testbed
        from rayul.unlearn.data import load_sets
        from rayul.unlearn.evaluate import evaluate
        from rayul.unlearn.task import load_task

        torch.set_num_threads(1)
        self.spec = with_testbed(space_spec())
        wanted = ("forget", "retain", "retain_train")
        sets = {key: rows for key, rows in load_sets(self.spec.data).items() if key in wanted}
        self.task = load_task(self.spec, sets)
        evaluation = self.spec.evaluate
        self.baseline = evaluate(self.task.base, self.task, evaluation.metrics, evaluation.batch_size).values

    def run(self, params: dict[str, Any]) -> list[Point]:
        from rayul.unlearn.job import TrialJob
        from rayul.unlearn.trial import run_trial

        points = []
        began = time.process_time()
        for snapshot in run_trial(
            self.task, TrialJob("0", self.spec.at(params), seed_of(params), params, self.baseline)
        ):
            cpu = round(time.process_time() - began, 3)
            points += [
                Point(e.step, e.mixing, e.metrics["forget.es"], e.metrics["retain.es"], cpu)
                for e in snapshot.evaluations
                if e.metrics
            ]
        return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--part", default="1/1")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    wanted = configurations(space_spec())[: arguments.limit][part - 1 :: parts]
    runner = Runner()
    arguments.cache.parent.mkdir(parents=True, exist_ok=True)
    for i, params in enumerate(wanted, 1):
        if key_of(params) in load(arguments.cache):
            continue
        points = runner.run(params)
        line = json.dumps({"params": params, "seed": seed_of(params), "points": [point[:5] for point in points]})
        with open(arguments.cache, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"{i}/{len(wanted)} {points[-1].cpu:.1f} s", flush=True)


if __name__ == "__main__":
    main()
