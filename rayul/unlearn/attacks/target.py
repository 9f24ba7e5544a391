"""What an attacker has (weights and rows), and what one attempt at them brings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from rayul.unlearn.data import Row, Sets
from rayul.unlearn.forward import Model, TokenScores, score
from rayul.unlearn.template import AnyTemplate, template_for
from rayul.unlearn.tokens import Example, encode, encode_rows, pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


@dataclass(frozen=True)
class Target:
    """A model under attack. An attack may change `model`, and leaves it as it was.

    model: a causal LM with its adapter merged: who has the weights need not keep an adapter apart. sets: the rows to
    bring back are sets["forget"].
    """

    model: Model
    tokenizer: Tokenizer
    sets: Sets
    template: AnyTemplate = None
    batch_size: int = 64

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.sets["forget"]

    @cached_property
    def pad(self) -> int:
        return pad_id(self.tokenizer)

    @cached_property
    def examples(self) -> list[Example]:
        """The forget rows as they were trained on."""
        return self.encode(self.rows)

    @cached_property
    def before(self) -> list[TokenScores]:
        """What the model scores on them before any attack."""
        return self.score(self.examples)

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        return encode_rows(self.tokenizer, self.template, rows)

    def asked(self, row: Row, question: str, opening: str = "") -> Example:
        """A row with another question, or with an answer whose first words are given."""
        return encode(self.tokenizer, template_for(row, self.template), question, row.answer, opening)

    def score(self, examples: Sequence[Example], model: Model | None = None) -> list[TokenScores]:
        return score(self.model if model is None else model, examples, self.pad, self.batch_size)


class Attempt(NamedTuple):
    """One try: `scores` of the true answers of the forget rows `judged` (indices), in that order."""

    variant: str
    judged: tuple[int, ...]
    scores: list[TokenScores]


Attempts = Iterator[Attempt]


def everywhere(variant: str, scores: list[TokenScores]) -> Attempt:
    """An attempt that is judged by all forget rows."""
    return Attempt(variant, tuple(range(len(scores))), scores)
