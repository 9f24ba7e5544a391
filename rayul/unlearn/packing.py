"""Pieces of documents side by side in one training row, each of which attends to itself alone: `pack` of a source."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch

from rayul.errors import InputError
from rayul.unlearn.data import Row
from rayul.unlearn.forward import attending
from rayul.unlearn.tokens import Example, collate

APART = 0.25
"""Of the difference that the other texts of a row make to one that sees them: what a model may differ at most, by the
rounding of other shapes, where it keeps them apart."""


def training_rows(rows: Sequence[Row]) -> list[list[int]]:
    """The rows of a set that each of its training examples is made of: one, or of packed chunks those that fill a
    row. Longest first, each goes where it leaves the least room (best-fit decreasing, as for packing without truncation
    in Ding et al. 2024, arXiv 2404.10830); the training examples are in the order of their first rows."""
    room = max((row.chunk.room for row in rows if row.chunk), default=0)
    if not room:
        return [[i] for i in range(len(rows))]
    lengths = [len(row.chunk.ids) for row in rows if row.chunk]
    filled: list[list[int]] = []
    left: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [n for n, free in enumerate(left) if free >= lengths[i]]
        if fitting:
            best = min(fitting, key=left.__getitem__)
            filled[best].append(i)
            left[best] -= lengths[i]
        else:
            filled.append([i])
            left.append(room - lengths[i])
    return sorted(map(sorted, filled))


def joined(examples: Sequence[Example]) -> Example:
    """One training row of all tokens of these chunks: nothing asks for the first token of each."""
    ids = tuple(token for example in examples for token in example.ids)
    ends = [sum(len(one.ids) for one in examples[: i + 1]) for i in range(len(examples))]
    return Example(ids, 1, len(ids), breaks=tuple(ends[:-1]))


@torch.no_grad()
def check_apart_in(model: Any, examples: Sequence[Example]) -> None:
    """Raises InputError for a model that lets a packed text see those before it: one whose attention does not go by
    the position ids that begin anew, or that keeps a state instead. It is tried on the first packed row."""
    packed = next((example for example in examples if example.breaks), None)
    if packed is None:
        return
    refusal = InputError(
        f"pack: {type(model).__name__} does not keep packed texts apart", "leave pack out, or choose another model"
    )
    if "position_ids" not in signature(model.forward).parameters:
        raise refusal
    begin = packed.breaks[0]
    end = packed.breaks[1] if len(packed.breaks) > 1 else len(packed.ids)

    def logits(example: Example) -> torch.Tensor:
        batch = collate([example, example], 0, next(model.parameters()).device)  # two: some kernels pack one row only
        found: torch.Tensor = model(input_ids=batch.ids, use_cache=False, **attending(batch)).logits
        return found[1].float()

    alone = logits(Example(packed.ids[begin:end], 1, end - begin))
    mixed = logits(packed._replace(breaks=()))[begin:end]
    apart = logits(packed)[begin:end]
    if float((apart - alone).abs().max()) > APART * float((mixed - alone).abs().max()):
        raise refusal
