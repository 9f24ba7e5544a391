"""Adapters on disk: PEFT folders that any PEFT program loads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rayul.errors import InputError
from rayul.files import whole_folder

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


def save_adapter(model: PeftModel, mixing: float, folder: Path) -> None:
    """Write the adapter with the mixing baked into its B matrices (`lora_alpha` is an integer, so it cannot carry it).

    Written beside the target and renamed: the folder is whole or absent.
    """
    state = {k: v * mixing if "lora_B" in k else v for k, v in model.state_dict().items() if "lora_" in k}
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary, state_dict=state)


def write_adapter(pairs: Mapping[str, tuple[Tensor, Tensor]], config: LoraConfig, mixing: float, folder: Path) -> None:
    """`save_adapter` of weights that are on no PEFT model: A [r, d] and B [o, r] by the name of their module."""
    state = {}
    for name, (a, b) in pairs.items():
        state[f"base_model.model.{name}.lora_A.weight"] = a
        state[f"base_model.model.{name}.lora_B.weight"] = b * mixing
    with whole_folder(folder) as temporary:
        config.save_pretrained(temporary)
        save_file(state, temporary / "adapter_model.safetensors", metadata={"format": "pt"})


def check_safetensors(adapter: Path) -> None:
    """Raises InputError for an adapter folder that PEFT would read a pickle from."""
    if not (adapter / "adapter_model.safetensors").is_file():
        raise InputError(
            f"adapter {adapter} has no adapter_model.safetensors",
            "a pickle (adapter_model.bin) runs code when it is read, so none is: save the adapter as safetensors",
        )


def load_adapter(base: Any, folder: Path) -> PeftModel:
    """The base with an adapter on it that `save_adapter` wrote. Raises InputError for one in a pickle, one that cannot
    be read, and one that lacks weights (PEFT would draw them at random)."""
    from peft import PeftModel, get_peft_model_state_dict

    check_safetensors(folder)
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 asks for `is_gradient_checkpointing`, which transformers 5.23 has renamed.
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(base, folder)
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            wanted = {key for key in get_peft_model_state_dict(model) if "lora_" in key}
            missing = sorted(wanted - set(file.keys()))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"adapter {folder} cannot be loaded: {error}", "restore it, or export the point again"
        ) from error
    if missing:
        raise InputError(
            f"adapter {folder} lacks {len(missing)} weights, {missing[0]} among them", "restore it, or export it again"
        )
    return model
