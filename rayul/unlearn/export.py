"""An adapter made ready to leave: with its tokenizer, on request merged, and scored again after reloading."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rayul import spec as specs
from rayul.unlearn.adapters import load_adapter
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.measured import Measured
from rayul.unlearn.model import detach_lora, load_model
from rayul.unlearn.task import Task
from rayul.unlearn.trial import REPORTED

MERGED = "merged"

TOLERANCE = 1e-3
"""`largest_difference` between a point's record and its adapter reloaded, up to which the two are the same. On one CPU
it is 0; another batch order or device moves a mean by less than one row in a thousand."""


def copy_adapter(source: Path, base: specs.Model, folder: Path, tokenizer: Any) -> None:
    """Copy a saved PEFT adapter into `folder`, pointing at its base by id or absolute path, with the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / "adapter_model.safetensors", folder)
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    local = Path(base.path).expanduser()
    config["base_model_name_or_path"] = str(local.resolve()) if local.exists() else base.path
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)


def write_merged(base: specs.Model, adapter: Path, folder: Path, tokenizer: Any) -> None:
    """Write the base with the adapter merged into its weights, in the base's dtype.

    Merged in float32 on the CPU: an update added in bfloat16 would lose most of its digits.
    """
    from transformers import AutoConfig

    model, _ = load_model(base.model_copy(update={"dtype": "float32", "quantize": None}), device="cpu")
    merged = load_adapter(model, adapter).merge_and_unload()
    dtype: Any = base.dtype
    if dtype == "auto":
        config = AutoConfig.from_pretrained(base.path, revision=base.revision, trust_remote_code=base.trust_remote_code)
        dtype = config.dtype or torch.float32
    merged.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def score_adapter(task: Task, spec: specs.Spec, adapter: Path) -> dict[str, Measured]:
    """The cheap metrics of a saved adapter on the task's base, the report rows included; the base stays as it was."""
    model = load_adapter(task.base, adapter)
    try:
        return measure_reported(task, spec, model)
    finally:
        detach_lora(model)


def measure_reported(task: Task, spec: specs.Spec, model: Any) -> dict[str, Measured]:
    """What every evaluation of the sweep measures, and the same of the report rows."""
    return evaluate(model, task, spec.evaluate.metrics, spec.evaluate.batch_size, REPORTED).measured


def largest_difference(measured: Mapping[str, Measured], recorded: Mapping[str, float]) -> float:
    """The largest difference of a recorded metric to the measured one: absolute, relative where the record exceeds 1.
    Infinite where only one of them is finite, or the measured one is missing."""
    worst = 0.0
    for key, value in recorded.items():
        now = measured[key].value if key in measured else math.nan
        if now == value:  # a perplexity may overflow both times
            continue
        if not (math.isfinite(now) and math.isfinite(value)):
            return math.inf
        worst = max(worst, abs(now - value) / max(1.0, abs(value)))
    return worst
