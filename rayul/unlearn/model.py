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
from safetensors import SafetensorError, safe_open
from torch.utils.checkpoint import checkpoint

from rayul import spec as specs
from rayul.errors import InputError
from rayul.records.trusted import ADAPTER_DEPTH
from rayul.unlearn.gguf import plain_model
from rayul.unlearn.update.received import is_beside
from rayul.unlearn.update.saved import check_safetensors, is_adapter, load_adapter, merged
from rayul.words import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


def load_model(model: specs.Model, device: str | None = None, spread: bool = False) -> tuple[Any, Tokenizer]:
    """A causal LM (eval mode, no gradients) and its tokenizer, from a folder, a Hub id or a package.

    A folder that holds a PEFT adapter is loaded with its base and merged. `device`: default CUDA where there is one.
    spread: over all GPUs that this process sees, layer by layer, by accelerate.
    Raises InputError for a path that holds no model or no tokenizer, and for 4 bits without what they need.
    """
    from transformers.utils import logging as hf_logging

    model = plain_model(model)
    hf_logging.disable_progress_bar()  # "Loading weights" once per process would drown our own progress
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = _place(model)
    options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    dtype = model.dtype if model.dtype == "auto" else getattr(torch, model.dtype)
    if model.quantize is not None:
        options["quantization_config"] = _four_bits(dtype)
    if spread:
        options["device_map"] = "auto"
    if is_adapter(Path(place)):
        base = _with_adapter(model, Path(place), device, spread)
    else:
        base = _weights(model, place, dtype, options)
    base.requires_grad_(False)
    ends = base.generation_config.eos_token_id
    base.generation_config.pad_token_id = ends[0] if isinstance(ends, list) else ends
    if not spread and model.quantize is None:  # those are where they belong
        base = base.to(device)
    tokenizer = load_tokenizer(model)
    if model.tokenizer is not None:
        _check_vocabulary(base, tokenizer, model)
    return base.eval(), tokenizer


def _check_vocabulary(base: Any, tokenizer: Tokenizer, model: specs.Model) -> None:
    """Raises InputError for a tokenizer from elsewhere with tokens that the model has no embedding of."""
    known, last = base.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if last >= known:
        raise InputError(
            f"model.tokenizer {model.tokenizer!r} has tokens up to number {last}, and the model knows {known}",
            "name the tokenizer that the model was trained with",
        )


def _weights(model: specs.Model, place: str, dtype: Any, options: dict[str, Any]) -> Any:
    """The model with every weight from its safetensors files: a weight that no file has would be drawn at random, and
    its scores with it."""
    from transformers import AutoModelForCausalLM

    _check_index(place, model)
    _check_layers(Path(place), model)
    try:
        # A pickle runs code when it is read: weights come as safetensors or not at all.
        base, found = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a config, a header, a shape that lies: each library has errors of its own
        raise _unloadable(model, first_line(error), _needs_code(error)) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise _unloadable(model, f"its files lack {len(missing)} weights, {missing[0]} among them")
    return base


def _with_adapter(model: specs.Model, adapter: Path, device: str, spread: bool) -> Any:
    """A folder with a PEFT adapter: its base, with the adapter merged into it."""
    check_safetensors(adapter)
    path = _base_of(adapter)
    base, _ = load_model(model.model_copy(update={"path": path, "revision": None}), device, spread)
    return merged(load_adapter(base, adapter))


def _base_of(adapter: Path) -> str:
    """The base that an adapter names. Raises InputError for one that names none, and for a chain of adapters on
    adapters that has no end, or one behind which a trusted model's code could change unseen."""
    path = base = _named_base(adapter)
    for _ in range(ADAPTER_DEPTH - 1):
        if not is_adapter(Path(base).expanduser()):
            return path
        base = _named_base(Path(base).expanduser())
    if is_adapter(Path(base).expanduser()):
        raise InputError(
            f"{adapter / 'adapter_config.json'}: its base is an adapter on an adapter, more than {ADAPTER_DEPTH} deep",
            "merge them, and save the result as a model",
        )
    return path


def _named_base(adapter: Path) -> str:
    try:
        return str(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{adapter / 'adapter_config.json'} names no base model: {first_line(error)}", "save the adapter again"
        ) from None


def _check_index(place: str, model: specs.Model) -> None:
    """Raises InputError where an index names a file that is not safetensors (transformers would unpickle it), or that
    is not beside it."""
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file

    try:
        index = cached_file(
            place,
            SAFE_WEIGHTS_INDEX_NAME,
            revision=model.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if index is None:
            return
        files = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unloadable(model, f"{SAFE_WEIGHTS_INDEX_NAME}: {first_line(error)}") from None
    for file in files:
        if not is_beside(file):
            raise _unloadable(
                model, f"{SAFE_WEIGHTS_INDEX_NAME} names {file!r}, which is no safetensors file beside it"
            )


def _check_layers(folder: Path, model: specs.Model) -> None:
    """Raises InputError where config.json claims more layers than the folder has weights: they would be made, one by
    one, until the memory ends. (Sizes that are claimed cost nothing: a model is made without memory first.)"""
    if not folder.is_dir():
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        claimed = max((n for key in _LAYERS for n in _values(config, key) if isinstance(n, int)), default=0)
        weights = 0
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="pt") as opened:
                weights += len(opened.keys())
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise _unloadable(model, first_line(error)) from None
    if claimed > max(weights, 1000):  # of fewer, those that the files lack are named
        raise _unloadable(model, f"its config.json claims {claimed} layers, and its files have {weights} weights")


_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers")


def _values(config: Any, key: str) -> Iterator[Any]:
    """Of a key, at any depth: a model of several parts has a configuration for each."""
    if isinstance(config, dict):
        yield from [config[key]] if key in config else []
        for child in config.values():
            yield from _values(child, key)


TRUST = (
    "read the code that comes with it, and if you trust it set model.trust_remote_code: true "
    "(rayul evaluate: --trust-remote-code)"
)


def _needs_code(error: Exception) -> bool:
    return "trust_remote_code" in str(error)


def _unloadable(model: specs.Model, why: str, needs_code: bool = False) -> InputError:
    return InputError(
        f"model {model.path!r} cannot be loaded: {why}",
        TRUST
        if needs_code
        else "name a folder with a Hugging Face model (config.json, model.safetensors) or a Hub id; "
        "a gated model needs HF_TOKEN; weights in pickle files (.bin) are not read: save them as safetensors",
    )


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
    """The tokenizer of a model folder or Hub id, of its base for an adapter without one, or of the place that
    `model.tokenizer` names; InputError where there is none."""
    from transformers import AutoTokenizer

    if model.tokenizer is None:
        model = plain_model(model)
    else:
        elsewhere = {"path": model.tokenizer, "tokenizer": None, "revision": None, "trust_remote_code": False}
        model = model.model_copy(update=elsewhere)
    place = _place(model)
    if Path(place).is_dir() and not any(Path(place).glob("tokenizer*")) and not (Path(place) / "vocab.json").exists():
        if (Path(place) / "adapter_config.json").is_file():
            return load_tokenizer(model.model_copy(update={"path": _base_of(Path(place)), "revision": None}))
        raise InputError(
            f"model folder {place} has no tokenizer (no tokenizer.json or tokenizer_config.json)",
            "save it there with tokenizer.save_pretrained(folder)",
        )
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            place, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:  # the same of tokenizers
        raise InputError(
            f"the tokenizer of {model.path!r} cannot be loaded: {first_line(error)}",
            TRUST if _needs_code(error) else "check the folder or the id",
        ) from error
    return tokenizer


def _place(model: specs.Model) -> str:
    local = Path(model.path).expanduser()
    if local.is_dir():
        for path in local.iterdir():
            if path.exists() and not (path.is_file() or path.is_dir()):  # it would be read for ever, or waited for
                raise InputError(f"{path} is not a plain file", "a model folder has none of the kind: remove it")
    return str(local) if local.exists() else model.path
