"""The frozen base and its tokenizer, from a folder or a Hub id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from rayul import spec as specs
from rayul.errors import InputError
from rayul.unlearn.update.saved import is_adapter, load_merged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


def load_model(model: specs.Model, device: str | None = None, spread: bool = False) -> tuple[Any, Tokenizer]:
    """A causal LM (eval mode, no gradients) and its tokenizer, from a folder or a Hub id.

    A folder that holds a PEFT adapter is loaded with its base and merged. `device`: default CUDA where there is one.
    spread: over all GPUs that this process sees, layer by layer, by accelerate.
    Raises InputError for a path that holds no model or no tokenizer, and for 4 bits without what they need.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()  # "Loading weights" once per process would drown our own progress
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = _place(model)
    options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    dtype = model.dtype if model.dtype == "auto" else getattr(torch, model.dtype)
    if model.quantize is not None:
        options["quantization_config"] = _four_bits(dtype)
    if spread:
        options["device_map"] = "auto"
    # A pickle runs code when it is read: weights come as safetensors or not at all.
    weights = options | {"use_safetensors": True}
    try:
        if is_adapter(Path(place)):
            base = load_merged(Path(place), dtype=dtype, **weights)
        else:
            base = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, **weights)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model {model.path!r} cannot be loaded: {first_line(error)}",
            "name a folder with a Hugging Face model (config.json, model.safetensors) or a Hub id; "
            "a gated model needs HF_TOKEN; weights in pickle files (.bin) are not read: save them as safetensors",
        ) from error
    base.requires_grad_(False)
    base.generation_config.pad_token_id = base.generation_config.eos_token_id
    if not spread and model.quantize is None:  # those are where they belong
        base = base.to(device)
    return base.eval(), load_tokenizer(model)


def _four_bits(dtype: Any) -> Any:
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        raise InputError(
            "model.quantize: 4bit needs a CUDA GPU and bitsandbytes",
            "pip install bitsandbytes on a machine with a GPU, or leave it out",
        )
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if dtype == "auto" else dtype
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


@contextmanager
def gradient_checkpointing(model: Any, on: bool) -> Iterator[None]:
    """Keep no activations within the model's layers while the block runs. The rest of the model stays in eval mode.

    Raises InputError for a model that cannot.
    """
    if not on:
        yield
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(f"training.gradient_checkpointing: {type(model).__name__} has no such layers", "leave it out")
    for layer in layers:
        layer.gradient_checkpointing, layer.training = True, True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing, layer.training = False, False


def load_tokenizer(model: specs.Model) -> Tokenizer:
    """The tokenizer of a model folder or Hub id, of its base for an adapter without one; InputError where there is
    none."""
    from transformers import AutoTokenizer

    place = _place(model)
    if Path(place).is_dir() and not any(Path(place).glob("tokenizer*")) and not (Path(place) / "vocab.json").exists():
        adapter = Path(place) / "adapter_config.json"
        if adapter.is_file():
            base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
            return load_tokenizer(model.model_copy(update={"path": base, "revision": None}))
        raise InputError(
            f"model folder {place} has no tokenizer (no tokenizer.json or tokenizer_config.json)",
            "save it there with tokenizer.save_pretrained(folder)",
        )
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            place, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"the tokenizer of {model.path!r} cannot be loaded: {first_line(error)}", "check the folder or the id"
        ) from error
    return tokenizer


def _place(model: specs.Model) -> str:
    local = Path(model.path).expanduser()
    return str(local) if local.exists() else model.path


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
