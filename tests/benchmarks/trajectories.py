"""Real runs to the end, without pruning: the cache that the search benchmark replays its arms from.

    nice python tests/benchmarks/trajectories.py --cache ~/.cache/rayul/trajectories.jsonl [--limit N] [--part I/N]

Every configuration of SPACE (a grid, so that different searches meet the same configurations) is trained for 60 steps
on the testbed with the seed that belongs to it, and evaluated every 5 steps. A line a configuration; those that are
there are not run again; several processes may fill one file (--part 1/2 and --part 2/2).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import json
import os
import random
import time
from pathlib import Path
from typing import Any

STEPS, EVERY = 60, 5

SPACE: dict[str, list[Any]] = {
    "method.name": ["ga", "gd"],
    "method.retain_weight": [0.5, 1.0, 2.0, 4.0],
    "lora.r": [4, 8, 16],
    "lora.alpha": [8, 16, 32],
    "training.lr": [1e-4, 1.8e-4, 3.2e-4, 5.6e-4, 1e-3, 1.8e-3, 3.2e-3, 5.6e-3],
    "training.batch_size": [4, 8],
}
"""The space of search_spaces/ga.yaml as a grid; retain_weight only where the method is gd: 144 + 576 configurations."""


def configurations() -> list[dict[str, Any]]:
    """All of the grid, in an order shuffled with a fixed seed: any prefix is a fair sample."""
    cells = []
    for values in itertools.product(*SPACE.values()):
        cell = dict(zip(SPACE, values, strict=True))
        if cell["method.name"] == "ga" and cell.pop("method.retain_weight") != SPACE["method.retain_weight"][0]:
            continue
        cells.append(cell)
    random.Random(0).shuffle(cells)
    return cells


def key_of(params: dict[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def seed_of(params: dict[str, Any]) -> int:
    """The training seed that belongs to a configuration."""
    return int.from_bytes(hashlib.sha256(key_of(params).encode()).digest()[:4], "big")


def spec_of() -> Any:
    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed

    plain: dict[str, Any] = {
        "name": "trajectories",
        "model": "testbed",
        "data": "testbed",
        "method": {
            "name": {"choice": SPACE["method.name"]},
            "retain_weight": {"choice": SPACE["method.retain_weight"]},
        },
        "lora": {"r": {"choice": SPACE["lora.r"]}, "alpha": {"choice": SPACE["lora.alpha"]}},
        "training": {
            "lr": {"choice": SPACE["training.lr"]},
            "batch_size": {"choice": SPACE["training.batch_size"]},
            "steps": STEPS,
            "evaluate_every": EVERY,
        },
        "control": [{"metric": "retain.es", "at_least": "90% of baseline"}],
        "evaluate": {"metrics": ["es"]},
    }
    return with_testbed(from_plain(plain))


def load(path: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Trajectories [(step, forget.es, retain.es), ...] by key."""
    found = {}
    if path.exists():
        for line in path.read_text().splitlines():
            record = json.loads(line)
            found[key_of(record["params"])] = [tuple(point) for point in record["points"]]
    return found


class Runner:
    """Trains configurations one after the other on one base model."""

    def __init__(self) -> None:
        import torch

        from rayul.unlearn.data import load_sets
        from rayul.unlearn.evaluate import evaluate
        from rayul.unlearn.task import load_task

        torch.set_num_threads(1)
        self.spec = spec_of()
        wanted = ("forget", "retain", "retain_train")
        sets = {key: rows for key, rows in load_sets(self.spec.data).items() if key in wanted}
        self.task = load_task(self.spec, sets)
        self.baseline = evaluate(self.task.base, self.task, ("es",), 64).values

    def run(self, params: dict[str, Any]) -> list[tuple[int, float, float]]:
        from rayul.unlearn.trial import run_trial

        snapshots = run_trial(self.task, self.spec.at(params), "0", seed_of(params), params, self.baseline)
        rows = [e for snapshot in snapshots for e in snapshot.evaluations if e.metrics]
        return [(e.step, e.metrics["forget.es"], e.metrics["retain.es"]) for e in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--part", default="1/1")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    wanted = configurations()[: arguments.limit][part - 1 :: parts]
    runner = Runner()
    arguments.cache.parent.mkdir(parents=True, exist_ok=True)
    for i, params in enumerate(wanted, 1):
        if key_of(params) in load(arguments.cache):
            continue
        started = time.process_time()
        points = runner.run(params)
        line = json.dumps({"params": params, "points": points, "cpu_seconds": time.process_time() - started})
        with open(arguments.cache, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(f"{i}/{len(wanted)} {time.process_time() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
