"""LoRA dropout in a pack: every trial's noise comes from its own generator, and is drawn for its own rows only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rayul.unlearn.pack.slot import Slot


class Noise:
    """The noise of one part of a step of these slots. In distribution it is PEFT's (each input of A is dropped with
    probability p, the rest divided by 1 - p); the numbers are others, since PEFT draws them from the process's one
    generator."""

    def __init__(self, slots: Mapping[int, Slot], device: torch.device) -> None:
        self.generators = {k: slot.dropout_generator(device) for k, slot in slots.items()}
        self.keep = {k: 1 - slot.spec.lora.dropout for k, slot in slots.items()}

    def on(self, slots: Collection[int]) -> Callable[[Tensor], Tensor] | None:
        """Dropout of inputs [K, n, d] in a forward that has rows of these slots; None where nothing is dropped."""
        dropping = [k for k in slots if self.generators[k] is not None]
        if not dropping:
            return None

        def dropped(x: Tensor) -> Tensor:
            factor = torch.ones_like(x)
            for k in dropping:
                factor[k].bernoulli_(self.keep[k], generator=self.generators[k]).div_(self.keep[k])
            return x * factor

        return dropped
