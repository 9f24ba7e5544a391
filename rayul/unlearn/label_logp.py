"""Log-probabilities of labels, without keeping the logits in float32 for the backward.

At a vocabulary of 128k that copy would be most of a step's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rayul.unlearn.compiled import compile_once

CHUNK = 2**25
"""Logits that are in float32 at a time."""


def label_logp(logits: Tensor, labels: Tensor, compiled: bool = False) -> Tensor:
    """log softmax(logits)[label] of logits [..., V] and labels [...] int64: [...] float32, in nats.

    compiled: forward and backward as one kernel each, by torch.compile, once for every shape.
    """
    logp: Tensor = _LabelLogp.apply(logits, labels, compiled)  # type: ignore[no-untyped-call]
    return logp


class _LabelLogp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, compiled: bool) -> Tensor:
        logp, normaliser = _in_chunks(_logp, compiled, logits.flatten(0, -2), labels.flatten())
        ctx.save_for_backward(logits, labels, normaliser)
        ctx.compiled = compiled
        return logp.view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, normaliser = ctx.saved_tensors
        tensors = (logits.flatten(0, -2), labels.flatten(), normaliser, gradient.flatten())
        (found,) = _in_chunks(_gradient, ctx.compiled, *tensors)
        return found.view(logits.shape), None, None


def _logp(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.float()
    normaliser = logits.logsumexp(-1)
    return logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - normaliser, normaliser


def _gradient(logits: Tensor, labels: Tensor, normaliser: Tensor, gradient: Tensor) -> tuple[Tensor]:
    """g (label - softmax)."""
    g = gradient.unsqueeze(-1)
    softmax = (logits.float() - normaliser.unsqueeze(-1)).exp_()
    return (softmax.mul_(-g).scatter_add_(-1, labels.unsqueeze(-1), g).to(logits.dtype),)


def _in_chunks(
    function: Callable[..., tuple[Tensor, ...]], compiled: bool, logits: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    """function(logits [N, V], others [N]...) by parts of N; whole where it is compiled, since it makes no copy then."""
    if compiled:
        whole: tuple[Tensor, ...] = compile_once(function)(logits, *others)
        return whole
    size = max(1, CHUNK // logits.shape[-1])
    if len(logits) <= size:
        return function(logits, *others)
    parts = [function(*part) for part in zip(*(t.split(size) for t in (logits, *others)), strict=True)]
    return tuple(torch.cat(field) for field in zip(*parts, strict=True))
