"""What `resources.trials_per_gpu: auto` measures, what it chooses, and what it costs the first and the second time.

    python tests/benchmarks/packs_auto.py [--shape ga rmu 135M]

On one core, as a sweep of 64 trials on two devices asks: the shipped spaces on the testbed, and ga's on a model of
SmolLM2-135M's shape with random weights. "Against 1" is the rate of what it chose against that of one trial at a time.
The cache is a folder of its own, so that the first time is a first time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES = (1, 2, 4)


def spec_of(shape: str, folder: Path) -> Any:
    from memory import SHAPES
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from rayul.spec import load_spec
    from rayul.testbed import with_testbed

    root = Path(__file__).parents[2] / "search_spaces"
    spec = with_testbed(load_spec(root / f"{shape if shape in ('ga', 'rmu') else 'ga'}.yaml"))
    if shape in SHAPES:
        config = LlamaConfig(**SHAPES[shape], tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        LlamaForCausalLM(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(spec.model.path).save_pretrained(folder)
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"path": str(folder)})})
    return spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["ga", "rmu", "135M"])
    asked = parser.parse_args()
    import torch

    from rayul.sweep.packs.packing import _fastest
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.pack.known_rates import known_packs

    torch.set_num_threads(1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    print("| space | rows a second by trials on a device | chosen | against 1 | first time, s | second time, s |")
    print("|" + " --- |" * 6)
    for shape in asked.shape:
        with tempfile.TemporaryDirectory() as place:
            spec = spec_of(shape, Path(place) / "model")  # before the cache is another: the testbed is in it
            sets = load_sets(spec.data)
            os.environ["RAYUL_CACHE"] = place
            times = []
            for _ in range(2):
                began = time.perf_counter()
                found = known_packs(spec, sets, SIZES, memory)
                times.append(time.perf_counter() - began)
            del os.environ["RAYUL_CACHE"]
        import ray

        if not ray.is_initialized():
            ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        slots = _fastest(spec, found).slots
        rates = {one.slots: one.rows for one in found}
        listed = ", ".join(f"{k}: {rate:.0f}" for k, rate in rates.items())
        gain = rates[slots] / rates[1]
        print(f"| {shape} | {listed} | {slots} | {gain:.2f} | {times[0]:.1f} | {times[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
