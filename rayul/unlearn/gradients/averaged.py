"""The retain gradient that rules compare with, averaged over the steps."""

from __future__ import annotations

from torch import Tensor

from rayul.unlearn.gradients.contract import Memory


def averaged(memory: Memory, fresh: Tensor, gamma: float) -> Tensor:
    """gamma * fresh + (1 - gamma) * what it was a step ago, [P]; at the first step what is fresh. Kept in memory."""
    old = memory.get("retain")
    memory["retain"] = fresh if old is None else gamma * fresh + (1 - gamma) * old
    return memory["retain"]
