"""Packs on a GPU at the shape of a real model, random weights: trial-steps per second, share of the card's matrix rate,
memory, and whether a trial is still independent of its neighbours to the bit.

    python tests/benchmarks/packs_gpu.py --slots 1 2 4 8 --compile 8 16 32    # Llama-3.2-1B's shape, bfloat16
    python tests/benchmarks/packs_gpu.py --layers 2 --hidden 64 --intermediate 128 --vocabulary 512 --slots 1 2
                                         --processes 1 2 --batch 2  # whether it runs, on any machine

Needs no network, no Ray and no weights. Rows are TOFU-like: 100 tokens, half of them answer. Arms, in turn in every
round: (b) PEFT, one trial a process, 1 and more processes on the card; (c) packs. Memory is what torch takes at
most for the base, the trials and their graphs, without CUDA's contexts. FLOPs of a trial-step: each frozen
linear module is read forward and once backward (its weights get no gradient), 4 x its size a token; the vocabulary
projection at answer positions only; attention 4 x layers x T x T x hidden a row forward, twice that backward. LoRA's
own products are not counted. The matrix rate is that of bfloat16 products of 8192 x 8192, measured here.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

STEPS = 4


def write_folders(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A tokenizer of numbers, rows of numbers, and the plain spec on both; the weights are made where they are used."""
    import random

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    words = {str(i): i for i in range(min(500, arguments.vocabulary - 2))}
    pad, end = len(words), len(words) + 1
    raw = Tokenizer(models.WordLevel(words | {"<pad>": pad, "<eos>": end}, unk_token="0"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    tokenizer.save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=arguments.intermediate,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=max(1, arguments.heads // 4),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=end,
    )
    config.save_pretrained(folder / "model")
    draw = random.Random(0)

    def text() -> str:
        return " ".join(str(draw.randrange(len(words))) for _ in range(49))

    rows = folder / "data"
    rows.mkdir()
    for name in ("forget", "retain"):
        lines = [json.dumps({"question": text(), "answer": text(), "author": str(i)}) for i in range(64)]
        (rows / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "name": "packs",
        "model": {"path": str(folder / "model"), "dtype": arguments.dtype, "template": "{question}\n{answer}"},
        "data": {name: str(rows / f"{name}.jsonl") for name in ("forget", "retain")},
        "method": {"name": arguments.method},
        "lora": {"r": 16, "alpha": 32},
        "training": {"lr": 1e-4, "batch_size": 4, "steps": 100_000},
    }


def make_task(plain: dict[str, Any], device: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rayul.spec.spec import from_plain
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.model import load_tokenizer
    from rayul.unlearn.task import Task

    spec = from_plain(plain)
    config = AutoConfig.from_pretrained(spec.model.path)
    dtype = getattr(torch, spec.model.dtype)
    torch.manual_seed(0)
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    base = base.eval().requires_grad_(False)
    return Task(base, load_tokenizer(spec.model), load_sets(spec.data), spec.model.template, None, {}), spec


def with_batch(spec: Any, batch: int) -> Any:
    return spec.model_copy(update={"training": spec.training.model_copy(update={"batch_size": batch})})


def waiter(device: str) -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def peft_process(plain: dict[str, Any], device: str, ready: Any, go: Any, out: Any) -> None:
    """One trial after the other through PEFT, the process, base and adapter reused: STEPS whenever told a batch size;
    says how many bytes they took."""
    import torch

    from rayul.unlearn.order import row_order
    from rayul.unlearn.train import accumulate_gradient
    from rayul.unlearn.update import attach

    task, spec = make_task(plain, device)
    update = attach(task, spec, 0)
    optimizer = torch.optim.AdamW(update.parameters, lr=spec.training.lr, fused=True)
    ready.put(0)
    while batch := go.get():
        sized = with_batch(spec, batch)
        order = row_order(task, sized, 0)

        def steps(count: int, sized: Any = sized, order: Any = order) -> None:
            for _ in range(count):
                accumulate_gradient(update, task, sized, *next(order))
                torch.nn.utils.clip_grad_norm_(update.parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            waiter(device)()

        steps(1)
        ready.put(0)
        go.get()
        steps(STEPS)
        out.put(torch.cuda.max_memory_reserved() if device == "cuda" else 0)
        reserved()


class Processes:
    """Processes on the card, of which `rate` lets some work."""

    def __init__(self, count: int, plain: dict[str, Any], device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.out = context.Queue()
        self.go = [context.Queue() for _ in range(count)]
        self.ready = context.Queue()
        self.processes = [
            context.Process(target=peft_process, args=(plain, device, self.ready, go, self.out), daemon=True)
            for go in self.go
        ]
        for process in self.processes:
            process.start()
        for _ in self.processes:
            self.ready.get(timeout=300)

    def rate(self, count: int, batch: int) -> tuple[float, int]:
        """Trial-steps a second and bytes, of `count` of them together."""
        for go in self.go[:count]:
            go.put(batch)
        for _ in range(count):
            self.ready.get(timeout=300)
        begin = time.perf_counter()
        for go in self.go[:count]:
            go.put(1)
        memory = sum(self.out.get(timeout=300) for _ in range(count))
        return count * STEPS / (time.perf_counter() - begin), memory

    def close(self) -> None:
        for go in self.go:
            go.put(0)
        for process in self.processes:
            process.join(60)


class Packed:
    """A pack of K trials, no evaluation. Bytes: of the base, of its trials, and of what a step takes."""

    def __init__(self, slots: int, task: Any, spec: Any, batch: int, base: int, compiled: bool) -> None:
        from rayul.unlearn.job import TrialJob
        from rayul.unlearn.pack import Pack, Shape

        spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"compile": compiled})})
        spec, before = with_batch(spec, batch), reserved()
        self.slots = slots
        self.pack = Pack(task, spec, Shape(slots, spec.lora.r, batch, compiled=compiled))
        for seed in range(slots):
            self.pack.join(TrialJob(str(seed), spec, seed, {}, {}))
        self.steps(2)  # compiles; makes the optimisers' moments
        self.bytes = base + reserved() - before

    def steps(self, count: int) -> None:
        for _ in range(count):
            failed = self.pack.step(self.pack.slots)
            assert not failed, failed
        waiter(self.pack.task.device.type)()

    def rate(self) -> tuple[float, int]:
        import torch

        before = reserved()
        self.steps(1)
        begin = time.perf_counter()
        self.steps(STEPS)
        seconds = time.perf_counter() - begin
        peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
        return self.slots * STEPS / seconds, self.bytes + peak - before


def reserved() -> int:
    """Bytes that this process keeps on the card, graphs included, when it gave back the rest; peaks count from here."""
    import torch

    if not torch.cuda.is_available():
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_reserved()


def matrix_rate(device: str) -> float:
    """FLOP a second of large bfloat16 products."""
    import torch

    size = 8192 if device == "cuda" else 256
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    wait, rates = waiter(device), []
    for i in range(8):
        begin = time.perf_counter()
        for _ in range(10):
            a @ b
        wait()
        rates += [10 * 2 * size**3 / (time.perf_counter() - begin)] if i > 2 else []
    return statistics.median(rates)


def flops_of_a_step(task: Any, spec: Any, batch: int) -> float:
    """Of one trial; see the head of this file."""
    config, passes = task.base.config, 2 if "retain" in spec.method.of(spec.method.name).needs else 1
    linear = sum(
        module.weight.numel()
        for name, module in task.base.named_modules()
        if hasattr(module, "weight") and getattr(module, "in_features", 0) and "lm_head" not in name
    )
    example = task.examples["forget"][0]
    length, answer = len(example.ids), example.stop - example.start
    attention = 3 * 4 * config.num_hidden_layers * length**2 * config.hidden_size
    head = 4 * config.vocab_size * config.hidden_size * answer
    return float(passes * batch * (4 * linear * length + head + attention))


def independence(task: Any, spec: Any, compiled: bool) -> tuple[float, Any]:
    """Largest difference of a trial's parameters after 5 steps, beside others or alone in its pack (0: to the bit), and
    its gradient in the first."""
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.pack import Pack, Shape

    spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"compile": compiled})})
    found, gradients = [], []
    for neighbours in (0, 7):
        pack = Pack(task, spec, Shape(8, spec.lora.r, spec.training.batch_size, compiled=compiled))
        slots = [pack.join(TrialJob(str(seed), spec, seed, {}, {})) for seed in (*range(1, 1 + neighbours), 0)]
        pack.step(pack.slots)
        gradients.append(pack.parameters.gradient[slots[-1]].clone())
        for _ in range(4):
            pack.step(pack.slots)
        found.append(pack.state(slots[-1]).values)
    return float((found[0] - found[1]).abs().max()), gradients[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("layers", 16),
        ("hidden", 2048),
        ("heads", 32),
        ("intermediate", 8192),
        ("vocabulary", 128256),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--method", default="gd")
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--most-rows", type=int, default=128, help="no pack of more rows a step than that")
    parser.add_argument("--most-alone", type=int, default=64, help="the same for processes: PEFT keeps more of a row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", type=int, nargs="*", default=[], metavar="K", help="slots of packs also compiled")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"

    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    mps = subprocess.run(["pgrep", "-f", "nvidia-cuda-mps-control"], capture_output=True, check=False).returncode == 0
    peak = matrix_rate(device)
    print(
        f"{name}, torch {torch.__version__}, MPS {'on' if mps else 'off'}; bf16 matrix rate {peak / 1e12:.1f} TFLOP/s\n"
    )
    with tempfile.TemporaryDirectory() as place:
        plain = write_folders(Path(place), arguments)
        task, spec = make_task(plain, device)
        base = reserved()
        gradients = []
        for compiled in (False, True) if arguments.compile else (False,):
            difference, gradient = independence(task, spec, compiled)
            print(f"independence of neighbours{', compiled' * compiled}: largest difference {difference:g}")
            gradients.append(gradient)
        if arguments.compile:
            away = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
            print(f"a compiled gradient is {away:.2g} of its norm away from one that is not")
        print(
            "\n| batch | arm | trial-steps/s | against 1 process | against the best processes | of matrix rate | GiB |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        processes = Processes(max(arguments.processes), plain, device)
        for batch in arguments.batch:
            work = flops_of_a_step(task, spec, batch)
            arms: dict[str, Callable[[], tuple[float, int]]] = {
                f"(b) {n} processes": partial(processes.rate, n, batch)
                for n in arguments.processes
                if n * batch <= arguments.most_alone
            }
            for compiled, sizes in ((False, arguments.slots), (True, arguments.compile)):
                for slots in sizes:
                    if slots * batch <= arguments.most_rows:
                        begin = time.perf_counter()
                        packed = Packed(slots, task, spec, batch, base, compiled)
                        arms[f"(c) pack of {slots}{', compiled' * compiled}"] = packed.rate
                        print(f"{slots} {batch} {compiled}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
            found = [{arm: rate() for arm, rate in arms.items()} for _ in range(arguments.rounds)]
            rates = {arm: [one[arm][0] for one in found] for arm in arms}
            medians = {arm: statistics.median(several) for arm, several in rates.items()}
            alone = [arm for arm in arms if arm.startswith("(b)")]
            best = max(alone, key=medians.__getitem__)
            for arm in arms:
                ratios = [
                    statistics.median(r / o for r, o in zip(rates[arm], rates[other], strict=True))
                    for other in (alone[0], best)
                ]
                memory = max(one[arm][1] for one in found) / 2**30
                print(
                    f"| {batch} | {arm} | {medians[arm]:.2f} | {ratios[0]:.2f}x | {ratios[1]:.2f}x | "
                    f"{medians[arm] * work / peak:.1%} | {memory:.1f} |",
                    flush=True,
                )
            del arms, packed
        processes.close()


if __name__ == "__main__":
    main()
