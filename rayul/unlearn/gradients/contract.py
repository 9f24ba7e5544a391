"""What a gradient rule is: a generator that asks for gradients of parts of the loss and returns the step's gradient.

Who trains answers: a trial alone through `.grad` of its parameters (`rayul/unlearn/train.py`), a pack for all its slots
at once, one ask of each in the same forward and backward (`rayul/unlearn/pack/`). So a rule is written once, on flat
vectors [P] of all trained weights.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T")

LOSS, FORGET, RETAIN, RETAIN_NLL, FORGET_NLL = "loss", "forget", "retain", "retain_nll", "forget_nll"
"""What a gradient can be asked of: the whole loss; what of it unlearns; what of it holds the retain rows, with its
weight (0 where the loss has nothing of the kind); and the mean NLL of the step's retain or forget rows, whatever the
loss is, without the controls."""


class Ask(NamedTuple):
    """The gradient of `of` (one of the above) at the weights `at` [P]; None for the trial's own.

    named: under which name the value of `of` is recorded; None: as what it is, where the step has not recorded it yet.
    held: [N, T, L, D], added meanwhile to the hidden states of the step's forget rows, at their questions
    (`rayul/unlearn/gradients/hidden.py`). by_held: the gradient wanted is that by `held`, of its shape; None is then 0.
    """

    of: str
    at: Tensor | None = None
    named: str | None = None
    held: Tensor | None = None
    by_held: bool = False


Memory = dict[str, Tensor]
"""What a rule keeps from step to step, [P] each; it is saved with the trial. A rule replaces what is in it, and changes
no tensor in place."""

Rule = Generator[Ask, Tensor, Tensor]
"""Yields what it asks for, is sent the gradient ([P], or what `by_held` says), and returns the gradient [P] that the
optimiser is to take."""


def note(said: dict[str, T], ask: Ask, terms: Mapping[str, T]) -> None:
    """Add the values of an ask's terms to those that the step has recorded."""
    for name, value in terms.items():
        said.setdefault(name if ask.named is None else ask.named, value)
