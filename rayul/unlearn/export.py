"""A point of the front made ready to leave: with its tokenizer, on request merged, and scored after reloading."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rayul import spec as specs
from rayul.files import write_json
from rayul.records.text_note import NOTE, text_note
from rayul.spec import plainly
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.measured import Measured
from rayul.unlearn.model import load_model
from rayul.unlearn.task import Task
from rayul.unlearn.trial import REPORTED
from rayul.unlearn.update.saved import is_adapter, load_adapter, loaded, merged

MERGED = "merged"

TOLERANCE = 1e-3
"""`largest_difference` between a point's record and what was saved of it, up to which the two are the same. On one CPU
it is 0; another batch order or device moves a mean by less than one row in a thousand."""


_SAVED = ("adapter_config.json", "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
"""Files of a saved point. The folder may be somebody else's: whatever else is in it does not go with an export."""


def copy_saved(source: Path, folder: Path) -> None:
    """Copy a saved point, a PEFT adapter or a whole model without its tokenizer, into `folder`."""
    folder.mkdir(exist_ok=True)
    files = [path for path in sorted(source.iterdir()) if any(map(path.match, _SAVED))]
    if not files:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
    for path in files:
        shutil.copyfile(path, folder / path.name)


def complete_saved(folder: Path, base: specs.Model, tokenizer: Any) -> None:
    """Make a copied point complete: with the tokenizer, and an adapter names its base by id or absolute path."""
    if is_adapter(folder):
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        local = Path(base.path).expanduser()
        config["base_model_name_or_path"] = str(local.resolve()) if local.exists() else base.path
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    write_json(folder / NOTE, text_note(base))


def write_merged(base: specs.Model, adapter: Path, folder: Path, tokenizer: Any) -> None:
    """Write the base with the adapter merged into its weights, in the base's dtype.

    Merged in float32 on the CPU: an update added in bfloat16 would lose most of its digits.
    """
    from transformers import AutoConfig

    model, _ = load_model(base.model_copy(update={"dtype": "float32", "quantize": None}), device="cpu")
    whole = merged(load_adapter(model, adapter))
    settle_generation(whole.generation_config)
    dtype: Any = base.dtype
    if dtype == "auto":
        config = AutoConfig.from_pretrained(base.path, revision=base.revision, trust_remote_code=base.trust_remote_code)
        dtype = config.dtype or torch.float32
    whole.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / NOTE, text_note(base))


def settle_generation(config: Any) -> None:
    """Drop what a greedy generation does not read: saving it beside `do_sample: false` is an error in transformers."""
    if not config.do_sample:
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            setattr(config, name, None)


def score_saved(task: Task, spec: specs.Spec, folder: Path) -> dict[str, Measured]:
    """The cheap metrics of a saved point, the report rows included; the task's base stays as it was."""
    with loaded(task.base, folder) as model:
        return measure_reported(task, spec, model)


def measure_reported(task: Task, spec: specs.Spec, model: Any) -> dict[str, Measured]:
    """What every evaluation of the sweep measures, and es, the same of the report rows."""
    return evaluate(model, task, spec.evaluate.reported, spec.evaluate.batch_size, REPORTED, everything=True).measured


def largest_difference(measured: Mapping[str, Measured], recorded: Mapping[str, float]) -> float:
    """The largest difference of a recorded metric to the measured one: absolute, relative where the record exceeds 1.
    Infinite where only one of them is finite, or the measured one is missing. Metrics under attack are of the trial
    while it trained, and are not measured again."""
    worst = 0.0
    for key, value in recorded.items():
        if plainly(key) != key:
            continue
        now = measured[key].value if key in measured else math.nan
        if now == value:  # a perplexity may overflow both times
            continue
        if not (math.isfinite(now) and math.isfinite(value)):
            return math.inf
        worst = max(worst, abs(now - value) / max(1.0, abs(value)))
    return worst
