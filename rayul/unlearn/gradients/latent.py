"""Latent adversarial training (Sheshadri et al. 2024, arXiv 2407.15549)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rayul.unlearn.gradients.contract import FORGET, FORGET_NLL, RETAIN, Ask, Memory, Rule


def latent(
    weights: Tensor,
    memory: Memory,
    step: int,
    *,
    latent_norm: float,
    latent_steps: int,
    latent_layers: Sequence[int] | None,
) -> Rule:
    """grad L_f(w; d) + grad w_r L_r(w): the loss takes its step while d is added to the hidden states of the questions,
    where d helps the model recall. It is found by k steps of 2 e / k down the NLL of the forget rows, each of that norm
    at every position and layer, projected there onto the ball of radius e; it begins at 0.

    The authors' code begins at 0, too, and steps with AdamW.
    """
    held: Tensor | None = None
    for _ in range(latent_steps):
        g = yield Ask(FORGET_NLL, held=held, by_held=True, named="latent_nll")
        away = g / g.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        moved = (torch.zeros_like(g) if held is None else held) - 2 * latent_norm / latent_steps * away
        held = moved * (latent_norm / moved.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
    return (yield Ask(FORGET, held=held)) + (yield Ask(RETAIN))
