"""One row: a question and its answer, or a passage; and how it is made of a record that somebody else wrote."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul.errors import InputError
from rayul.spec import COLUMNS, GROUP_ALIAS, ONLY_MAPPED
from rayul.unlearn.data.chat import conversation
from rayul.unlearn.data.choices import multiple_choice
from rayul.unlearn.data.columns import lines_that_map
from rayul.unlearn.scripts import is_mark, is_unspaced

Sets = dict[str, tuple["Row", ...]]

OTHER_NAMES = {"group": GROUP_ALIAS, "question": "prompt", "answer": "completion"}
"""What columns are called too, in files whose columns are not mapped: those of TOFU's kind, and those of TRL."""


class Wording(NamedTuple):
    """How a probe asks its rows. text: a template in place of the model's; None: the model's. before: what stands
    before the question. asked: what stands in its place. opening: first words of the answer, which are given."""

    text: str | None = None
    before: str = ""
    asked: str = "{question}"
    opening: str = ""


class Window(NamedTuple):
    """How a document is cut: the tokens of a chunk, those between the beginnings of two chunks, and whether short
    chunks share training rows of that size."""

    size: int
    stride: int
    pack: bool = False


class Chunk(NamedTuple):
    """A piece of a document as tokens. start: the token that its second half, which is measured, begins with; all
    tokens are trained on. room: tokens of the training row that it shares with others; 0: it has its own."""

    ids: tuple[int, ...]
    start: int
    room: int = 0


@dataclass(frozen=True)
class Row:
    """One question and its answer. `perturbed_answer`: wrong answers in the words of the paraphrased one (TOFU).
    `group` names whom or what a row is about, such as an author or a book: rows of one group stand or fall together, so
    they are split together and count together in every standard error ("" = the row and its copies). `text`: a passage
    that question and answer are the two halves of, to be continued verbatim, without a template (MUSE, arXiv
    2407.06460). `choices`: the options of multiple choice, whose question has them and asks for a letter, which is the
    answer; `stem`: what is asked, without them; `subject`: what it is said to be about.
    `alternatives`: other answers that are as right as `answer`. `examples`: what a probe shows before this question, as
    rows with their answers or as a text.
    `history`: what was said before the question, as (role, text). `wording`: of a probe that asks in its own way.
    `window`: of a document that is to be cut; `chunk`: of a piece of one. `place`: the file and line that it was read
    from, for messages: it is no part of the row."""

    question: str
    answer: str
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    perturbed_answer: tuple[str, ...] = ()
    group: str = ""
    text: str = ""
    choices: tuple[str, ...] = ()
    stem: str = ""
    subject: str = ""
    alternatives: tuple[str, ...] = ()
    examples: tuple[Row, ...] | str = ()
    history: tuple[tuple[str, str], ...] = ()
    wording: Wording | None = None
    window: Window | None = None
    chunk: Chunk | None = None
    place: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """What rows are compared by: question and answer, and the turns before them without system messages, without
        regard to capitals, blanks, punctuation, characters that nobody sees, and the forms that Unicode counts as the
        same character (NFKC). A model that was trained on one has seen the other."""
        turns = [text for role, text in self.history if role != "system"]
        whole = unicodedata.normalize("NFKC", " ".join([*turns, self.question, self.answer])).casefold()
        seen = unicodedata.normalize("NFKC", whole)
        return " ".join(seen.translate(_COMPARED).split()) or " ".join(seen.split())


class _Compared(dict[int, int | str | None]):
    """For str.translate: punctuation is a blank, and what is not seen is nothing."""

    def __missing__(self, code: int) -> int | str | None:
        unseen = _unseen(chr(code))
        punctuation = unicodedata.category(chr(code))[0] == "P"
        self[code] = None if unseen else " " if punctuation else code
        return self[code]


def _unseen(character: str) -> bool:
    """Zero-width blanks and joiners, soft hyphens, byte order marks, variation selectors."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


_COMPARED = _Compared()


def group_numbers(rows: Iterable[Row]) -> NDArray[np.int64]:
    """The group of each row [rows] as a number from 0, in the order of their first rows. Copies of a row without a
    group are one group: they say nothing that it has not said."""
    numbers: dict[str | tuple[str], int] = {}
    return np.array([numbers.setdefault(row.group or (row.key,), len(numbers)) for row in rows], dtype=np.int64)


def row_of(record: Any, place: str, columns: Mapping[Any, str | None]) -> Row:
    """The row of one record of a file or data set. `columns` maps our column names to the record's, or to None where
    one is not to be read.

    Raises InputError that names the place (never the content, which may be private): no object, no question or answer,
    a text that is broken Unicode, a group that is a list or a mapping, a paraphrase that is no text.
    """
    record = an_object(record, place)
    names = _names(record, columns)
    values = {name: None if own is None else cell(record, own) for name, own in names.items()}
    called = {name: own or name for name, own in names.items()}
    for name, value in values.items():
        _check_text(value, place, called[name])
    group = _group(values["group"], place, called["group"])
    if isinstance(values["text"], str) and not values["question"] and not values["answer"]:
        return _passage(values["text"], group, place)
    examples = _examples(values["examples"], place, called["examples"], columns)
    if not _missing(values["choices"]):
        asked = multiple_choice(values, place, called)
        return Row(
            asked.prompt,
            asked.letter,
            group=group,
            choices=asked.choices,
            stem=asked.stem,
            subject=asked.subject,
            examples=examples,
            place=place,
        )
    history: tuple[tuple[str, str], ...] = ()
    messages, column = _messages(values, called)
    if messages is not None:
        history, values["question"], values["answer"] = conversation(messages, place, column)
        _check_text([*(text for _, text in history), values["question"], values["answer"]], place, column)
    alternatives: tuple[str, ...] = ()
    if isinstance(values["answer"], list) and values["answer"] and all(map(_readable, values["answer"])):
        values["answer"], *others = values["answer"]
        alternatives = tuple(others)
    for name in ("question", "answer"):
        if not _readable(values[name]):
            raise _unreadable(values[name], place, column or called[name], record, columns)
    texts: dict[str, Any] = {name: values[name] for name in ("question", "answer")}
    for name in ("paraphrased_question", "paraphrased_answer"):
        texts[name] = "" if _missing(values[name]) else values[name]
        if not isinstance(texts[name], str):
            kind = type(texts[name]).__name__
            raise InputError(f"{place}: {called[name]!r} is a {kind}", "write a text, or leave it out")
    perturbed = () if _missing(values["perturbed_answer"]) else values["perturbed_answer"]
    perturbed = tuple(perturbed) if isinstance(perturbed, list | tuple) else (perturbed,)
    if not all(map(_readable, perturbed)):
        raise InputError(
            f"{place}: {called['perturbed_answer']!r} holds something else than texts",
            "a list of wrong answers, none of them empty or null",
        )
    return Row(
        **texts,
        perturbed_answer=perturbed,
        group=group,
        alternatives=alternatives,
        examples=examples,
        history=history,
        place=place,
    )


def cell(record: Mapping[str, Any], name: str) -> Any:
    """What a record has under a name, or where it has no such column, under the parts of it between dots: choices of
    mc1_targets is mc1_targets.choices. None where there is nothing."""
    if name in record:
        return record[name]
    first, dot, rest = name.partition(".")
    inner = record.get(first) if dot else None
    return cell(inner, rest) if isinstance(inner, Mapping) else None


def _examples(value: Any, place: str, column: str, columns: Mapping[Any, str | None]) -> tuple[Row, ...] | str:
    """A row's own examples: a text, or records like its own."""
    if _missing(value):
        return ()
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InputError(f"{place}: {column!r} is no text and no list of rows", "write either, or leave it out")
    mapped = {ours: theirs for ours, theirs in columns.items() if ours != "examples"}
    return tuple(row_of(one, f"{place}, {column} {i}", mapped) for i, one in enumerate(value, 1))


def an_object(record: Any, place: str) -> dict[str, Any]:
    """The record itself. Raises InputError where it has no columns."""
    if not isinstance(record, dict):
        raise InputError(
            f"{place}: a {type(record).__name__}, not an object",
            "one JSON object per line, or in a file named .json an array of them",
        )
    return record


def _names(record: Mapping[str, Any], columns: Mapping[Any, str | None]) -> dict[str, str | None]:
    """The record's name of each of our columns: the one it is mapped to, ours, or where the record does not have that,
    another usual one."""
    usual = {ours: theirs for ours, theirs in OTHER_NAMES.items() if ours not in record and theirs in record}
    own = {name: None if name in ONLY_MAPPED else name for name in COLUMNS}
    return {**own, **usual, **columns}


def _messages(values: Mapping[str, Any], called: Mapping[str, str]) -> tuple[Any, str]:
    """(messages, their column) of a conversation, (None, "") of any other row. A prompt and its completion may be two
    halves of one."""
    question, answer = values["question"], values["answer"]
    if isinstance(question, list) and isinstance(answer, list):
        return [*question, *answer], f"{called['question']}, {called['answer']}"
    if _missing(question) and _missing(answer) and not _missing(values["messages"]):
        return values["messages"], called["messages"]
    return None, ""


def _unreadable(
    value: Any, place: str, column: str, record: Mapping[str, Any], columns: Mapping[Any, str | None]
) -> InputError:
    if isinstance(value, bool | int | float) and not _missing(value):
        return InputError(
            f"{place}: {column!r} is a number ({type(value).__name__}), not a text",
            'convert the column to text, 42 to "42"; of multiple choice, name the options as columns.choices',
        )
    if column in record:
        what = "it is empty" if not value or isinstance(value, str | float) else f"it is a {type(value).__name__}"
        return InputError(f"{place}: no {column!r}: {what}, and has to be a text", "write it, or remove the row")
    there = ", ".join(map(str, record)) or "none"
    lines = lines_that_map(record, columns)
    way_out = f"the columns are: {there}. Say which of them it is, here or in the `columns` of the one source:\n{lines}"
    return InputError(f"{place}: no {column!r}", way_out)


def _readable(value: Any) -> bool:
    """Whether a value is a text with anything to read."""
    return isinstance(value, str) and not all(character.isspace() or _unseen(character) for character in value)


def _missing(value: Any) -> bool:
    """null, "" and NaN (a missing value in pandas)."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _check_text(value: Any, place: str, column: str) -> None:
    texts = value if isinstance(value, list | tuple) else [value]
    for text in texts:
        if not isinstance(text, str):
            continue
        if "\ufffd" in text:
            raise InputError(
                f"{place}: {column!r} holds U+FFFD, the mark of a letter that an earlier program could not read",
                "read the source again in its own encoding, or remove the row",
            )
        if "\x00" in text:
            raise InputError(f"{place}: {column!r} holds a zero byte, which is not text", "remove it")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{place}: {column!r} holds a lone surrogate (half a character), which is not text",
                "write the whole character, or remove the row",
            ) from None


def _group(value: Any, place: str, column: str) -> str:
    """The group as text, in one Unicode form (NFC) and without blanks around it: 0 is a group like any other, a missing
    value is none."""
    if _missing(value):
        return ""
    if isinstance(value, list | dict):
        raise InputError(f"{place}: {column!r} is a {type(value).__name__}", "a group is a text or a number")
    if isinstance(value, float) and value.is_integer():  # what pandas makes of a column of ints with a gap
        return str(int(value))
    return unicodedata.normalize("NFC", str(value)).strip()


def _passage(text: str, group: str, place: str) -> Row:
    """A passage as prompt and continuation, cut between two words as near to its middle as possible. Where a script has
    no blanks between words, every character is one."""
    cuts = [match.start() for match in re.finditer(r"(?<=\S)\s+(?=\S)", text)]
    pairs = enumerate(pairwise(text), 1)
    cuts += [i for i, (a, b) in pairs if is_unspaced(a) and is_unspaced(b) and not is_mark(b)]
    if not cuts:
        raise InputError(f"{place}: a text of one word has nothing to continue", "remove the row")
    cut = min(cuts, key=lambda at: abs(at - len(text) / 2))
    return Row(text[:cut], text[cut:], group=group, text=text, place=place)
