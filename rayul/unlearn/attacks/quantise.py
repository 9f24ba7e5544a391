"""Quantisation: an update smaller than a rounding step is rounded away, and the baseline is back (arXiv 2410.16454).

Simulated: weights are rounded to the grid that int8 or 4-bit storage has and computed with in their own dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from rayul.unlearn.attacks.target import Attempts, Target, everywhere
from rayul.unlearn.forward import Model

GROUP = 64
"""Weights that share a scale at 4 bits; at 8 bits a row of the matrix does."""

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The levels of 4-bit NormalFloat (QLoRA, arXiv 2305.14314, appendix E)."""

Rounding = Callable[[Tensor], Tensor]
_NOTHING: Mapping[Any, Tensor] = MappingProxyType({})


def quantise(target: Target) -> Attempts:
    for name, rounding in ROUNDINGS.items():
        with quantised(target.model, rounding):
            yield everywhere(name, target.score(target.examples))


@contextmanager
def quantised(model: Model, rounding: Rounding, added: Mapping[Any, Tensor] = _NOTHING) -> Iterator[None]:
    """Within the context every linear layer but the head has rounded weights. added: to the weights of some of these,
    before they are rounded."""
    head = model.get_output_embeddings()
    # An adapter that is switched off is not rounded.
    named = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and "lora_" not in name]
    layers = [layer for _, layer in named if layer is not head or layer in added]
    before = [layer.weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, before, strict=True):
            whole = weight + added[layer].to(weight) if layer in added else weight
            layer.weight.data = whole if layer is head else rounding(whole)
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.weight.data = weight


def nf4(weight: Tensor) -> Tensor:
    """[o, d] -> [o, d]: to the nearest level of NF4 times the largest magnitude of its GROUP weights in a row."""
    levels = torch.tensor(NF4, device=weight.device)
    middles = (levels[1:] + levels[:-1]) / 2
    parts = []
    for part in weight.float().split(GROUP, dim=1):
        size = part.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        parts.append(levels[torch.bucketize(part / size, middles)] * size)
    return torch.cat(parts, dim=1).to(weight.dtype)


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


ROUNDINGS: dict[str, Rounding] = {
    "int8": partial(rounded, bits=8),
    "4-bit": partial(rounded, bits=4, group=GROUP),
    "4-bit, a scale a row": partial(rounded, bits=4),
    "nf4": nf4,
}
"""What the attack tries, by name."""
