"""The logits of a large vocabulary, computed in parts: hidden states and the head, and what is read of both.

A token of a vocabulary of 262k has 1 MB of them in float32. What most losses and all scores read of that is one number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from rayul.unlearn.run_as import run_as

LARGE = 2**14
"""Tokens of a vocabulary from which on logits are computed in parts; those of a smaller one are cheap to keep."""
CHUNK = 2**23
"""Logits of a part."""


class Projection:
    """Logits [..., V] as hidden states [..., D] and the linear head that makes them."""

    def __init__(self, hidden: Tensor, head: nn.Linear) -> None:
        self.hidden, self.head = hidden, head

    @cached_property
    def whole(self) -> Tensor:
        """[..., V], for who reads a distribution as it likes."""
        logits: Tensor = self.head(self.hidden)
        return logits

    def __getitem__(self, at: Any) -> Projection:
        return Projection(self.hidden[at], self.head)

    @property
    def device(self) -> torch.device:
        return self.hidden.device

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.hidden.shape[:-1], self.head.out_features])

    @property
    def rows(self) -> int:
        """Tokens of a part."""
        return max(1, CHUNK // self.head.out_features)

    def logp(self, labels: Tensor) -> Tensor:
        """Log-probabilities of labels [...], [...] float32; the gradient reaches the hidden states, not the head."""
        logp: Tensor = _Logp.apply(self.hidden, labels, self.head, self.rows)  # type: ignore[no-untyped-call]
        return logp

    @torch.no_grad()
    def scores(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of labels [...], and whether each is the most probable token, without a gradient."""
        found = []
        for hidden, own in zip(
            self.hidden.flatten(0, -2).split(self.rows), labels.flatten().split(self.rows), strict=True
        ):
            logits = F.linear(hidden, self.head.weight, self.head.bias).float()
            match = logits.argmax(-1) == own
            found.append((_logp_in_place(logits, own)[0], match))
        logp, match = (torch.cat(parts).view(labels.shape) for parts in zip(*found, strict=True))
        return logp, match


class _Logp(torch.autograd.Function):
    """A token's log-probability is one number, so its gradient by the hidden state, g W^T (label - softmax), is g times
    a vector of the hidden state's size: the forward keeps that, and the logits are computed once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, head: nn.Linear, rows: int) -> Tensor:
        found, slopes = [], []
        for part, own in zip(hidden.flatten(0, -2).split(rows), labels.flatten().split(rows), strict=True):
            logits = F.linear(part, head.weight, head.bias).float()
            logp, softmax = _logp_in_place(logits, own)
            found.append(logp)
            if ctx.needs_input_grad[0]:
                # label - softmax before the product: near a probability of 1 the difference of two products is noise.
                left = softmax.neg_().scatter_add_(-1, own.unsqueeze(-1), torch.ones_like(softmax[:, :1]))
                slopes.append(left.to(head.weight.dtype) @ head.weight)
        if slopes:
            ctx.save_for_backward(torch.cat(slopes).view(hidden.shape))
        return torch.cat(found).view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradient.unsqueeze(-1) * slope).to(slope.dtype), None, None, None


def _logp_in_place(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of labels [n], and the softmax [n, V] in the memory of the logits."""
    logits.sub_(logits.amax(-1, keepdim=True))
    label = logits.gather(-1, labels.unsqueeze(-1))
    total = logits.exp_().sum(-1, keepdim=True)
    return (label - total.log()).squeeze(-1), logits.div_(total)


def by_token(function: Callable[..., Tensor], *tensors: Tensor | Projection) -> Tensor:
    """function(*tensors) [...], of logits [..., V] and of what else there is of a token [...], where it reads each
    token by itself. Where logits are projections it is given some tokens at a time, and again in the backward."""
    projections = [t for t in tensors if isinstance(t, Projection)]
    if not projections:
        return function(*tensors)
    first = projections[0]
    leading = first.hidden.shape[:-1]
    plain = [t.hidden if isinstance(t, Projection) else t for t in tensors]
    heads = [t.head if isinstance(t, Projection) else None for t in tensors]

    def of_part(*part: Tensor) -> Tensor:
        return function(*(t if head is None else head(t) for t, head in zip(part, heads, strict=True)))

    parts = zip(*(t.flatten(0, len(leading) - 1).split(first.rows) for t in plain), strict=True)
    found = [checkpoint(of_part, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat(found).view(leading)


def joined(parts: Sequence[Tensor | Projection]) -> Tensor | Projection:
    """Logits one after the other, all as tensors or all of one head."""
    projections = [part for part in parts if isinstance(part, Projection)]
    if projections:
        return Projection(torch.cat([part.hidden for part in projections]), projections[0].head)
    return torch.cat([part for part in parts if not isinstance(part, Projection)])


# --- models ------------------------------------------------------------------------------------------------------

_last: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""By head, whether its output is the model's."""


def projecting_head(model: Any) -> nn.Linear | None:
    """The head of a model whose logits are to be projections: of a large vocabulary, a plain linear module (no adapter
    on it), not trained, and the last thing that the model does. A model that scales or caps its logits has none."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.out_features < LARGE or head.weight.requires_grad:
        return None
    if head._forward_hooks or head._forward_pre_hooks:
        return None
    if head not in _last:
        _last[head] = _is_last(model, head)
    return head if _last[head] else None


@contextmanager
def passing(head: nn.Linear | None) -> Iterator[None]:
    """For the length of a block, the model's output is what its head would be given."""
    if head is None:
        yield
        return
    with run_as({head: same}):
        yield


def same(hidden: Tensor) -> Tensor:
    return hidden


@torch.no_grad()
def _is_last(model: Any, head: nn.Linear) -> bool:
    """Whether the model returns what its head does: tried on one token."""
    marked = torch.zeros(1, 1, head.out_features, device=head.weight.device, dtype=head.weight.dtype)

    def mark(hidden: Tensor) -> Tensor:
        return marked

    with run_as({head: mark}):
        token = torch.zeros(1, 1, dtype=torch.long, device=head.weight.device)
        # Dropout would draw from the generators that trials draw from.
        with torch.random.fork_rng(devices=[marked.device] if marked.is_cuda else []):
            output = model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False)
    return output.logits is marked and marked._version == 0
