"""Evaluations in a pack, plain and, where the sweep says `resources.compile`, compiled: adapters a second.

    python tests/gpu/evaluations.py SWEEP.yaml [--rounds 3] [--output RESULT.json]

The arms take turns; the numbers are medians over the rounds, each of two adapters on all rows of an evaluation. A first
round, in which torch compiles, is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    import torch

    from rayul.spec import load_spec
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.pack import Pack, Shape
    from rayul.unlearn.task import load_task

    spec = load_spec(arguments.sweep)
    task = load_task(spec, load_sets(spec.data))
    packs: dict[str, Any] = {}
    for name, compiled in [("plain", False), ("compiled", True)][: 1 + (spec.resources.compile is True)]:
        shape = Shape.of(spec, 2, cpu=task.device.type == "cpu")._replace(compiled=compiled)
        packs[name] = Pack(task, spec, shape)
    rows = torch.zeros(2, packs["plain"].layout.size, device=task.device)
    seconds: dict[str, list[float]] = {name: [] for name in packs}
    for i in range(1 + arguments.rounds):
        for name, pack in packs.items():
            began = time.perf_counter()
            for _ in pack.evaluator.score(rows, [1.0, 1.0]):  # the scores are on the CPU: nothing is left to wait for
                pass
            seconds[name] += [time.perf_counter() - began] if i else []
    rates = {name: 2 / statistics.median(times) for name, times in seconds.items()}
    found: dict[str, Any] = {
        "rows": len(packs["plain"].evaluator.scoring(None).scorer.examples),
        "adapters_per_second": rates,
    }
    if "compiled" in rates:
        found["compiled_against_plain"] = rates["compiled"] / rates["plain"]
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
