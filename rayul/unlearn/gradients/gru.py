"""GRU: gradient rectified unlearning (Wang et al. 2025, arXiv 2503.09117)."""

from __future__ import annotations

import torch
from torch import Tensor

from rayul.unlearn.gradients.averaged import averaged
from rayul.unlearn.gradients.contract import LOSS, RETAIN_NLL, Ask, Memory, Rule


def gru(weights: Tensor, memory: Memory, step: int, *, gru_gamma: float) -> Rule:
    """Where the gradient u of the loss works against the retain gradient r, <u, r> < 0, project it:
    u - <u, r> / ||r||^2 r. r is averaged over the steps, as in the authors' code."""
    u = yield Ask(LOSS)
    r = averaged(memory, (yield Ask(RETAIN_NLL)), gru_gamma)
    inner, square = u @ r, r @ r
    # Decided on the device: a GPU is not waited for.
    against = torch.where((inner < 0) & (square > 0), inner / square, 0.0)
    return u - against * r
