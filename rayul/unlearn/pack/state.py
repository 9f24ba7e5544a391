"""A trial of a pack between two steps, as it is kept on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rayul.files import whole_file

VALUES = "values"


class SlotState(NamedTuple):
    """A trial between two steps. reported: the step of its last report. terms: of the loss at its last step, by name.
    values: the row [P] of its parameters. kept: by name what its optimiser and its gradient rule keep, [P] each.
    watch: what its next evaluation may repeat, as `Watch.state` has it. The order of its rows and its dropout follow
    from seed and step."""

    step: int
    reported: int
    seconds: float
    terms: dict[str, float]
    values: Tensor
    kept: dict[str, Tensor]
    watch: dict[str, Any]

    def cpu(self) -> SlotState:
        return self._replace(values=self.values.cpu(), kept={key: t.cpu() for key, t in self.kept.items()})

    def save(self, path: Path) -> None:
        """Write it as safetensors; whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = {key: repr(getattr(self, key)) for key in ("step", "reported", "seconds")}
        numbers |= {"terms": json.dumps(self.terms), "watch": json.dumps(self.watch)}
        with whole_file(path) as temporary:
            save_file({VALUES: self.values, **self.kept}, temporary, metadata=numbers)

    @classmethod
    def load(cls, path: Path) -> SlotState:
        """What `save` wrote. Raises SafetensorError or OSError for what is no such file."""
        with safe_open(path, framework="pt") as file:
            numbers = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
        return cls(
            int(numbers["step"]),
            int(numbers["reported"]),
            float(numbers["seconds"]),
            json.loads(numbers.get("terms", "{}")),
            tensors.pop(VALUES),
            tensors,
            json.loads(numbers.get("watch", "{}")),
        )
