"""Peak memory of a trial in a pack against what a trial has to hold.

    python tests/benchmarks/memory.py [--model testbed 135M 1B-2-layers] [--slots 1 2 4] [--rounds 2]

A trial has to hold its adapter, the gradient of it, AdamW's two moments, and what its rows leave for the backward pass.
The last is taken from PEFT: bytes of all tensors that a forward of the same model and rows alone saves for its backward
(`torch.autograd.graph.saved_tensors_hooks`, every storage once, none of the base's weights), forget and retain rows;
beside it the same of a trial in a pack.
Packs of several sizes train some steps, each in a process of its own, so that the peak is its alone; what a further
trial takes is the slope of the peaks over the number of trials, and what the pack itself takes is the rest. Rows are 8
of each set of the testbed's, all in a batch; rank 8 on all linear modules, float32, one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

SHAPES: dict[str, dict[str, int]] = {
    "135M": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3},
    "1B-2-layers": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 2,
                    "num_attention_heads": 32, "num_key_value_heads": 8},
}  # fmt: skip
"""Of Llama's architecture with random weights: SmolLM2-135M's, and two of the 16 layers of Llama 3.2 1B's."""
ROWS = 8
MIB = 2**20


def made(shape: str, method: str) -> tuple[Any, Any]:
    """Spec and task."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rayul.spec.spec import from_plain
    from rayul.testbed import with_testbed
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.task import Task, load_task

    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = {"name": "memory", "model": "testbed", "data": "testbed", "method": method, "lora": {"r": 8}}
    spec = with_testbed(from_plain(plain | {"training": {"lr": 1e-3, "batch_size": ROWS, "steps": 100_000}}))
    sets = {name: rows[:ROWS] for name, rows in load_sets(spec.data).items()}
    task = load_task(spec, sets)
    if shape != "testbed":
        config = LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        task = Task(LlamaForCausalLM(config).requires_grad_(False).eval(), task.tokenizer, sets, None, None, {})
    return spec, task


def saved_by(work: Callable[[], object], task: Any) -> float:
    """MiB of all tensors that the work saves for a backward pass, every storage once, without the base's weights."""
    import torch

    seen = {p.untyped_storage().data_ptr() for p in task.base.parameters()}
    held = []  # or a storage that was freed would lend its address to another

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            held.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        work()
    return sum(storage.nbytes() for storage in held) / MIB


def needed(shape: str, method: str) -> dict[str, float]:
    """MiB: a trial's adapter four times over, what PEFT's forward saves, and what a trial in a pack of two saves."""
    from rayul.unlearn.train import accumulate_gradient
    from rayul.unlearn.update import attach

    spec, task = made(shape, method)
    pack = filled_pack(spec, task, 2)
    in_pack = saved_by(lambda: pack.step(pack.slots), task) / 2
    update = attach(task, spec, 0)
    own = sum(p.numel() * p.element_size() for p in update.parameters) / MIB
    alone = saved_by(lambda: accumulate_gradient(update, task, spec, range(ROWS), range(ROWS)), task)
    return {"adapter": 4 * own, "activations": alone, "in a pack": in_pack}


def filled_pack(spec: Any, task: Any, slots: int) -> Any:
    """After its first step, which makes what the trials keep."""
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.pack import Pack, Shape

    pack = Pack(task, spec, Shape.of(spec, slots, cpu=True))
    for seed in range(slots):
        pack.join(TrialJob(str(seed), spec, seed, {}, {}))
    assert not pack.step(pack.slots)
    return pack


def peak(shape: str, method: str, slots: int) -> dict[str, float]:
    """MiB above the loaded model that a pack of so many trials takes at its peak."""
    from rayul.unlearn.peak import peak_memory, reset_peak

    spec, task = made(shape, method)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    pack = filled_pack(spec, task, slots)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    reset_peak(task.device)
    for _ in range(2):
        assert not pack.step(pack.slots)
    return {"peak": (peak_memory(task.device) - before) / MIB}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=["testbed", *SHAPES], default=["testbed", *SHAPES])
    parser.add_argument("--method", default="gd")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        shape, slots = asked.only.split()
        print(json.dumps(peak(shape, asked.method, int(slots)) if int(slots) else needed(shape, asked.method)))
        return

    def apart(shape: str, slots: int) -> dict[str, float]:
        command = [sys.executable, __file__, "--only", f"{shape} {slots}", "--method", asked.method]
        environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": str(2**16)}
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
        found: dict[str, float] = json.loads(out.splitlines()[-1])
        return found

    columns = [
        "model",
        "adapter x 4, MiB",
        "saved by PEFT",
        "saved in a pack",
        "needed",
        *(f"peak of {k}" for k in asked.slots),
    ]
    print(f"| {' | '.join([*columns, 'a trial', 'of needed', 'the pack'])} |\n|{' --- |' * (len(columns) + 3)}")
    for shape in asked.model:
        wanted = apart(shape, 0)
        peaks = [max(apart(shape, k)["peak"] for _ in range(asked.rounds)) for k in asked.slots]
        slope, rest = np.polyfit(asked.slots, peaks, 1)
        whole = wanted["adapter"] + wanted["activations"]
        cells = [f"{wanted['adapter']:.1f}", f"{wanted['activations']:.1f}", f"{wanted['in a pack']:.1f}"]
        cells += [f"{whole:.1f}"]
        cells += [f"{one:.1f}" for one in peaks]
        print(f"| {shape} | {' | '.join(cells)} | {slope:.1f} | {slope / whole:.2f} | {rest:.1f} |", flush=True)


if __name__ == "__main__":
    main()
