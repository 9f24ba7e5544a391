"""Text to tokens: the whole text of a row is encoded at once, as in training, and its answer is found in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rayul.errors import InputError
from rayul.unlearn.data import LETTERS, Row
from rayul.unlearn.template import AnyTemplate, question_place, rendered, shared_start, template_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

_REACH = 64
"""Characters before a boundary in which a tokenizer without offsets is searched for the end of a token."""


class Example(NamedTuple):
    """One row as tokens. The answer is ids[start:stop]; ids[stop:] closes the turn (end token) and is no answer.

    options: of multiple choice, the token of each option's letter in place of ids[stop - 1], the right one's. breaks:
    where in ids another text begins, which sees nothing of those before it, and whose first token is no answer."""

    ids: tuple[int, ...]
    start: int
    stop: int
    options: tuple[int, ...] = ()
    breaks: tuple[int, ...] = ()

    @property
    def to_answer(self) -> Example:
        """Up to the end of its answer: no score depends on what closes the turn."""
        return self._replace(ids=self.ids[: self.stop])


class Batch(NamedTuple):
    """Examples padded on the right: ids [B, T] int64, attention [B, T] int64, answer [B, T] bool.

    `answer[b, t]` marks ids[b, t] as a token of the answer, so it is predicted by the logits at t - 1. positions [B, T]
    int64: where an example has breaks, the place of each token in its own text, which attends to itself alone.
    """

    ids: Tensor
    attention: Tensor
    answer: Tensor
    positions: Tensor | None = None


def encode(tokenizer: Tokenizer, template: AnyTemplate, question: str, answer: str, opening: str = "") -> Example:
    """Tokens of one question and answer: those that the tokenizer makes of the whole text, and an end token.

    Every token with a character of the answer belongs to the answer, also one that straddles its boundary, as "]Ada"
    might. So does one blank before the answer, which most tokenizers join with the word after it (" Ada"): what comes
    before is then the same whatever the answer is. A beginning-of-sequence token is there where the tokenizer adds one,
    or where the template writes it. opening: first words of the answer, which count as the prompt's.

    Raises InputError for an answer without tokens, and for a prompt without.
    """
    text = rendered(tokenizer, template, question, opening + answer)
    begin = text.begin + len(opening)
    blank = text.whole[begin - 1 : begin] == " "
    ids, start, stop = _located(tokenizer, text.whole, begin - blank, text.end, text.special)
    if stop - start <= blank:  # perhaps the blank alone
        _, first, last = _located(tokenizer, text.whole, begin, text.end, text.special)
        if first == last:
            raise InputError("an answer has no tokens", "remove the row")
    if start == 0:
        raise InputError(
            "an answer begins within the first token of its text, so that nothing comes before it",
            "write a blank between {question} and {answer} in model.template",
        )
    end = tokenizer.eos_token_id
    if end is not None and end not in ids[stop:]:
        ids.append(end)
    return Example(tuple(ids), start, stop)


def question_span(tokenizer: Tokenizer, template: AnyTemplate, question: str, answer: str) -> tuple[int, int]:
    """Where in the example of this row the tokens with a character of the question are, up to the answer's."""
    text = rendered(tokenizer, template, question, answer)
    start = encode(tokenizer, template, question, answer).start
    place = question_place(tokenizer, template, question, answer)
    _, begin, end = _located(tokenizer, text.whole, *place, text.special)
    return min(begin, start), min(end, start)


def encode_rows(tokenizer: Tokenizer, template: AnyTemplate, rows: Sequence[Row]) -> list[Example]:
    """Raises InputError as `encode` does, and for option letters that are no tokens of their own."""
    return [_encode_row(tokenizer, template_for(row, template), row) for row in rows]


def _encode_row(tokenizer: Tokenizer, template: AnyTemplate, row: Row) -> Example:
    if row.chunk is not None:
        return Example(row.chunk.ids, row.chunk.start, len(row.chunk.ids))
    example = encode(tokenizer, template, row.question, row.answer)
    if not row.choices:
        return example
    with_each = [encode(tokenizer, template, row.question, letter) for letter in LETTERS[: len(row.choices)]]
    place = example.stop - 1
    options = tuple(other.ids[place] for other in with_each if other.stop == example.stop)
    same_before = all(other.ids[:place] == example.ids[:place] for other in with_each)
    if not same_before or len(set(options)) < len(row.choices):
        raise InputError(
            "the tokenizer has no token for each letter of the options at the end of this question",
            "measure choice_text, which compares the options' texts, or use another tokenizer",
        )
    return example._replace(options=options)


def encode_sets(
    tokenizer: Tokenizer, template: AnyTemplate, sets: Mapping[str, Sequence[Row]]
) -> dict[str, list[Example]]:
    """The examples of every set. Raises InputError that names set and row, counted from 1."""
    examples: dict[str, list[Example]] = {name: [] for name in sets}
    for name, rows in sets.items():
        for i, row in enumerate(rows, 1):
            try:
                examples[name] += encode_rows(tokenizer, template, [row])
            except InputError as error:
                raise InputError(f"{name} row {i}: {error.message}", error.hint) from error
            except BaseException as error:
                if type(error).__name__ != "PanicException":  # tokenizers' own, not among Python's exceptions
                    raise
                raise InputError(
                    f"{name} row {i}: the tokenizer gave up: {error}", "correct its tokenizer.json, or use another"
                ) from error
    return examples


def _located(tokenizer: Tokenizer, text: str, begin: int, end: int, special: bool) -> tuple[list[int], int, int]:
    """(ids, first, last + 1): the tokens of a text, and which of them have a character of text[begin:end].

    special: whether the tokenizer adds special tokens; it adds no second BOS to a text that begins with one.
    """
    ids: list[int] = []
    inside: Sequence[int] = ()
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        ids = list(encoded["input_ids"])
        # Some tokenizers trim blanks from offsets: a blank at 6 is then (7, 7), within text[6:9] and not text[7:9].
        inside = [i for i, (first, last) in enumerate(encoded["offset_mapping"]) if first < end and last > begin]
    if not inside:
        ids, inside = _without_offsets(tokenizer, text, begin, end, special)
    first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
    bos = tokenizer.bos_token_id
    if special and bos is not None and ids[:2] == [bos, bos]:
        return ids[1:], max(0, first - 1), max(0, last - 1)
    return ids, first, last


def _without_offsets(tokenizer: Tokenizer, text: str, begin: int, end: int, special: bool) -> tuple[list[int], range]:
    """(ids, which of them have a character of text[begin:end]), by encoding beginnings of the text: one that ends where
    a token does encodes to the text's first tokens."""

    def bare(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def complete(place: int) -> tuple[int, bool]:
        """How many tokens lie before a place, and whether one ends there."""
        most = 0
        for cut in range(place, max(-1, place - _REACH), -1):
            beginning = bare(text[:cut])
            shared = shared_start(beginning, whole)
            most = max(most, shared)
            if shared == len(beginning):
                return most, cut == place
        return most, False

    whole = bare(text)
    first, _ = complete(begin)
    last, ends_there = (len(whole), True) if end == len(text) else complete(end)
    if not ends_there and begin < end:
        last += 1
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    added = next(n for n in range(len(ids) + 1) if ids[n : n + len(whole)] == whole)
    return ids, range(added + first, added + last)


def pad_id(tokenizer: Tokenizer) -> int:
    """The padding token; any token serves where the tokenizer has none, since padding is masked everywhere."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def collate(examples: Sequence[Example], pad: int, device: torch.device | str = "cpu") -> Batch:
    """Pad on the right to the longest example: B = len(examples), T = its length."""
    length = max(len(e.ids) for e in examples)
    ids = torch.tensor([[*e.ids, *[pad] * (length - len(e.ids))] for e in examples])
    at = torch.arange(length)
    attention = at < torch.tensor([[len(e.ids)] for e in examples])
    answer = (at >= torch.tensor([[e.start] for e in examples])) & (at < torch.tensor([[e.stop] for e in examples]))
    places = positions(examples, length)
    if places is not None:
        answer, places = answer & (places > 0), places.to(device)
    return Batch(ids.to(device), attention.long().to(device), answer.to(device), places)


def positions(examples: Sequence[Example], length: int) -> Tensor | None:
    """The place of each token in its own text [B, length], from 0; None where no example has breaks. Transformers masks
    attention by it: a place that does not follow the one before begins another text."""
    if not any(e.breaks for e in examples):
        return None
    places = torch.arange(length).repeat(len(examples), 1)
    for row, example in zip(places, examples, strict=True):
        for begin in example.breaks:
            row[begin:] -= int(row[begin])
    return places


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of `size` indices below `count`: every epoch is a fresh permutation, batches run across its end.

    `size` above `count` is cut to `count`, so that no batch holds a row twice within an epoch.
    """
    size = min(size, count)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(count, generator=generator).tolist()
        yield queue[:size]
        queue = queue[size:]
