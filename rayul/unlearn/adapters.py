"""Adapters on disk: PEFT folders that any PEFT program loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel


def save_adapter(model: PeftModel, mixing: float, folder: Path) -> None:
    """Write the adapter with the mixing baked into its B matrices (`lora_alpha` is an integer, so it cannot carry it).

    Written beside the target and renamed: the folder is whole or absent.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    state = {k: v * mixing if "lora_B" in k else v for k, v in model.state_dict().items() if "lora_" in k}
    model.save_pretrained(temporary, state_dict=state)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def load_adapter(base: Any, folder: Path) -> PeftModel:
    """The base with a saved adapter on it (safetensors only: no pickle is ever loaded)."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder)
