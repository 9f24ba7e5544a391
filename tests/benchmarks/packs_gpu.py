"""Packs on a GPU at the shape of a real model, random weights: trial-steps per second, share of the card's matrix rate,
memory, and whether a trial is still independent of its neighbours to the bit.

    python tests/benchmarks/packs_gpu.py                            # Llama-3.2-1B's shape, bfloat16
    python tests/benchmarks/packs_gpu.py --layers 2 --hidden 64 --intermediate 128 --vocabulary 512 --slots 1 2
                                         --processes 1 2 --batch 2  # whether it runs, on any machine

Needs no network, no Ray and no weights. Rows are TOFU-like: 100 tokens, half of them answer. Arms, in turn in every
round: (b) PEFT, one trial a process, 1 and more processes on the card; (c) packs. FLOPs of a trial-step: each frozen
linear module is read forward and once backward (its weights get no gradient), 4 x its size a token; the vocabulary
projection at answer positions only; attention 4 x layers x T x T x hidden a row forward, twice that backward. LoRA's
own products are not counted. The matrix rate is that of bfloat16 products of 8192 x 8192, measured here.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
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


def peft_process(plain: dict[str, Any], device: str, batch: int, ready: Any, go: Any, out: Any) -> None:
    """One trial after the other through PEFT, the process, base and adapter reused: STEPS whenever told to."""
    import torch

    from rayul.unlearn.model import attach_lora
    from rayul.unlearn.train import accumulate_gradient, row_order

    task, spec = make_task(plain, device)
    spec = with_batch(spec, batch)
    model = attach_lora(task.base, spec.lora, 0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=spec.training.lr)
    order, wait = row_order(task, spec, 0), waiter(device)
    ready.put(0)
    while go.get():
        for _ in range(STEPS):
            accumulate_gradient(model, task, spec, *next(order))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait()
        out.put(torch.cuda.max_memory_reserved() if device == "cuda" else 0)


class Processes:
    """`count` processes on the card."""

    def __init__(self, count: int, plain: dict[str, Any], device: str, batch: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.count = count
        ready, self.go, self.out = context.Queue(), context.Queue(), context.Queue()
        target = (plain, device, batch, ready, self.go, self.out)
        self.processes = [context.Process(target=peft_process, args=target, daemon=True) for _ in range(count)]
        for process in self.processes:
            process.start()
        for _ in self.processes:
            ready.get(timeout=300)

    def rate(self) -> tuple[float, int]:
        """Trial-steps a second and bytes, of all."""
        begin = time.perf_counter()
        for _ in self.processes:
            self.go.put(1)
        memory = sum(self.out.get(timeout=300) for _ in self.processes)
        return self.count * STEPS / (time.perf_counter() - begin), memory

    def close(self) -> None:
        for _ in self.processes:
            self.go.put(0)
        for process in self.processes:
            process.join(60)


class Packed:
    """A pack of K trials; `join` at once, no evaluation."""

    def __init__(self, slots: int, task: Any, spec: Any, batch: int, device: str, compiled: bool) -> None:
        from rayul.unlearn.pack import Pack, Shape

        self.slots, self.device = slots, device
        spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"compile": compiled})})
        self.pack = Pack(task, with_batch(spec, batch), Shape(slots, spec.lora.r, batch, compiled=compiled))
        for seed in range(slots):
            self.pack.join(str(seed), with_batch(spec, batch), seed, {}, {})

    def rate(self) -> tuple[float, int]:
        import torch

        wait = waiter(self.device)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        for _ in range(STEPS):
            failed = self.pack.step(self.pack.slots)
            assert not failed, failed
        wait()
        memory = torch.cuda.max_memory_reserved() if self.device == "cuda" else 0
        return self.slots * STEPS / (time.perf_counter() - begin), memory

    def close(self) -> None:
        import torch

        self.pack.close()
        del self.pack
        if self.device == "cuda":
            torch.cuda.empty_cache()


def matrix_rate(device: str) -> float:
    """FLOP a second of large bfloat16 products."""
    import torch

    size = 8192 if device == "cuda" else 1024
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


def independence(task: Any, spec: Any) -> float:
    """Largest difference of a trial's parameters after 5 steps, beside others or alone in its pack; 0: to the bit."""
    from rayul.unlearn.pack import Pack, Shape

    found = []
    for neighbours in (0, 3):
        pack = Pack(task, spec, Shape(4, spec.lora.r, spec.training.batch_size))
        slots = [pack.join(str(seed), spec, seed, {}, {}) for seed in (*range(1, 1 + neighbours), 0)]
        for _ in range(5):
            pack.step(pack.slots)
        found.append(pack.state(slots[-1]).values)
        pack.close()
    return float((found[0] - found[1]).abs().max())


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="packs also compiled (on a GPU: with Triton)")
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
        print(f"independence of neighbours, largest difference: {independence(task, spec):g}\n")
        print("| batch | arm | trial-steps/s | against 1 process | against the best processes | of matrix rate | GiB |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for batch in arguments.batch:
            work = flops_of_a_step(task, spec, batch)
            sizes = [slots for slots in arguments.slots if slots * batch <= arguments.most_rows]
            arms: list[tuple[str, Callable[[], Any]]] = [
                *((f"(b) {n} processes", partial(Processes, n, plain, device, batch)) for n in arguments.processes),
                *((f"(c) pack of {k}", partial(Packed, k, task, spec, batch, device, False)) for k in sizes),
                *(
                    (f"(c) pack of {k}, compiled", partial(Packed, k, task, spec, batch, device, True))
                    for k in sizes
                    if arguments.compile
                ),
            ]
            rates: dict[str, list[float]] = {arm: [] for arm, _ in arms}
            memory: dict[str, int] = {}
            for _ in range(arguments.rounds):
                for arm, make in arms:  # made anew each time: all together would not fit
                    made = make()
                    made.rate()  # warms up
                    rate, memory[arm] = made.rate()
                    rates[arm].append(rate)
                    made.close()
            alone = [arm for arm, _ in arms if arm.startswith("(b)")]
            best = max(alone, key=lambda arm: statistics.median(rates[arm]))
            for arm, _ in arms:
                ratios = [statistics.median(r / o for r, o in zip(rates[arm], rates[other], strict=True))
                          for other in (alone[0], best)]  # fmt: skip
                rate = statistics.median(rates[arm])
                print(
                    f"| {batch} | {arm} | {rate:.2f} | {ratios[0]:.2f}x | {ratios[1]:.2f}x | "
                    f"{rate * work / peak:.1%} | {memory[arm] / 2**30:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
