"""The gradient of the loss."""

from __future__ import annotations

from torch import Tensor

from rayul.unlearn.gradients.contract import LOSS, Ask, Memory, Rule


def plain(weights: Tensor, memory: Memory, step: int) -> Rule:
    return (yield Ask(LOSS))
