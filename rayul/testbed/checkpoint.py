"""The state of a training on disk, so that one that was stopped goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rayul.files import whole_file

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW's state, beside the number of steps."""


def checkpoint_path(folder: Path, role: str) -> Path:
    return folder / f"{role}.checkpoint"


def result_path(folder: Path, role: str) -> Path:
    """What a training that has ended says is done."""
    return folder / f"{role}.result.json"


def keep(path: Path, parameters: Sequence[Any], optimizer: Any, step: int, notes: Mapping[str, str]) -> None:
    """Write the parameters and AdamW's state after so many steps, whole or not at all. notes: what else the training
    needs to go on."""
    tensors = {f"parameter.{i}": parameter.detach() for i, parameter in enumerate(parameters)}
    for name in MOMENTS:
        tensors |= {f"{name}.{i}": optimizer.state[parameter][name] for i, parameter in enumerate(parameters)}
    with whole_file(path) as file:
        save_file(tensors, file, metadata={"step": f"{step}", **notes})


def restore(path: Path, parameters: Sequence[Any], optimizer: Any) -> dict[str, str]:
    """Put back what `keep` wrote; returns its notes, and the number of steps as "step"."""
    with safe_open(path, framework="pt", device=str(parameters[0].device)) as file:
        notes: dict[str, str] = file.metadata()
        with torch.no_grad():
            for i, parameter in enumerate(parameters):
                parameter.copy_(file.get_tensor(f"parameter.{i}"))
                moments = {name: file.get_tensor(f"{name}.{i}") for name in MOMENTS}
                optimizer.state[parameter] = {"step": torch.tensor(float(notes["step"])), **moments}
    return notes
