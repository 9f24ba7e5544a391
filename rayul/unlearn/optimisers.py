"""How a step moves the weights by its gradient, and how far: `training.optimizer` and `training.schedule`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Muon, Optimizer

from rayul.spec import Training


def optimisers(training: Training, parameters: Sequence[Tensor], fused: bool = False) -> list[Optimizer]:
    """Those that together step all parameters. sign is signSGD, theta <- (1 - lr wd) theta - lr sign(g) (arXiv
    1802.04434; for unlearning 2510.00761). Muon (arXiv 2502.16982, its step scaled to the size of AdamW's, so that a
    learning rate means the same) is for matrices, and AdamW takes the rest, which an adapter has none of.

    fused: AdamW in one pass over a tensor.
    """
    settings: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay}
    if training.optimizer == "sign":
        descent = SGD(parameters, **settings)
        descent.register_step_pre_hook(_signs)
        return [descent]
    if training.optimizer == "muon":
        matrices, rest = ([p for p in parameters if (p.ndim == 2) == which] for which in (True, False))
        found: list[Optimizer] = [Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings)]
        return [*found, AdamW(rest, **settings)] if rest else found
    return [AdamW(parameters, fused=fused, **settings)]


def _signs(optimiser: Optimizer, arguments: Any, keywords: Any) -> None:
    for group in optimiser.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad.sign_()


def learning_rate(training: Training, step: int) -> float:
    """At a step, counted from 1: linear warm-up, then as training.schedule says. Linear and cosine would be 0 one step
    after the last, as in `transformers`."""
    warmup, done = training.warmup_steps, step - 1
    if step <= warmup:
        return training.lr * step / warmup
    share = (done - warmup) / max(1, training.steps - warmup)
    factor = {"constant": 1.0, "linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2}[training.schedule]
    return training.lr * factor


class RowOptimiser:
    """The optimiser of a trial in a pack: of a row [P] with its gradient. matrices: the parts of a [P] vector that are
    one matrix each, for Muon; it sees each as a trial alone would."""

    def __init__(self, training: Training, row: Tensor, matrices: Any) -> None:
        self.row, self.momentum = row, torch.zeros_like(row) if training.optimizer == "muon" else None
        # One flat tensor else, so torch's fused kernel makes one pass over a row that fits the cache.
        self.parts = [row]
        if self.momentum is not None:
            assert row.grad is not None
            self.parts = [part.requires_grad_() for part in matrices(row.detach())]
            for part, gradient in zip(self.parts, matrices(row.grad), strict=True):
                part.grad = gradient
        (self.optimiser,) = optimisers(training, self.parts, fused=True)
        if self.momentum is not None:
            for part, buffer in zip(self.parts, matrices(self.momentum), strict=True):
                self.optimiser.state[part]["momentum_buffer"] = buffer

    def step(self, lr: float) -> None:
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.step()

    @property
    def kept(self) -> dict[str, Tensor]:
        """What it keeps from step to step, by name, [P] each: copies."""
        if self.momentum is not None:
            return {"momentum": self.momentum.clone()}
        state = self.optimiser.state.get(self.row, {})
        return {name: state[key].clone() for name, key in MOMENTS.items() if state.get(key) is not None}

    def restore(self, step: int, kept: dict[str, Tensor]) -> None:
        """Go on after this many steps from what it kept."""
        if self.momentum is not None and "momentum" in kept:
            self.momentum.copy_(kept["momentum"])
        moments = {key: kept[name].to(self.row.device, copy=True) for name, key in MOMENTS.items() if name in kept}
        if moments:
            self.optimiser.state[self.row] = {"step": torch.tensor(float(step)), **moments}


MOMENTS = {"mean": "exp_avg", "square": "exp_avg_sq"}
"""Of AdamW: our name and torch's."""
