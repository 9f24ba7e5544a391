"""The gradient rule of a trial that trains alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rayul.spec import MethodChoice
from rayul.unlearn.gradients.contract import LOSS, Memory, note
from rayul.unlearn.gradients.hidden import Room
from rayul.unlearn.gradients.table import rule_of


def leave_gradient(
    parameters: Sequence[Tensor],
    method: MethodChoice,
    memory: Memory,
    step: int,
    accumulate: Callable[[str, Tensor | None], dict[str, float]],
    room: Callable[[], Room],
) -> dict[str, float]:
    """Leave in `.grad` what the gradient rule of the method makes of this step's gradients, each of which `accumulate`
    adds there (of what, and what is held); returns the values of the loss's terms, and of what else the rule read.
    room: of the step's rows."""
    if method.gradients == ("plain",):  # no copy of all gradients, of which `update: full` has billions
        return accumulate(LOSS, None)
    said: dict[str, float] = {}
    weights = _flat([p.detach() for p in parameters])
    rule = rule_of(method, weights, memory, step)
    ask = next(rule)
    while True:
        for p in parameters:
            p.grad = None
        held = ask.held
        if ask.by_held:
            held = (room().nought() if held is None else held.clone()).requires_grad_()
        with _moved(parameters, weights, ask.at):
            note(said, ask, accumulate(ask.of, held))
        if ask.by_held:
            assert held is not None
            assert held.grad is not None
            found = room().inside(held.grad)
        else:
            found = _flat([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
        try:
            ask = rule.send(found)
        except StopIteration as end:
            for p, gradient in zip(parameters, _like(end.value, parameters), strict=True):
                p.grad = gradient
            return said


@contextmanager
def _moved(parameters: Sequence[Tensor], weights: Tensor, at: Tensor | None) -> Iterator[None]:
    """The parameters at other values for the block. weights: their own."""
    if at is None:
        yield
        return
    try:
        _put(parameters, at)
        yield
    finally:
        _put(parameters, weights)


@torch.no_grad()
def _put(parameters: Sequence[Tensor], values: Tensor) -> None:
    for p, value in zip(parameters, _like(values, parameters), strict=True):
        p.copy_(value)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def _like(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parts of [P] in the shapes of these tensors."""
    parts = flat.split([p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
