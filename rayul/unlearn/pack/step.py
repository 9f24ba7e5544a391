"""One step of a trial in a pack: the gradients that its rule asks for, one micro-batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from rayul.unlearn.gradients.contract import Memory, Rule, note
from rayul.unlearn.gradients.hidden import Room


class Part(NamedTuple):
    """Of what a rule asks for, one micro-batch. rows: by set, "forget", "retain_train", "idk" (one refusal for each
    forget row), of the sets that are read. refused: the rows of "idk", whether they are read or not. share: its weight
    among the parts of one gradient. begin: where its forget rows are among the step's."""

    rows: dict[str, list[int]]
    refused: list[int]
    share: float
    begin: int


class Step:
    """row: the trial's parameters [P] with their gradient. parts: the micro-batches of one gradient, by what it is of.
    memory: what the rule keeps, as it is after the step. room: of the step's rows.

    held: what is added to the hidden states of the forget rows (`Ask.held`), a leaf of the graph; None for nothing."""

    def __init__(
        self, row: Tensor, rule: Rule, memory: Memory, parts: Callable[[str], list[Part]], room: Callable[[], Room]
    ) -> None:
        self.row, self.memory, self.room = row, memory, room
        self._rule, self._parts = rule, parts
        self.terms: dict[str, Tensor] = {}
        self.count = 0
        """Parts handed out so far."""
        self.ask = next(rule)
        self._open()
        self.advance()

    def next_part(self) -> Part:
        self.count += 1
        return self.pending.pop(0)

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """The values of a part's terms, weighted by its share."""
        for name, value in terms.items():
            self._values.setdefault(name, []).append(value.detach())

    def advance(self) -> bool:
        """With the gradient of all parts in place, whether it is the step's. If not, the rule is sent it, and the parts
        of the next one are to come. What reads no rows has no gradient."""
        assert self.row.grad is not None
        while not self.pending:
            note(self.terms, self.ask, {name: torch.stack(each).sum() for name, each in self._values.items()})
            try:
                # A copy: the rule may hold it, and where a tensor begins in memory could change the last bit of a norm.
                self.ask = self._rule.send(self._found())
            except StopIteration as end:
                self.row.grad.copy_(end.value)
                return True
            self._open()
        return False

    def _found(self) -> Tensor:
        if self.ask.by_held:
            assert self.held is not None
            return self.room().inside(torch.zeros_like(self.held) if self.held.grad is None else self.held.grad)
        assert self.row.grad is not None
        return self.row.grad.clone()

    def _open(self) -> None:
        assert self.row.grad is not None
        self.held = self.ask.held
        if self.ask.by_held:
            self.held = (self.room().nought() if self.held is None else self.held.clone()).requires_grad_()
        self.pending = self._parts(self.ask.of)
        self._values: dict[str, list[Tensor]] = {}
        self.row.grad.zero_()

    @contextmanager
    def moved(self) -> Iterator[None]:
        """The trial's parameters where the rule asks for the gradient, for the block."""
        if self.ask.at is None:
            yield
            return
        row, at = self.row.detach(), self.ask.at
        own = row.clone()
        try:
            row.copy_(at)
            yield
        finally:
            row.copy_(own)
