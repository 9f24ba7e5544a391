"""Models in GGUF files, converted once into folders of safetensors in rayul's cache: everything else reads those.

transformers undoes the quantisation while it loads such a file, but a model that was loaded so cannot be saved.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rayul import spec as specs
from rayul.cache import PARTIAL, cache_folder, made_once
from rayul.errors import InputError, RayulError
from rayul.files import folder_mode, share_folder
from rayul.words import first_line

Progress = Callable[[str, float], None]
"""Called with what is happening and how much of it is done, in [0, 1]."""


def plain_model(model: specs.Model, progress: Progress | None = None) -> specs.Model:
    """The model as a folder that anything loads, for one in a GGUF file: one that a package carries (PACKAGED), or one
    that the spec names as `gguf_file`. Any other as it is.

    Converted on first use, in float32 or in `model.dtype` where that is a half precision. Safe when several processes
    call it at once. Raises InputError for a package that is not installed and for a file that cannot be converted, and
    RayulError when the cache folder cannot be written.
    """
    packaged = specs.PACKAGED.get(model.path)
    if packaged is None and model.gguf_file is None:
        return model
    if packaged is not None and not (parts := packaged.files()):
        raise InputError(f"model {model.path!r} is in a package that is not installed", packaged.command)
    if packaged is None:
        parts = [_found(model)]
    try:
        folder = _converted(parts, model, packaged, progress or (lambda message, done: None))
    except OSError as error:
        raise RayulError(
            f"cannot write the converted model {model.path!r} to {cache_folder()}: {error}",
            "set RAYUL_CACHE to a folder with room that you may write",
        ) from error
    return model.model_copy(update={"path": str(folder), "gguf_file": None, "revision": None})


def _found(model: specs.Model) -> Path:
    """The file in a folder of this machine, or fetched from the Hub."""
    from transformers.utils import cached_file

    assert model.gguf_file is not None
    local = Path(model.path).expanduser()
    try:
        found = local / model.gguf_file if local.is_dir() else None
        found = found or Path(str(cached_file(model.path, model.gguf_file, revision=model.revision)))
    except (OSError, ValueError) as error:
        raise _unloadable(model, first_line(error)) from None
    if not found.is_file():
        raise _unloadable(model, f"{found} is no file")
    return found


def _converted(parts: Sequence[Path], model: specs.Model, packaged: specs.Packaged | None, progress: Progress) -> Path:
    root = cache_folder() / "models"
    dtype = "float32" if model.dtype == "auto" else model.dtype
    without = "-without-tokenizer" if model.tokenizer else ""
    folder = root / f"gguf-{_content_hash(parts, dtype)}{without}"
    name = model.gguf_file or model.path

    def make() -> None:
        progress(f"converting {name} from GGUF", 0.0)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", suffix=PARTIAL, dir=root) as partial:
            place = Path(partial) / "model"
            place.mkdir()
            _convert(_joined(parts, Path(partial)), place, model, getattr(torch, dtype))
            (place / "README.md").write_text(_card(model, packaged, parts), encoding="utf-8")
            share_folder(place, folder_mode())
            place.rename(folder)
        progress(f"converted {name} from GGUF", 1.0)

    return made_once(folder, make, lambda: progress("another process is converting the model: waiting for it", 0.0))


def _content_hash(parts: Sequence[Path], dtype: str) -> str:
    """Of the file and of all else that decides what is made of it."""
    digest = hashlib.sha256(json.dumps([dtype, version("transformers")]).encode())
    for part in parts:
        with open(part, "rb") as file:
            while block := file.read(2**24):
                digest.update(block)
    return digest.hexdigest()[:16]


def _joined(parts: Sequence[Path], folder: Path) -> Path:
    """One file of all parts; of one part itself."""
    if len(parts) == 1:
        return parts[0]
    whole = folder / "model.gguf"
    with open(whole, "wb") as target:
        for part in parts:
            with open(part, "rb") as source:
                shutil.copyfileobj(source, target)
    return whole


def _convert(file: Path, folder: Path, model: specs.Model, dtype: torch.dtype) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    try:
        version("gguf")
    except PackageNotFoundError:
        raise InputError("GGUF files need the package gguf", "pip install --no-deps gguf") from None
    hf_logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        with redirect_stderr(io.StringIO()):  # a bar of its own that no setting turns off
            tokenizer = None if model.tokenizer else AutoTokenizer.from_pretrained(**source)
            quantised, found = AutoModelForCausalLM.from_pretrained(**source, dtype=dtype, output_loading_info=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a header that lies, a kind of quantisation that is unknown: each library has its own
        raise _unloadable(model, first_line(error)) from error
    if missing := sorted(found["missing_keys"]):
        raise _unloadable(model, f"it lacks {len(missing)} weights, {missing[0]} among them")
    _rebuilt(quantised).save_pretrained(folder, state_dict=quantised.state_dict())
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _rebuilt(quantised: Any) -> Any:
    """The same model, without weights and without the memory of its quantisation, which keeps it from being saved."""
    config = type(quantised.config)(**{
        key: value for key, value in quantised.config.to_dict().items() if key != "quantization_config"
    })  # fmt: skip
    with torch.device("meta"):
        rebuilt = type(quantised)(config)
    rebuilt.generation_config = quantised.generation_config
    return rebuilt


def _card(model: specs.Model, packaged: specs.Packaged | None, parts: Sequence[Path]) -> str:
    source = f"{model.path}, {model.gguf_file}" if packaged is None else " ".join(packaged.install)
    meta = "" if packaged is None else f"---\nlicense: {packaged.licence}\nbase_model: {packaged.hub_id}\n---\n\n"
    of = "" if packaged is None else f" of [{packaged.hub_id}](https://huggingface.co/{packaged.hub_id})"
    return (
        f"{meta}The weights{of} in {parts[0].name} (from {source}), with their quantisation undone by transformers "
        f"{version('transformers')}. Made by rayul; it makes this folder again where it is missing.\n"
    )


def _unloadable(model: specs.Model, why: str) -> InputError:
    return InputError(
        f"{model.gguf_file or model.path} of model {model.path!r} cannot be loaded: {why}",
        "take a file of another kind of quantisation (Q8_0, Q4_K_M and F16 are read), or the model's safetensors",
    )
