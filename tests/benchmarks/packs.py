"""Trial-steps and evaluations per second: one trial at a time through PEFT against packs, on the testbed.

    python tests/benchmarks/packs.py [--method gd] [--slots 2 4 8 16 32] [--batch 2 4 8] [--rounds 5]

One process, one thread, all arms in turn in every round; a number is the median of the rounds, a ratio the median of
the rounds' ratios, so that what else the machine does meets all arms alike. PEFT's arm reuses its process, base and
adapter: no start-up, imports or loading are in it. glibc's thresholds are raised for all arms (--malloc leaves them).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}
"""Without them the activations of every step go back to the system, and come again a page fault at a time."""


def per_second(count: int, work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def peft_arm(spec: Any, sets: Any) -> tuple[Callable[[int], None], Callable[[], Any]]:
    """Steps and an evaluation as `run_trial` makes them."""
    import torch

    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.model import attach_lora
    from rayul.unlearn.task import load_task
    from rayul.unlearn.train import accumulate_gradient, row_order

    task = load_task(spec, sets)
    model = attach_lora(task.base, spec.lora, 0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=spec.training.lr)
    order = row_order(task, spec, 0)

    def steps(count: int) -> None:
        for _ in range(count):
            accumulate_gradient(model, task, spec, *next(order))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps, lambda: evaluate(model, task, spec.evaluate.metrics, spec.evaluate.batch_size)


def steps_of(pack: Any, count: int) -> None:
    for _ in range(count):
        failed = pack.step(pack.slots)
        assert not failed, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="gd")
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--malloc", action="store_true", help="leave glibc's thresholds as they are")
    arguments = parser.parse_args()
    if not arguments.malloc and not MALLOC.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)

    import torch

    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.pack import Pack, Shape
    from rayul.unlearn.task import load_task

    torch.set_num_threads(1)

    def spec_of(batch: int) -> Any:
        training = {"lr": 1e-3, "batch_size": batch, "steps": 100_000}
        plain = {"name": "packs", "model": "testbed", "data": "testbed", "method": arguments.method}
        return with_testbed(from_plain(plain | {"training": training}))

    def pack_of(slots: int, batch: int, lanes: int = 1) -> Any:
        pack = Pack(task, spec_of(batch), Shape(slots, rank=8, rows=batch, lanes=lanes))
        for seed in range(slots):
            pack.join(str(seed), spec_of(batch), seed, {}, {})
        return pack

    sets = load_sets(spec_of(2).data)
    task = load_task(spec_of(2), sets)
    print(f"trial-steps per second, {arguments.method}, rank 8 on all linear modules, one thread")
    print("| batch | PEFT alone |" + "".join(f" pack of {k} |" for k in arguments.slots))
    print("| --- | --- |" + " --- |" * len(arguments.slots))
    for batch in arguments.batch:
        alone, _ = peft_arm(spec_of(batch), sets)
        rates: dict[int, list[float]] = {k: [] for k in (1, *arguments.slots)}
        packs = {k: pack_of(k, batch) for k in arguments.slots}
        for i in range(arguments.rounds + 1):
            measured = {1: per_second(8, partial(alone, 8))}
            for k, pack in packs.items():
                measured[k] = per_second(2 * k, partial(steps_of, pack, 2))
            for k in measured if i else ():  # the first round warms up
                rates[k].append(measured[k])
        for pack in packs.values():
            pack.close()
        print(f"| {batch} |" + cells(rates))

    _, evaluate = peft_arm(spec_of(2), sets)
    rates = {k: [] for k in (1, *(-lanes for lanes in arguments.lanes))}
    packs = {-lanes: pack_of(8, 2, lanes) for lanes in arguments.lanes}
    for i in range(arguments.rounds + 1):
        measured = {1: per_second(2, lambda: [evaluate() for _ in range(2)])}
        for k, pack in packs.items():
            measured[k] = per_second(8, partial(pack.evaluator.measure, pack.parameters.values, [2.0] * 8))
        for k in measured if i else ():
            rates[k].append(measured[k])
    print("\nevaluations per second, of all sets")
    print("| PEFT alone |" + "".join(f" pack of 8, {lanes} in a forward |" for lanes in arguments.lanes))
    print("| --- |" + " --- |" * len(arguments.lanes))
    print("|" + cells(rates))


def cells(rates: dict[int, list[float]]) -> str:
    """The first arm's rate, and the others' with their ratio to it."""
    first = rates[1]
    text = f" {statistics.median(first):.1f} |"
    for k, found in rates.items():
        if k != 1:
            ratio = statistics.median(a / b for a, b in zip(found, first, strict=True))
            text += f" {statistics.median(found):.1f} ({ratio:.2f}x) |"
    return text


if __name__ == "__main__":
    main()
