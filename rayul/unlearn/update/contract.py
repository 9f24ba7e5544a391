"""What the rest of rayul knows of an update."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from rayul.spec import Spec

if TYPE_CHECKING:
    from rayul.unlearn.task import Task


class Update(Protocol):
    """What a trial trains on a base that it shares with others, whose own weights are never written to.

    model: the causal LM that unlearns, in eval mode. parameters: what the optimiser steps, in float32.
    """

    model: Any
    parameters: list[Tensor]

    def reference(self) -> AbstractContextManager[Any]:
        """The model before unlearning, for the block; for forwards only."""
        ...

    def mixed(self, a: float) -> AbstractContextManager[None]:
        """Within the block `model` is (1 - a) * baseline + a * unlearned; afterwards it is what it was, to the bit."""
        ...

    def unadapted(self) -> AbstractContextManager[tuple[Any, Mapping[Any, Tensor]]]:
        """For the block, a model that runs without an adapter, and what is to be added to the weights of its linear
        modules for it to be the unlearned one."""
        ...

    def project_into_ball(self, radius: float, norm: str) -> None:
        """Bring each matrix's change W within `radius`, in place: its ||W||_F (norm "frobenius"), or its max |W_ij|
        ("elementwise")."""
        ...

    def save(self, mixing: float, folder: Path) -> None:
        """Write the model mixed so, whole or not at all, for `AutoModelForCausalLM.from_pretrained(folder)`: a PEFT
        folder where the kind is an adapter (`rayul.spec.UPDATES`), and else a model with its tokenizer."""
        ...

    def detach(self) -> None:
        """Leave the base to the next trial; `model` is not to be used any more."""
        ...


def attach(task: Task, spec: Spec, seed: int) -> Update:
    """The update of a spec without a search, on the task's base; it changes nothing until the first step.

    Raises InputError for a model that it does not fit.
    """
    kind = import_module(f"rayul.unlearn.update.{spec.update}")
    update: Update = kind.attach(task, spec, seed)
    return update
