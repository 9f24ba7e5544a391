"""A Llama with random weights, trained on TOFU until it has memorised it, its oracle, and the spec of its sweep.

    python tests/gpu/target.py FOLDER TOFU [--seconds 100] [--toy]

FOLDER/base            the untrained model and a tokenizer of TOFU's words
FOLDER/target          what `rayul testbed --base FOLDER/base --data TOFU` writes
FOLDER/tofu.yaml       the sweep; `by_hand.py` searches the same settings

After --seconds of training both are what they have memorised by then: a sweep of half a target measures the same speed.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Size:
    """Of the model, its training and the trials."""

    authors: int
    forget: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    lr: float
    batch_size: int
    max_epochs: int
    dtype: str
    trials: int
    slots: int
    steps: int
    evaluate_every: int
    batches: tuple[int, ...]
    compiled: bool
    lr_searched: tuple[float, float]
    metric: str
    limit: str
    """Of retain rows, for this metric."""


CARD = Size(
    200,
    "forget10",
    16_000,
    768,
    16,
    12,
    5e-4,
    64,
    60,
    "bfloat16",
    64,
    32,
    60,
    15,
    (4, 8, 16),
    True,
    (1e-5, 1e-3),
    "es",
    "90% of baseline",
)
"""About 125M parameters, 200 authors."""
TOY = Size(
    24,
    "forget01",
    1_000,
    64,
    2,
    4,
    3e-3,
    16,
    8,
    "float32",
    6,
    2,
    8,
    4,
    (2, 4),
    False,
    (1e-3, 3e-2),
    "prob",
    "50% of baseline",
)
"""What two cores do in a minute or two, which memorises next to nothing: hence probabilities. Not compiled: that takes
them longer than the trials."""


def write_base(folder: Path, sets: Any, size: Size) -> int:
    """The untrained model; returns its number of parameters."""
    from rayul.testbed.train import Recipe, new_model, train_tokenizer

    tokenizer = train_tokenizer((row for rows in sets.values() for row in rows), size.vocabulary)
    shape = Recipe(
        hidden_size=size.hidden, intermediate_size=8 * size.hidden // 3, layers=size.layers, heads=size.heads
    )
    model = new_model(tokenizer, shape)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def write_sweep(path: Path, target: Path, size: Size) -> None:
    """No trial is pruned, so that both arms train the same number of steps."""
    plain: dict[str, Any] = {
        "name": "tofu",
        "model": {"path": str(target / "model"), "dtype": size.dtype},
        "oracle": {"path": str(target / "oracle"), "dtype": size.dtype},
        "data": str(target),
        "method": {"name": {"choice": ["ga", "gd"]}, "retain_weight": {"float": [0.25, 4.0], "log": True}},
        "lora": {"r": {"choice": [8, 16]}, "alpha": {"choice": [16, 32]}},
        "training": {
            "lr": {"float": list(size.lr_searched), "log": True},
            "batch_size": {"choice": list(size.batches)},
            "steps": size.steps,
            "evaluate_every": size.evaluate_every,
        },
        "control": {"criteria": [{"metric": f"retain.{size.metric}", "at_least": size.limit}]},
        "pruning": {"criteria": False, "dominance": False},
        "objectives": {f"forget.{size.metric}": "minimize", f"retain.{size.metric}": "maximize"},
        "evaluate": {"metrics": sorted({"es", size.metric})},
        "search": {"sampler": "tpe", "trials": size.trials, "seed": 0},
        "certify": {"points": 3, "confidence": 0.9},
        "resources": {"gpu": 1, "trials_per_gpu": size.slots, "compile": size.compiled},
    }
    path.write_text(yaml.safe_dump(plain, sort_keys=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--toy", action="store_true")
    arguments = parser.parse_args()
    size = TOY if arguments.toy else CARD

    from rayul.spec import Model
    from rayul.testbed.finetune import TuningRecipe
    from rayul.testbed.on_base import table, write_testbed_on_base
    from rayul.testbed.write import read_sets

    began = time.monotonic()
    base, target = arguments.folder / "base", arguments.folder / "target"
    base.mkdir(parents=True, exist_ok=True)
    sets = read_sets([arguments.tofu], size.authors, size.forget)
    parameters = write_base(base, sets, size)
    write_sweep(arguments.folder / "tofu.yaml", target, size)
    rows = sum(len(part) for part in sets.values())
    print(f"{parameters / 1e6:.1f}M parameters, {rows} rows", flush=True)
    recipe = TuningRecipe(
        lr=size.lr,
        batch_size=size.batch_size,
        warmup_steps=30,
        max_epochs=size.max_epochs,
        max_seconds=arguments.seconds,
        enough=0.95,
    )
    said = [0.0]

    def report(message: str, share: float) -> None:
        if time.monotonic() - said[0] > 5:
            said[0] = time.monotonic()
            print(f"{time.monotonic() - began:.0f} s: {message}", flush=True)

    summary = write_testbed_on_base(target, Model(path=str(base)), sets, recipe, report)
    print(table(summary))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
