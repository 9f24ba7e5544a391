"""A trial of a pack between two steps, as it is kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rayul.files import whole_file


class SlotState(NamedTuple):
    """A trial between two steps: the step of its last report, and the row of its parameters and of both Adam moments,
    [P] each. The order of its rows and its dropout follow from seed and step."""

    step: int
    reported: int
    seconds: float
    values: Tensor
    mean: Tensor | None
    square: Tensor | None

    def cpu(self) -> SlotState:
        return self._replace(**{key: t.cpu() for key in _TENSORS if (t := getattr(self, key)) is not None})

    def save(self, path: Path) -> None:
        """Write it as safetensors; whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {key: t for key in _TENSORS if (t := getattr(self, key)) is not None}
        numbers = {key: repr(getattr(self, key)) for key in ("step", "reported", "seconds")}
        with whole_file(path) as temporary:
            save_file(tensors, temporary, metadata=numbers)

    @classmethod
    def load(cls, path: Path) -> SlotState:
        """What `save` wrote. Raises SafetensorError or OSError for what is no such file."""
        with safe_open(path, framework="pt") as file:
            numbers, keys = file.metadata(), set(file.keys())
            moments = (file.get_tensor(key) if key in keys else None for key in _TENSORS[1:])
            state = cls(
                int(numbers["step"]),
                int(numbers["reported"]),
                float(numbers["seconds"]),
                file.get_tensor("values"),
                *moments,
            )
        return state


_TENSORS = ("values", "mean", "square")
