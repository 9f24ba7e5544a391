"""Saved updates, read again: a PEFT adapter for the base, or a whole model. Which of the two, its folder says."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rayul.errors import InputError
from rayul.files import whole_folder
from rayul.records.text_note import NOTE
from rayul.unlearn.update.received import Damaged, check_adapter_config, check_index

if TYPE_CHECKING:
    from peft import PeftModel


_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)
"""What PEFT, Transformers and safetensors raise for a folder of which that is so."""


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


@contextmanager
def loaded(base: Any, folder: Path) -> Iterator[Any]:
    """The model of a saved update, for the block; the base is as it was afterwards.

    A whole model is loaded in the dtype that it was saved in, beside the base. Raises InputError for what cannot be
    loaded.
    """
    if not is_adapter(folder):
        yield _whole(base, folder, "auto")
        return
    model = load_adapter(base, folder)
    try:
        yield model
    finally:
        detach_adapter(model)


Scaled = Callable[[float], AbstractContextManager[Any]]
"""Called with a in [0, 1]: for the block, the model (1 - a) * base + a * update."""


@contextmanager
def scalable(base: Any, folder: Path) -> Iterator[Scaled]:
    """A saved update at any scale, for the block; the base is as it was afterwards."""
    from peft.helpers import rescale_adapter_scale

    with loaded(base, folder) as model:

        @contextmanager
        def at(a: float) -> Iterator[Any]:
            with rescale_adapter_scale(model, a) if is_adapter(folder) else lerped(model, base, a):
                yield model

        yield at


@contextmanager
def lerped(model: Any, base: Any, a: float) -> Iterator[None]:
    """Within the block the weights of `model` are (1 - a) * base + a * model; afterwards they are what they were, to
    the bit. For a < 1 in further memory of the size of the weights."""
    if a == 1:
        yield
        return
    before = dict(base.named_parameters(remove_duplicate=False))  # a merged model may have untied its head
    names, parameters = zip(*model.named_parameters(), strict=True)
    trained = [p.data for p in parameters]
    try:
        for name, p in zip(names, parameters, strict=True):
            p.data = torch.lerp(before[name].to(p.dtype), p.data, a)
        yield
    finally:
        for p, weights in zip(parameters, trained, strict=True):
            p.data = weights


def save_scaled(base: Callable[[], Any], source: Path, a: float, folder: Path) -> None:
    """Write a saved update at scale a, whole or not at all. base: loads the base, which only a whole model needs."""
    with whole_folder(folder) as temporary:
        shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(NOTE), dirs_exist_ok=True)
        if is_adapter(source):
            check_safetensors(source)
            weights = load_file(source / "adapter_model.safetensors")
            scaled = {key: value * a if "lora_B" in key else value for key, value in weights.items()}
            save_file(scaled, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        else:
            before = base()
            model = _whole(before, source, "auto")
            with lerped(model, before, a):
                model.save_pretrained(temporary)


def standalone(base: Any, folder: Path | None = None) -> Any:
    """A model of its own in float32: of a saved update, or a copy of the base. An adapter is merged into it, in float32
    because in fewer bits a small update is rounded away.

    Not the base, which is shared by what comes after (and its weights possibly with other processes).
    """
    if folder is not None and not is_adapter(folder):
        return _whole(base, folder, "float32")
    model = copy.deepcopy(base).float()
    return model if folder is None else merged(load_adapter(model, folder))


def _whole(base: Any, folder: Path, dtype: str) -> Any:
    # The base's class, which is here already where it came with a model of the Hub.
    check_index(folder)
    try:
        model, found = type(base).from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True)
    except _UNREADABLE as error:
        raise _unreadable("model", folder, error) from error
    if missing := sorted(found["missing_keys"]):
        raise _lacking("model", folder, missing)
    return model.to(base.device).requires_grad_(False).eval()


def load_adapter(base: Any, folder: Path) -> PeftModel:
    """The base with an adapter on it that `LoraUpdate.save` wrote. Raises InputError for one in a pickle, one that
    cannot be read, and one that lacks weights (PEFT would draw them at random)."""
    from peft import PeftModel, get_peft_model_state_dict

    check_safetensors(folder)
    check_adapter_config(folder, [name for name, _ in base.named_modules()])
    try:
        with _no_warning_of_a_rename():
            model = PeftModel.from_pretrained(base, folder)
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
            missing = sorted(wanted - set(file.keys()))
    except Exception as error:  # a configuration that lies: PEFT, safetensors and re have errors of their own
        _take_off(base)
        raise _unreadable("adapter", folder, error) from error
    if missing:
        _take_off(base)
        raise _lacking("adapter", folder, missing)
    return model


def merged(model: PeftModel) -> Any:
    """The base with its adapter merged into the weights. A head that shares its weights with the embedding (tied) gets
    its own where it has an adapter, and the configuration says so: merged into both, the input would change, too."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    shared = base.get_input_embeddings().weight
    for module in base.modules():
        if isinstance(module, BaseTunerLayer) and module.get_base_layer().weight is shared:
            module.get_base_layer().weight = torch.nn.Parameter(shared.detach().clone(), requires_grad=False)
            base.config.get_text_config().tie_word_embeddings = False
            base.config.tie_word_embeddings = False
    return model.merge_and_unload()


def _lacking(what: str, folder: Path, missing: list[str]) -> Damaged:
    """Of weights that would be drawn at random, and scored as if they were what was saved."""
    return Damaged(
        f"{what} {folder} lacks {len(missing)} weights, {missing[0]} among them", "restore it, or export it again"
    )


def _unreadable(what: str, folder: Path, error: Exception) -> Exception:
    """The error as it is told: Damaged, unless it is the memory or the disk that failed."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return error
    kind = InputError if isinstance(error, OSError) and error.errno is not None else Damaged
    return kind(f"{what} {folder} cannot be loaded: {error}", "restore it, or export the point again")


def _take_off(base: Any) -> None:
    """What PEFT had put on the base when it met a file that it cannot read: the base is shared by what comes after."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(base.named_modules()):
        if isinstance(module, BaseTunerLayer):
            base.set_submodule(name, module.get_base_layer())
    if hasattr(base, "peft_config"):
        del base.peft_config


def detach_adapter(model: PeftModel) -> Any:
    """Take the adapter off; returns the untouched base."""
    base = model.unload()
    # PEFT leaves its config on the base, and warns at the next `get_peft_model`.
    if hasattr(base, "peft_config"):
        del base.peft_config
    return base


def check_safetensors(adapter: Path) -> None:
    """Raises InputError for an adapter folder that PEFT would read a pickle from."""
    if not (adapter / "adapter_model.safetensors").is_file():
        raise Damaged(
            f"adapter {adapter} has no adapter_model.safetensors",
            "a pickle (adapter_model.bin) runs code when it is read, so none is: save the adapter as safetensors",
        )


@contextmanager
def _no_warning_of_a_rename() -> Iterator[None]:
    with warnings.catch_warnings():
        # PEFT 0.21 asks for `is_gradient_checkpointing`, which transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
