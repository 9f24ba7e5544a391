"""The examples of a set as tensors of one shape, so that what a row gives does not depend on the rows beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from rayul.unlearn.tokens import Example, positions

Item = TypeVar("Item")


class Lines(NamedTuple):
    """Examples padded on the right, each with a window of S positions that holds its whole answer.

    ids [N, T] int64. at [N, S] int64: the positions whose logits predict `labels` [N, S]; no position twice.
    mask [N, S] bool: which of the labels are answer tokens.
    positions [N, T] int64: where texts share lines, the place of each token in its own, which attends to itself alone.
    No attention mask: behind a causal mask nothing sees the padding on its right.
    """

    ids: Tensor
    at: Tensor
    labels: Tensor
    mask: Tensor
    positions: Tensor | None = None

    def take(self, rows: Tensor) -> Lines:
        return self.each(lambda field: field.index_select(0, rows))

    def each(self, change: Callable[[Tensor], Tensor]) -> Lines:
        """The lines with all their tensors changed."""
        ids, at, labels, mask, positions = self
        given = None if positions is None else change(positions)
        return Lines(change(ids), change(at), change(labels), change(mask), given)


def lines(examples: Sequence[Example], pad: int, device: torch.device | str = "cpu") -> Lines:
    """T is the longest example's length, S the longest answer's."""
    length = max(len(e.ids) for e in examples)
    window = max(e.stop - e.start for e in examples)
    ids = torch.tensor([[*e.ids, *[pad] * (length - len(e.ids))] for e in examples])
    start = torch.tensor([e.start for e in examples]).unsqueeze(1)
    stop = torch.tensor([e.stop for e in examples]).unsqueeze(1)
    at = (start - 1).clamp(max=length - 1 - window) + torch.arange(window)
    labels = ids.gather(1, at + 1)
    mask = (at + 1 >= start) & (at + 1 < stop)
    places = positions(examples, length)
    if places is not None:
        mask &= places.gather(1, at + 1) > 0
    return Lines(ids, at, labels, mask, places).each(lambda field: field.to(device))


def filled(items: Sequence[Item], size: int) -> list[Item]:
    """`size` items: the last one is repeated."""
    return [*items, *[items[-1]] * (size - len(items))]
