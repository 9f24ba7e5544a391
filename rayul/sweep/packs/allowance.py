"""How long a sweep trains, and what measuring its packs may therefore cost."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from rayul.spec import Choice, Float, Int, Model, Spec, heaviest
from rayul.sweep.cluster import on_cpu
from rayul.unlearn.data import Sets

SHARE = 0.03
"""Of the time in which the sweep would train one trial at a time: what it may lose to a measurement that gains nothing.
"""
PACKS, COMPILED = 20.0, 60.0
"""Seconds that measuring sizes and compiling one of them take, with the process that does it. Sizes have 15 s for
turns; a pack of the testbed compiled in 44 s beside other work (results/packs)."""
CORE, GPU = 4e10, 3e13
"""Operations a second of one trial at a time (results/packs): 40 GFLOPS on a core through PEFT; 17 and 69 TFLOPS on an
H200 at 4 and 16 rows."""
PRUNED = 0.5
"""Share of the steps that are left where rules stop trials: half in results/search, more in the README's sweep."""
TESTED = ("llama", "qwen2", "qwen3", "phi3", "gemma3_text", "mistral", "gpt_neox", "olmo", "olmo2")
CHARACTERS = 4
"""Of a token."""


def training_seconds(spec: Spec, rate: float, devices: int) -> float:
    """Of a whole sweep without its evaluations. rate: forget rows a second of a device."""
    search, training = spec.search, spec.training
    stops = bool(spec.pruning.rules or spec.pruning.dominance or spec.pruning.budget)
    stops |= spec.pruning.criteria and bool(spec.criteria)
    rows = search.trials * _mean(training.steps) * _mean(training.batch_size) * (PRUNED if stops else 1.0)
    hours = math.inf if search.max_device_hours is None else search.max_device_hours
    return min(rows / rate / devices, search.time_limit or math.inf, hours * 3600 / devices)


def compiling_seconds(spec: Spec, rate: float, slots: int) -> float:
    """What it takes to measure a compiled pack: the compiler, and two turns of it and of one that is not."""
    return COMPILED + 4 * slots * spec.at(heaviest(spec)).training.batch_size / rate


def estimated_rate(spec: Spec, sets: Sets, *, on_gpu: bool, threads: int) -> float | None:
    """Forget rows a second that one trial at a time trains by the size of its model, to a factor of two or so; None for
    a model whose configuration does not say it. A weight takes two operations
    a token forward and two backward."""
    weights = _weights(spec.model)
    rows = sets.get("forget", ())
    if weights is None or not rows:
        return None
    tokens = max(1.0, sum(len(row.question) + len(row.answer) for row in rows) / len(rows) / CHARACTERS)
    per_row = 4 * weights * tokens * (2 if spec.method.retaining else 1)
    return (GPU if on_gpu else CORE * threads) / per_row


def packs_are_tested(spec: Spec) -> bool:
    """Whether the tests train packs of such a model (docs/spec.md lists them), with adapters on all linear modules."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        plain = not spec.model.trust_remote_code and spec.lora.target_modules == "all-linear"
        return plain and _config(spec.model)["model_type"] in TESTED
    return False


def one_is_packed(spec: Spec) -> bool:
    """Whether one trial at a time is a pack of one: on cores its steps take two thirds of the time of PEFT's
    (results/packs), and its model stays loaded."""
    return on_cpu(spec.resources) and packs_are_tested(spec)


def is_float32(model: Model) -> bool:
    """Whether its weights are loaded as float32, as far as a config.json of this machine says for `dtype: auto`."""
    if model.dtype != "auto":
        return model.dtype == "float32"
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        config = _config(model)
        return (config.get("dtype") or config.get("torch_dtype") or "float32") == "float32"
    return False


def _weights(model: Model) -> float | None:
    """Number of the model's weights that a token is multiplied with, by a config.json of this machine: a decoder's with
    gated layers, to a tenth or two."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        config = _config(model)
        config = config.get("text_config", config)
        width, inner = float(config["hidden_size"]), float(config["intermediate_size"])
        layers, words = float(config["num_hidden_layers"]), float(config["vocab_size"])
        found = layers * (4 * width**2 + 3 * width * inner) + words * width
        return found if 0 < found < math.inf else None
    return None


def _config(model: Model) -> Any:
    """What config.json says in the model's folder, or, of an id on the Hub, where it was fetched with the tokenizer."""
    from huggingface_hub import try_to_load_from_cache

    found: object = Path(model.path).expanduser() / "config.json"
    if not Path(model.path).expanduser().is_dir():
        found = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    return json.loads(Path(str(found)).read_text(encoding="utf-8"))


def _mean(value: Any) -> float:
    """Of a leaf of a spec, drawn evenly."""
    if isinstance(value, Choice):
        return sum(float(option) for option in value.options if option is not None) / len(value.options)
    return (value.low + value.high) / 2 if isinstance(value, (Float, Int)) else float(value)
