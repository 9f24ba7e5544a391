"""Saved updates, read again: a PEFT adapter for the base, or a whole model. Which of the two, its folder says."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayul.errors import InputError

if TYPE_CHECKING:
    from peft import PeftModel


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


@contextmanager
def loaded(base: Any, folder: Path) -> Iterator[Any]:
    """The model of a saved update, for the block; the base is as it was afterwards.

    A whole model is loaded in the dtype that it was saved in, beside the base.
    """
    if not is_adapter(folder):
        yield _whole(base, folder, "auto")
        return
    model = load_adapter(base, folder)
    try:
        yield model
    finally:
        detach_adapter(model)


def standalone(base: Any, folder: Path | None = None) -> Any:
    """A model of its own in float32: of a saved update, or a copy of the base. An adapter is merged into it, in float32
    because in fewer bits a small update is rounded away.

    Not the base, which is shared by what comes after (and its weights possibly with other processes).
    """
    if folder is not None and not is_adapter(folder):
        return _whole(base, folder, "float32")
    model = copy.deepcopy(base).float()
    return model if folder is None else load_adapter(model, folder).merge_and_unload()


def _whole(base: Any, folder: Path, dtype: str) -> Any:
    # The base's class, which is here already where it came with a model of the Hub.
    model = type(base).from_pretrained(folder, dtype=dtype, use_safetensors=True)
    return model.to(base.device).requires_grad_(False).eval()


def load_adapter(base: Any, folder: Path) -> PeftModel:
    """The base with a saved adapter on it. Raises InputError for one in a pickle."""
    from peft import PeftModel

    check_safetensors(folder)
    with _no_warning_of_a_rename():
        return PeftModel.from_pretrained(base, folder)


def load_merged(folder: Path, **options: Any) -> Any:
    """The base that an adapter names, with the adapter merged into its weights. Raises InputError for a pickle."""
    from peft import AutoPeftModelForCausalLM

    check_safetensors(folder)
    with _no_warning_of_a_rename():
        return AutoPeftModelForCausalLM.from_pretrained(folder, **options).merge_and_unload()


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
        raise InputError(
            f"adapter {adapter} has no adapter_model.safetensors",
            "a pickle (adapter_model.bin) runs code when it is read, so none is: save the adapter as safetensors",
        )


@contextmanager
def _no_warning_of_a_rename() -> Iterator[None]:
    with warnings.catch_warnings():
        # PEFT 0.21 asks for `is_gradient_checkpointing`, which transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
