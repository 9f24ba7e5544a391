"""Quantisation: an update smaller than a rounding step is rounded away, and the baseline is back (arXiv 2410.16454).

Simulated: weights are rounded to the grid that int8 or 4-bit storage has and computed with in their own dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rayul.unlearn.attacks.target import Attempts, Target, everywhere
from rayul.unlearn.forward import Model

GROUP = 64
"""Weights that share a scale at 4 bits; at 8 bits a row of the matrix does."""


def quantise(target: Target) -> Attempts:
    for name, bits, group in (("int8", 8, None), ("4-bit", 4, GROUP), ("4-bit, a scale a row", 4, None)):
        with quantised(target.model, bits, group):
            yield everywhere(name, target.score(target.examples))


@contextmanager
def quantised(model: Model, bits: int, group: int | None = None) -> Iterator[None]:
    """Within the context every linear layer but the head has rounded weights."""
    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    before = [layer.weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.data = rounded(weight, bits, group)
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.data = weight


def rounded(weight: Tensor, bits: int, group: int | None = None) -> Tensor:
    """[o, d] -> [o, d]: to the nearest of 2^bits - 1 levels, symmetric around 0 and up to the largest magnitude of each
    row, or of each `group` of columns of a row. Off by half a step at most: max |w| / (2^bits - 2)."""
    levels = 2 ** (bits - 1) - 1
    width = group or weight.shape[1]
    parts = []
    for part in weight.float().split(width, dim=1):
        step = part.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / levels
        parts.append((part / step).round() * step)
    return torch.cat(parts, dim=1).to(weight.dtype)
