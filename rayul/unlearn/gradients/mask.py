"""Disruption masking, the mask of MUDMAN (Sondej et al. 2025, arXiv 2506.12484)."""

from __future__ import annotations

import torch
from torch import Tensor

from rayul.unlearn.gradients.averaged import averaged
from rayul.unlearn.gradients.contract import FORGET, RETAIN, RETAIN_NLL, Ask, Memory, Rule


def mask(weights: Tensor, memory: Memory, step: int, *, mask_gamma: float) -> Rule:
    """Of the forget gradient only the entries whose sign is that of the averaged retain gradient, so that no weight is
    moved against the retain rows; scaled to the norm that it had, plus the gradient of the loss's retain term.

    The authors' code takes the retain step with a learning rate of its own, and divides by the norm instead.
    """
    u = yield Ask(FORGET)
    r = averaged(memory, (yield Ask(RETAIN_NLL)), mask_gamma)
    kept: Tensor = torch.where(u.sign() == r.sign(), u, 0.0)
    kept = kept * (u.norm() / kept.norm().clamp(min=1e-12))
    return kept + (yield Ask(RETAIN))
