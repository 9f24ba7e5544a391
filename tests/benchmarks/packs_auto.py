"""What `resources.trials_per_gpu: auto` and `compile: auto` measure and choose, and what that costs.

    python tests/benchmarks/packs_auto.py [--shape ga rmu tofu 135M]

On one core, as a sweep of 64 trials on two devices asks: the shipped spaces on the testbed's model and rows, and ga's
on a model of SmolLM2-135M's shape with random weights. Rates are rows a CPU second. "Training" is what the whole sweep
would train one trial at a time, by the size of its model and by the rate measured. "Against 1" is the rate of the
chosen size against that of one trial at a time. "Compiled" is how many times as fast a whole trial of such a pack is,
steps and evaluations, in rounds that take turns, and the seconds that compiling took; it is measured whether a sweep
would or not. Seconds are wall time of the first and of the second time. The cache is a folder of its own, torch's too,
so that the first time is a first time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

SIZES = (1, 2, 4)
T = TypeVar("T")


def spec_of(shape: str, folder: Path) -> Any:
    from memory import SHAPES
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from rayul.spec import load_spec
    from rayul.testbed import with_testbed

    root = Path(__file__).parents[2] / "search_spaces"
    spec = load_spec(root / f"{'ga' if shape in SHAPES else shape}.yaml")
    if shape == "tofu":
        testbed = load_spec(root / "ga.yaml")
        spec = spec.model_copy(update={"model": testbed.model, "data": testbed.data})
    spec = with_testbed(spec)
    if shape in SHAPES:
        config = LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        LlamaForCausalLM(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(spec.model.path).save_pretrained(folder)
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"path": str(folder)})})
    return spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["ga", "rmu", "tofu", "135M"])
    asked = parser.parse_args()
    import ray
    import torch

    from rayul.sweep.packs.allowance import (
        PACKS,
        SHARE,
        compiling_seconds,
        estimated_rate,
        one_is_packed,
        training_seconds,
    )
    from rayul.sweep.packs.packing import _fastest
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.pack.known_rates import known_compiled, known_packs

    torch.set_num_threads(1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    print("| space | training, s: by size, measured | measures sizes, compiles ", end="")
    print("| rows a second by trials on a device | chosen | against 1 | seconds | compiled | seconds |")
    print("|" + " --- |" * 9)
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as place:
        for shape in asked.shape:
            os.environ.pop("RAYUL_CACHE", None)  # the testbed is in it
            os.environ.update(before)
            spec = spec_of(shape, Path(place) / "model")
            sets = load_sets(spec.data)
            os.environ |= {"RAYUL_CACHE": place, "TORCHINDUCTOR_CACHE_DIR": f"{place}/compiled"}
            found, times = twice(partial(known_packs, one_packed=one_is_packed(spec)), spec, sets, SIZES, memory)
            if not ray.is_initialized():
                ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            slots = _fastest(spec, found).slots
            rates = {one.slots: one.rows for one in found}
            guess = training_seconds(spec, estimated_rate(spec, sets, on_gpu=False, threads=1), 2)
            alone = training_seconds(spec, rates[1], 2)
            listed = ", ".join(f"{k}: {rate:.3g}" for k, rate in rates.items())
            tried = SHARE * alone >= compiling_seconds(spec, rates[1], max(2, slots))
            would = f"{said(SHARE * guess >= PACKS)}, {said(tried)}"
            print(f"| {shape} | {guess:.0f}, {alone:.0f} | {would} | {listed} | {slots} ", end="")
            print(f"| {rates[slots] / rates[1]:.2f} | {times} ", end="", flush=True)
            if spec.uncompilable:
                print(f"| {spec.uncompilable[0][1]} | |", flush=True)
                continue
            compiled, times = twice(known_compiled, spec, sets, max(2, slots))  # alone nothing is compiled
            if not isinstance(compiled, str):
                compiled = f"{compiled.slots}: {compiled.gain:.2f} after {compiled.seconds:.0f} s"
            print(f"| {compiled} | {times} |", flush=True)


def twice(work: Callable[..., T], *arguments: Any) -> tuple[T, str]:
    times = []
    for _ in range(2):
        began = time.perf_counter()
        found = work(*arguments)
        times.append(time.perf_counter() - began)
    return found, f"{times[0]:.1f}, {times[1]:.3f}"


def said(yes: bool) -> str:
    return "yes" if yes else "no"


if __name__ == "__main__":
    main()
