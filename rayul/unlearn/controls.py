"""Controls that limit excessive unlearning inside the loss and after the step.

The loss controls act on what the loss sees of the forget batch: they scale its logits or take tokens and sequences out
of its mask, so they work with every method of `losses.py`. A token out of the mask pushes nothing.

| control | what it does |
| --- | --- |
| temperature | forget cross-entropy on logits / T |
| token_cap | a token whose NLL has reached the cap stops pushing (likelihood capping) |
| select_fraction, select_by | only that share of a sequence's answer tokens, those of smallest or largest NLL |
| loss_cap, loss_cap_of | a sequence whose mean or summed NLL has reached delta stops pushing (hinge) |
| own | a function of somebody's own file, see `own_control` |
| ball, ball_norm | after the step, each matrix's change is projected into a radius (`Update.project_into_ball`) |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rayul.errors import InputError
from rayul.unlearn.forward import Answers, token_logp
from rayul.unlearn.own import own_function

if TYPE_CHECKING:
    from rayul.spec import Control, OwnControl


def controlled(answers: Answers, control: Control) -> Answers:
    """The forget batch as the loss sees it: logits [B, S, V], labels, mask [B, S] in, the same shapes out.

    Order: token cap, selection, sequence cap, custom controls, temperature. Caps and selection read NLL at
    temperature 1 over all answer tokens, in nats, without gradient, so that a threshold means the same at every
    temperature.
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
    for own in control.own:
        limited = own_control(limited, own)
    return limited if control.temperature == 1.0 else limited.with_logits(answers.logits / control.temperature)


def own_control(answers: Answers, own: OwnControl) -> Answers:
    """What a function of your own makes of the forget batch: `fn(answers, **parameters)`, answers in and out.

    It is given logits [B, S, V], labels and mask [B, S], and logp [B, S], the labels' log-probabilities, 0 outside the
    mask. Its logits and its mask are read; a token that was not in the mask stays out of it. Raises InputError where
    they do not have these shapes, and what the function raises.
    """
    answers = answers._replace(logp=token_logp(answers))
    found = own_function(own.name, own.code)(answers, **own.parameters)
    if not isinstance(found, Answers):
        raise InputError(f"{own.name} returned a {type(found).__name__}", "return answers._replace(mask=...)")
    logits, mask = found.predicted, found.mask
    if logits.shape != answers.predicted.shape or mask.shape != answers.mask.shape or mask.dtype != torch.bool:
        raise InputError(
            f"{own.name} returned logits {list(logits.shape)} and a mask {list(mask.shape)} of {mask.dtype}",
            f"logits are {list(answers.predicted.shape)}, a mask is {list(answers.mask.shape)} of torch.bool",
        )
    changed = answers if logits is answers.predicted else answers.with_logits(logits)
    return changed._replace(mask=answers.mask & mask)


def _selected(nll: Tensor, mask: Tensor, fraction: float, by: str) -> Tensor:
    """[..., B, S] bool: ceil(fraction * L) answer tokens of each row with smallest (largest) NLL; ties by place."""
    key = nll if by == "smallest" else -nll
    rank: Tensor = key.masked_fill(~mask, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    # - 1e-6: 0.7 * 10 is 7.000000000000001 in floating point, and must select 7 tokens. In single precision errors of
    # long answers are larger than that: 0.064 * 750 would be 48.000004.
    count = torch.ceil(fraction * mask.sum(-1, keepdim=True, dtype=torch.float64) - 1e-6).clamp(min=1)
    selected: Tensor = rank < count
    return selected
