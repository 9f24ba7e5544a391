"""Losses on the random tensors of test_losses.py, written out row by row and token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

W = 0.7


def js(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two distributions [V]; 0 log 0 is 0."""
    m = (p + q) / 2
    return sum((torch.special.xlogy(a, a) - torch.special.xlogy(a, m)).sum() for a in (p, q)) / 2  # type: ignore[return-value]


def mean(values: list[Any]) -> Any:
    return sum(values) / len(values)


def jensun(g: Any) -> Any:
    terms = []
    for b in range(g.mask.shape[0]):
        length, refusal = int(g.mask[b].sum()), g.labels["i"][b][g.masks("i")[b]]
        each = []
        for t in range(length):
            target = torch.zeros(g.logits["f"].shape[-1], dtype=torch.float64)
            target[refusal[t % len(refusal)]] = 1.0
            each.append(js(g.logits["f"][b, t].softmax(-1), target))
        if each:
            terms.append(mean(each))
    kept = [mean([js(p.exp(), q.exp()) for p, q in zip(r["full"], r["ref_full"], strict=True)]) for r in g.rows("r")]
    return mean(terms) + W * mean(kept)


def cb(g: Any) -> Any:
    """At the start of a trial, where nothing holds the retain rows yet."""
    turned = []
    for row in g.rows("f"):
        cosines = [h @ r / (h.norm() * r.norm()) for h, r in zip(row["h"], row["h_ref"], strict=True)]
        turned.append(mean([torch.relu(c) for c in cosines]))
    return mean(turned)


CASES: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "jensun": ({"retain_weight": W}, jensun),
    "cb": ({"layer": 1, "orth_weight": 0.5, "retain_weight": W}, cb),
}
