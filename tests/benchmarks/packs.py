"""Trial-steps and evaluations per second: one trial at a time through PEFT against packs, on the testbed.

    python tests/benchmarks/packs.py [--method gd] [--slots 2 4 8 16 32] [--batch 2 4 8] [--rounds 5] [--compile]

One process, one thread, all arms in turn in every round; a number is the median of the rounds, a ratio the median of
the rounds' ratios, so that what else the machine does meets all arms alike. PEFT's arm reuses its process, base and
adapter: no start-up, imports or loading are in it. Packs have the shape that a sweep on a CPU gives them (groups that
fill a forward); with --compile each is there compiled, too, without the time that compiling took. glibc's thresholds
are raised for all arms (--malloc leaves them).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}
"""Without them the activations of every step go back to the system, and come again a page fault at a time."""


class Arm(NamedTuple):
    slots: int
    compiled: bool = False

    def __str__(self) -> str:
        return f"pack of {self.slots}" + (" compiled" if self.compiled else "")


ALONE = Arm(0)
"""PEFT's."""


def per_second(count: int, work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def peft_arm(spec: Any, sets: Any) -> tuple[Callable[[int], None], Callable[[], Any]]:
    """Steps and an evaluation as `run_trial` makes them."""
    import torch

    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.order import row_order
    from rayul.unlearn.task import load_task
    from rayul.unlearn.train import accumulate_gradient
    from rayul.unlearn.update import attach

    task = load_task(spec, sets)
    update = attach(task, spec, 0)
    optimizer = torch.optim.AdamW(update.parameters, lr=spec.training.lr)
    order = row_order(task, spec, 0)

    def steps(count: int) -> None:
        for _ in range(count):
            accumulate_gradient(update, task, spec, *next(order))
            torch.nn.utils.clip_grad_norm_(update.parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return steps, lambda: evaluate(update.model, task, spec.evaluate.metrics, spec.evaluate.batch_size)


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
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--malloc", action="store_true", help="leave glibc's thresholds as they are")
    arguments = parser.parse_args()
    if not arguments.malloc and not MALLOC.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC)

    import torch

    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.pack import Pack, Shape
    from rayul.unlearn.task import load_task

    torch.set_num_threads(1)

    def spec_of(batch: int, compiled: bool = False) -> Any:
        training = {"lr": 1e-3, "batch_size": batch, "steps": 100_000}
        plain = {"name": "packs", "model": "testbed", "data": "testbed", "method": arguments.method}
        return with_testbed(from_plain(plain | {"training": training, "resources": {"compile": compiled}}))

    def pack_of(arm: Arm, batch: int, lanes: int = 1) -> Any:
        spec = spec_of(batch, arm.compiled)
        pack = Pack(task, spec, Shape.of(spec, arm.slots, cpu=True)._replace(lanes=lanes))
        for seed in range(arm.slots):
            pack.join(TrialJob(str(seed), spec, seed, {}, {}))
        return pack

    sets = load_sets(spec_of(2).data)
    task = load_task(spec_of(2), sets)
    ways = (False, True) if arguments.compile else (False,)
    arms = [Arm(slots, compiled) for slots in arguments.slots for compiled in ways]
    print(f"trial-steps per second, {arguments.method}, rank 8 on all linear modules, one thread")
    print("| batch | PEFT alone |" + "".join(f" {arm} |" for arm in arms))
    print("| --- | --- |" + " --- |" * len(arms))
    for batch in arguments.batch:
        alone, _ = peft_arm(spec_of(batch), sets)
        works: dict[Arm, Callable[[], float]] = {ALONE: partial(per_second, 8, partial(alone, 8))}
        packs = {arm: pack_of(arm, batch) for arm in arms}
        for arm, pack in packs.items():
            works[arm] = partial(per_second, 2 * arm.slots, partial(steps_of, pack, 2))
        print(f"| {batch} |" + cells(in_turn(works, arguments.rounds)), flush=True)

    _, evaluate = peft_arm(spec_of(2), sets)
    works = {ALONE: partial(per_second, 2, lambda: [evaluate() for _ in range(2)])}
    evaluators = [(Arm(8, compiled), lanes) for compiled in ways for lanes in arguments.lanes]
    for arm, lanes in evaluators:
        pack = pack_of(arm, 2, lanes)
        works[arm._replace(slots=lanes)] = partial(per_second, 8, partial(evaluations_of, pack))
    print("\nevaluations per second, of all sets")
    print("| PEFT alone |" + "".join(f" {arm}, {lanes} in a forward |" for arm, lanes in evaluators))
    print("| --- |" + " --- |" * len(evaluators))
    print("|" + cells(in_turn(works, arguments.rounds)))


def evaluations_of(pack: Any) -> None:
    for scores in pack.evaluator.score(pack.parameters.values, [2.0] * 8):
        pack.evaluator.measure(scores)


def in_turn(works: dict[Arm, Callable[[], float]], rounds: int) -> dict[Arm, list[float]]:
    """The rates of each arm; a round before them warms up."""
    for work in works.values():
        work()
    found: dict[Arm, list[float]] = {arm: [] for arm in works}
    for _ in range(rounds):
        for arm, work in works.items():
            found[arm].append(work())
    return found


def cells(rates: dict[Arm, list[float]]) -> str:
    """The first arm's rate, and the others' with their ratio to it."""
    first = rates[ALONE]
    text = f" {statistics.median(first):.1f} |"
    for arm, found in rates.items():
        if arm != ALONE:
            ratio = statistics.median(a / b for a, b in zip(found, first, strict=True))
            text += f" {statistics.median(found):.1f} ({ratio:.2f}x) |"
    return text


if __name__ == "__main__":
    main()
