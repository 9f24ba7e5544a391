"""Sharpness-aware unlearning (Fan et al. 2025, arXiv 2502.05374)."""

from __future__ import annotations

from torch import Tensor

from rayul.unlearn.gradients.contract import FORGET, RETAIN, Ask, Memory, Rule


def sam(weights: Tensor, memory: Memory, step: int, *, sam_rho: float) -> Rule:
    """grad L_f(w + e) + grad w_r L_r(w), where e = rho g / ||g|| with g = grad L_f(w): the weights nearby, to first
    order, at which the forget loss is highest, as it is after a little relearning."""
    g = yield Ask(FORGET)
    sharp = yield Ask(FORGET, at=weights + sam_rho * g / g.norm().clamp(min=1e-12), named="forget_nearby")
    return sharp + (yield Ask(RETAIN))
