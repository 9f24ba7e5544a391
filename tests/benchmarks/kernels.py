"""GFLOPS of a trial-step and of an evaluation in a pack on one core, against plain products of the same shapes.

    python tests/benchmarks/kernels.py [--batch 8] [--slots 4] [--rounds 5] [--against FOLDER] [--threads 1]

The testbed's model and rows, GradDiff, rank 8. Operations: of a frozen linear module forward and for the gradient of
its input (not where nothing trained is before it), LoRA's six products, attention's two forward and four backward over
all T x T places, and the head at answer positions; all of these with padding. The plain products are exactly these, one
after the other: by torch (MKL), and by oneDNN. CPU seconds, all arms in turn in every round; medians and range, a ratio
the median of the rounds' ratios.

FOLDER: another checkout of rayul, which runs in a process of its own and takes turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from packs import MALLOC, peft_arm, steps_of

Numbers = dict[str, float]


class Product(NamedTuple):
    """`count` products [m, k] x [k, n], side by side where `lanes` is more than one."""

    m: int
    k: int
    n: int
    lanes: int = 1

    @property
    def operations(self) -> int:
        return 2 * self.lanes * self.m * self.k * self.n


def forward_products(pack: Any, lines: int, length: int, window: int, training: bool) -> list[Product]:
    """Of one forward of lines of this length; training: with LoRA's products and the backward."""
    config, tokens, rank = pack.task.base.config, lines * length, pack.layout.rank
    head = config.hidden_size // config.num_attention_heads
    found = []
    for one in pack.layout.linears:
        first = ".layers.0.self_attn." in f".{one.name}" and not one.name.endswith("o_proj")  # behind it the embedding
        d, o = one.inputs, one.outputs
        found.append(Product(tokens, d, o))
        if training:
            found += [Product(tokens, d, rank), Product(tokens, rank, o), Product(tokens, o, rank)]
            found += [Product(rank, tokens, o), Product(rank, tokens, d)]
            found += [] if first else [Product(tokens, o, d), Product(tokens, rank, d)]
    sides = lines * config.num_attention_heads
    scores, values = Product(length, head, length, sides), Product(length, length, head, sides)
    found += config.num_hidden_layers * ([scores] * 2 + [values] * 4 if training else [scores, values])
    found.append(Product(lines * window, config.hidden_size, config.vocab_size))
    return [*found, Product(lines * window, config.vocab_size, config.hidden_size)] if training else found


def plain(products: list[Product], onednn: bool) -> Callable[[], None]:
    """All of them, one after the other, on numbers that are there already."""
    import torch

    def work_of(one: Product) -> Callable[[], Any]:
        a, b = torch.randn(one.lanes, one.m, one.k), torch.randn(one.lanes, one.n, one.k)
        if one.lanes > 1:
            return lambda: torch.bmm(a, b.transpose(1, 2))
        x, w = a[0], b[0]
        if onednn:
            return lambda: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
        return lambda: x @ w.T

    works = {one: work_of(one) for one in set(products)}
    return lambda: [works[one]() for one in products] and None


def work(arguments: argparse.Namespace) -> None:
    """A process of one tree: for each line read, the CPU seconds of every arm once."""
    import torch

    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.pack import Pack, Shape
    from rayul.unlearn.task import load_task

    torch.set_num_threads(arguments.threads)
    training = {"lr": 1e-3, "batch_size": arguments.batch, "steps": 100_000}
    plain_spec = {"name": "kernels", "model": "testbed", "data": "testbed", "method": "gd", "training": training}
    spec = with_testbed(from_plain(plain_spec))
    sets = load_sets(spec.data)
    task = load_task(spec, sets)
    shape = Shape.of(spec, arguments.slots, cpu=True)
    pack = Pack(task, spec, shape)
    for seed in range(arguments.slots):
        pack.join(TrialJob(str(seed), spec, seed, {}, {}))
    alone, _ = peft_arm(spec, sets)

    read = {name: pack.reference.sets[name] for name in ("forget", "retain_train")}
    of_step = [
        p
        for lines in read.values()
        for p in forward_products(pack, arguments.batch, lines.ids.shape[1], lines.at.shape[1], True)
    ]
    scorer = pack.evaluator.scoring(None).scorer
    batches = list(scorer._batches_of(1, task.device))
    of_evaluation = [
        p for _, lines in batches for p in forward_products(pack, *lines.ids.shape, lines.at.shape[1], False)
    ]
    tokens = sum(len(e.ids) for name in read for e in task.training[name])
    places = sum(lines.ids.numel() for lines in read.values())
    real = sum(len(e.ids) for e in scorer.examples)
    facts = {
        "GFLOP of a trial-step": sum(p.operations for p in of_step) / 1e9,
        "GFLOP of an evaluation": sum(p.operations for p in of_evaluation) / 1e9,
        "padding, training": 1 - tokens / places,
        "padding, evaluation": 1 - real / sum(lines.ids.numel() for _, lines in batches),
    }
    slots = list(range(arguments.slots))
    values, scales = pack.parameters.values, [2.0] * arguments.slots

    def evaluations() -> None:
        for _ in pack.evaluator.score(values[slots], scales):
            pass

    arms: dict[str, tuple[Callable[[], Any], int]] = {
        "step": (lambda: steps_of(pack, 4), 4 * arguments.slots),
        "step alone": (lambda: alone(4), 4),
        "products": (plain(4 * of_step, False), 4),
        "products, oneDNN": (plain(4 * of_step, True), 4),
        "evaluation": (evaluations, arguments.slots),
        "products of an evaluation": (plain(of_evaluation, False), 1),
        "products of an evaluation, oneDNN": (plain(of_evaluation, True), 1),
    }
    for one, _ in arms.values():
        one()
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        found = {}
        for name, (one, count) in arms.items():
            begin, wall = time.process_time(), time.perf_counter()
            one()
            seconds = time.perf_counter() - wall if arguments.threads > 1 else time.process_time() - begin
            found[name] = seconds / count
        print(json.dumps(found), flush=True)


class Tree:
    """A process that runs `work` in one checkout."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        environment = os.environ | MALLOC | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--work", *arguments]
        self.process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.facts = self.answer()

    def answer(self) -> Numbers:
        assert self.process.stdout is not None
        found: Numbers = json.loads(self.process.stdout.readline())
        return found

    def round(self) -> Numbers:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        return self.answer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of each process; wall time from 2 on")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        return
    passed = [f"--{name}={getattr(arguments, name)}" for name in ("batch", "slots", "threads")]
    folders = {"here": Path(__file__).parents[2]} | ({"there": arguments.against} if arguments.against else {})
    trees = {name: Tree(folder, passed) for name, folder in folders.items()}
    rounds: dict[str, list[Numbers]] = {name: [] for name in trees}
    for _ in range(arguments.rounds):
        for name, tree in trees.items():
            rounds[name].append(tree.round())
    for tree in trees.values():
        assert tree.process.stdin is not None
        tree.process.stdin.close()
        tree.process.wait()
    facts = trees["here"].facts
    print(", ".join(f"{name}: {value:.3g}" for name, value in facts.items()))
    print("| arm | " + " | ".join(f"{name}, ms | GFLOPS" for name in trees) + " | there / here |")
    print("| --- |" + " --- | --- |" * len(trees) + " --- |")
    for arm in rounds["here"][0]:
        operations = facts["GFLOP of an evaluation" if "evaluation" in arm else "GFLOP of a trial-step"]
        cells = []
        for found in rounds.values():
            seconds = [one[arm] for one in found]
            middle = statistics.median(seconds)
            cells.append(f"{1e3 * middle:.1f} ({1e3 * min(seconds):.1f} to {1e3 * max(seconds):.1f})")
            cells.append(f"{operations / middle:.0f}")
        ratio = ""
        if "there" in rounds:
            ratios = [b[arm] / a[arm] for a, b in zip(rounds["here"], rounds["there"], strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {arm} | " + " | ".join(cells) + f" | {ratio} |")
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"load {load}")


if __name__ == "__main__":
    main()
