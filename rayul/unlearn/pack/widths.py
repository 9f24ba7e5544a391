"""How many lanes a forward on a CPU may have without a bit of a lane depending on it: tried on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import torch
from torch import Tensor

from rayul.unlearn.label_logp import label_logp
from rayul.unlearn.pack.base import Adapters, PackedBase
from rayul.unlearn.pack.lines import Lines
from rayul.unlearn.pack.packable import Shape
from rayul.unlearn.pack.parameters import Layout
from rayul.unlearn.projection import Projection

ROWS = 32
"""Rows that fill a forward. On the testbed a trial-step of 8 and 8 rows takes 34, 27, 24 and 23 ms at 8, 16, 32 and 64
(one core of an AMD EPYC, products by oneDNN)."""
SMALL = 2**25
"""Parameters of a model whose forwards fill a core with few rows; to try the widths on it would take many seconds."""


def widths(base: PackedBase, sets: Mapping[str, Lines], layout: Layout, shape: Shape) -> tuple[int, ...]:
    """Numbers of lanes that a forward of training may have, the largest first and 1 the last, where a lane's
    predictions and gradients are the same to the bit at all of them; else (), and forwards have the pack's shape.

    Libraries may round otherwise where a product has more rows. That they do not is tried here, on each set, with as
    many rows of a lane and as long ones as in the pack.
    """
    model = base.base
    on_gpu = any(p.is_cuda for p in model.parameters())
    if shape.group is None or on_gpu or shape.compiled or sum(p.numel() for p in model.parameters()) > SMALL:
        return ()
    found = [2**i for i in reversed(range(ceil(ROWS / shape.rows).bit_length())) if 2**i * shape.rows <= ROWS]
    if len(found) < 2:
        return ()
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(found[0], layout.size, generator=generator) / 30
    for lines in sets.values():
        rows = torch.arange(found[0] * shape.rows) % len(lines.ids)
        widest = _lanes(base, lines.take(rows), layout, values)
        for width in found[1:]:
            some = _lanes(base, lines.take(rows[: width * shape.rows]), layout, values[:width])
            if not all(torch.equal(few, many[: len(few)]) for few, many in zip(some, widest, strict=True)):
                return ()
    return tuple(found)


def _lanes(base: PackedBase, lines: Lines, layout: Layout, values: Tensor) -> list[Tensor]:
    """The labels' log-probabilities of a forward with these adapters [G, P], and the gradients of each lane's."""
    pairs = [(a.detach().requires_grad_(), b.detach().requires_grad_()) for a, b in layout.pairs(values)]
    logits = base.train("width", lines, Adapters(pairs, torch.ones(len(values)))).logits
    logp = logits.logp(lines.labels) if isinstance(logits, Projection) else label_logp(logits, lines.labels)
    gradients = torch.autograd.grad(logp.sum(), [leaf for pair in pairs for leaf in pair], allow_unused=True)
    return [logp.detach(), *(one for one in gradients if one is not None)]
