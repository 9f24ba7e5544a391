"""Unlearning against a copy that relearns, the meta-learning of MUDMAN (Sondej et al. 2025, arXiv 2506.12484)."""

from __future__ import annotations

from torch import Tensor

from rayul.unlearn.gradients.contract import FORGET, FORGET_NLL, RETAIN, Ask, Memory, Rule


def adversary(weights: Tensor, memory: Memory, step: int, *, adversary_lr: float, adversary_every: int) -> Rule:
    """Every `adversary_every` steps the copy p begins again from the weights w; each step it relearns the forget rows,
    p <- p - lr grad NLL_f(p), and w takes grad L_f(p) + grad w_r L_r(w).

    The authors' code has one pass for both, so that it unlearns at the copy of a step before.
    """
    copy = weights.clone() if (step - 1) % adversary_every == 0 else memory["copy"]
    copy = copy - adversary_lr * (yield Ask(FORGET_NLL, at=copy, named="adversary_nll"))
    memory["copy"] = copy
    return (yield Ask(FORGET, at=copy)) + (yield Ask(RETAIN))
