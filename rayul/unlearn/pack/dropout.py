"""LoRA dropout in a pack: every trial's noise comes from its own generator, and is drawn for its own rows only."""

from __future__ import annotations

from collections import Counter
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
        self.slots, self.device = slots, device
        self.lanes = Counter[int]()
        """Lanes that a slot has had so far: each has a generator, since which of them share a forward is chance."""

    def on(self, slots: Mapping[int, int]) -> Callable[[Tensor], Tensor] | None:
        """Dropout of inputs [lanes, n, d] in a forward, with the slots by lane that have rows in it; None where nothing
        is dropped."""
        dropping = []
        for lane, k in slots.items():
            generator = self.slots[k].dropout_generator(self.device, self.lanes[k])
            self.lanes[k] += 1
            if generator is not None:
                dropping.append((lane, 1 - self.slots[k].spec.lora.dropout, generator))
        if not dropping:
            return None

        def dropped(x: Tensor) -> Tensor:
            factor = torch.ones_like(x)
            for lane, keep, generator in dropping:
                factor[lane].bernoulli_(keep, generator=generator).div_(keep)
            return x * factor

        return dropped
