"""Peak memory and CPU time of a step and of an evaluation with logits whole and in parts, alone and in a pack.

    python tests/benchmarks/vocabulary.py [--model testbed 135M 1B-layer] [--method gd] [--slots 4] [--rounds 3]

Each arm is a process of its own, so that a peak is its alone; in every round they take turns. A memory is the largest,
a time the median. Rows are 4 of each set of the testbed's, all in a batch; an evaluation is of all sets, of one trial.
Memory is the process's peak above what it held before, with the model loaded and the trials joined. The testbed's
vocabulary is small, so its logits stay whole in rayul; "parts" shows what parts would cost.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time

SHAPES = {
    "135M": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3},
    "1B-layer": {"vocab_size": 262144, "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 1,
                 "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256},
}  # fmt: skip
"""Of Llama's architecture with random weights: SmolLM2-135M's, and one layer of Gemma 3 1B's."""
WAYS = ("whole", "parts")


def measure(shape: str, way: str, slots: int, method: str, repeats: int) -> dict[str, float]:
    """slots: of a pack; 0 for a trial alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed
    from rayul.unlearn import projection
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.pack import Pack, Shape
    from rayul.unlearn.peak import peak_memory, reset_peak
    from rayul.unlearn.task import Task, load_task
    from rayul.unlearn.train import accumulate_gradient
    from rayul.unlearn.update import attach

    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = {"name": "vocabulary", "model": "testbed", "data": "testbed", "method": method}
    spec = with_testbed(from_plain(plain | {"training": {"lr": 1e-3, "batch_size": 4, "steps": 100_000}}))
    sets = {name: rows[:4] for name, rows in load_sets(spec.data).items()}
    task = load_task(spec, sets)
    if shape != "testbed":
        config = LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        base = LlamaForCausalLM(config).requires_grad_(False).eval()
        task = Task(base, task.tokenizer, sets, None, None, {})
    vocabulary = task.base.get_output_embeddings().out_features
    projection.LARGE = 1 if way == "parts" else vocabulary + 1
    if slots:
        pack = Pack(task, spec, Shape.of(spec, slots, cpu=True))
        for seed in range(slots):
            pack.join(TrialJob(str(seed), spec, seed, {}, {}))

        def step() -> None:
            failed = pack.step(pack.slots)
            assert not failed, [pack.slots[k].ending for k, _ in failed]

        def evaluation() -> None:
            list(pack.evaluator.score(pack.parameters.values[:1], [2.0]))

    else:
        update = attach(task, spec, 0)

        def step() -> None:
            accumulate_gradient(update, task, spec, [0, 1, 2, 3], [0, 1, 2, 3])

        def evaluation() -> None:
            evaluate(update.model, task, spec.evaluate.metrics, spec.evaluate.batch_size)

    found = {}
    before = _resident()
    for name, work in (("step", step), ("evaluation", evaluation)):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what the work before left free would count
        reset_peak(task.device)
        seconds = []
        for _ in range(1 + repeats):
            started = time.process_time()
            work()
            seconds.append(time.process_time() - started)
        found[f"{name} GiB"] = (peak_memory(task.device) - before) / 2**30
        found[f"{name} s"] = statistics.median(seconds[1:] or seconds)
    return found


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=["testbed", *SHAPES], default=["testbed", *SHAPES])
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="gd")
    parser.add_argument("--repeats", type=int, default=2, help="in a process, after one that warms up")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        shape, way, slots = arguments.only.split()
        print(json.dumps(measure(shape, way, int(slots), arguments.method, arguments.repeats)))
        return
    print("| model | trials | step, GiB: whole | parts | evaluation, GiB: whole | parts | step, s | evaluation, s |")
    print("|" + " --- |" * 8)
    options = ["--method", arguments.method, "--repeats", str(arguments.repeats)]
    for shape in arguments.model:
        for slots in (0, arguments.slots):
            found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(arguments.rounds):
                for way in WAYS:
                    command = [sys.executable, __file__, "--only", f"{shape} {way} {slots}", *options]
                    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    found[way].append(json.loads(out.stdout.splitlines()[-1]))
            cells = []
            for name in ("step GiB", "evaluation GiB"):
                cells += [f"{max(one[name] for one in found[way]):.2f}" for way in WAYS]
            for name in ("step s", "evaluation s"):
                whole, parts = ([one[name] for one in found[way]] for way in WAYS)
                ratio = statistics.median(b / a for a, b in zip(whole, parts, strict=True))
                cells.append(f"{statistics.median(whole):.2f}, {statistics.median(parts):.2f} ({ratio:.2f}x)")
            print(f"| {shape} | {slots or 'alone'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
