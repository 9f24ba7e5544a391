"""Controls that limit excessive unlearning inside the loss and after the step.

The loss controls act on what the loss sees of the forget batch: they scale its logits or take tokens and sequences out
of its mask, so they work with every method of `losses.py`. A token out of the mask pushes nothing.

| control | what it does |
| --- | --- |
| temperature | forget cross-entropy on logits / T |
| token_cap | a token whose NLL has reached the cap stops pushing (likelihood capping) |
| select_fraction, select_by | only that share of a sequence's answer tokens, those of smallest or largest NLL |
| loss_cap, loss_cap_of | a sequence whose mean or summed NLL has reached delta stops pushing (hinge) |
| ball, ball_norm | after the step, each matrix's change is projected into a radius (`Update.project_into_ball`) |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rayul.unlearn.forward import Answers, token_logp

if TYPE_CHECKING:
    from rayul.spec import Control


def controlled(answers: Answers, control: Control) -> Answers:
    """The forget batch as the loss sees it: logits [B, S, V], labels, mask [B, S] in, the same shapes out.

    Order: temperature, token cap, selection, sequence cap. Caps and selection read NLL at temperature 1 over all answer
    tokens, in nats, without gradient, so that a threshold means the same at every temperature.
    """
    mask = answers.mask
    if control.token_cap is not None or control.select_fraction != 1.0 or control.loss_cap is not None:
        answers = answers._replace(logp=token_logp(answers))
        nll = -token_logp(answers).detach()
        if control.token_cap is not None:
            mask = mask & (nll < control.token_cap)
        if control.select_fraction != 1.0:
            mask = mask & _selected(nll, answers.mask, control.select_fraction, control.select_by)
        if control.loss_cap is not None:
            total = nll.sum(-1)
            loss = total if control.loss_cap_of == "sum" else total / answers.mask.sum(-1).clamp(min=1)
            mask = mask & (loss < control.loss_cap).unsqueeze(-1)
    limited = answers._replace(mask=mask)
    return limited if control.temperature == 1.0 else limited.with_logits(answers.logits / control.temperature)


def _selected(nll: Tensor, mask: Tensor, fraction: float, by: str) -> Tensor:
    """[..., B, S] bool: ceil(fraction * L) answer tokens of each row with smallest (largest) NLL; ties by place."""
    key = nll if by == "smallest" else -nll
    rank: Tensor = key.masked_fill(~mask, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    # - 1e-6: 0.7 * 10 is 7.000000000000001 in floating point, and must select 7 tokens.
    count = torch.ceil(fraction * mask.sum(-1, keepdim=True) - 1e-6).clamp(min=1)
    selected: Tensor = rank < count
    return selected
