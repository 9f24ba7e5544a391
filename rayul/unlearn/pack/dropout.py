"""LoRA dropout in a pack: every trial's noise comes from its own generator, and is drawn for its own rows only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    def on(self, slots: Mapping[int, int]) -> Callable[[Tensor], Tensor] | None:
        """Dropout of inputs [lanes, n, d] in a forward, with the slots by lane that have rows in it; None where nothing
        is dropped."""
        dropping = [(lane, k) for lane, k in slots.items() if self.generators[k] is not None]
        if not dropping:
            return None

        def dropped(x: Tensor) -> Tensor:
            factor = torch.ones_like(x)
            for lane, k in dropping:
                factor[lane].bernoulli_(self.keep[k], generator=self.generators[k]).div_(self.keep[k])
            return x * factor

        return dropped
