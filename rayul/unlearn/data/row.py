"""One row: a question and its answer, or a passage; and how it is made of a record that somebody else wrote."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayul.errors import InputError
from rayul.spec import COLUMNS, GROUP_ALIAS

Sets = dict[str, tuple["Row", ...]]


@dataclass(frozen=True)
class Row:
    """One question and its answer. `perturbed_answer`: wrong answers in the words of the paraphrased one (TOFU).
    `group` names whom or what a row is about, such as an author or a book: rows of one group stand or fall together, so
    they are split together and count together in every standard error ("" = a group of its own). `text`: a passage that
    question and answer are the two halves of, to be continued verbatim, without a template (MUSE, arXiv 2407.06460)."""

    question: str
    answer: str
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    perturbed_answer: tuple[str, ...] = ()
    group: str = ""
    text: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What rows are compared by: question and answer without regard to capitals, kinds of blanks, and the forms
        that Unicode counts as the same character (NFKC). A model that was trained on one has seen the other."""
        question, answer = (
            " ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in (self.question, self.answer)
        )
        return question, answer


def group_numbers(rows: Iterable[Row]) -> NDArray[np.int64]:
    """The group of each row [rows] as a number from 0, in the order of their first rows."""
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(row.group or i, len(numbers)) for i, row in enumerate(rows)], dtype=np.int64)


def row_of(record: Any, place: str, columns: Mapping[Any, str]) -> Row:
    """The row of one record of a file or data set. `columns` maps our column names to the record's.

    Raises InputError that names the place (never the content, which may be private): no object, no question or answer,
    a text that is broken Unicode, a group that is a list or a mapping.
    """
    if not isinstance(record, dict):
        raise InputError(f"{place}: a {type(record).__name__}, not an object", "one JSON object per line")
    if "group" not in columns and "group" not in record:
        columns = {**columns, "group": GROUP_ALIAS}
    values = {name: record.get(columns.get(name, name)) for name in COLUMNS}
    for name, value in values.items():
        _check_text(value, place, columns.get(name, name))
    group = _group(values["group"], place, columns.get("group", "group"))
    if isinstance(values["text"], str) and not values["question"] and not values["answer"]:
        return _passage(values["text"], group, place)
    for name in ("question", "answer"):
        text = values[name]
        if not isinstance(text, str) or not text.strip():
            found = ", ".join(map(str, record)) or "nothing"
            raise InputError(
                f"{place}: no {columns.get(name, name)!r}: it must be a text that is not empty",
                f"the columns are: {found}; map yours with data.columns.{name}",
            )
    perturbed = values["perturbed_answer"] or ()
    perturbed = tuple(map(str, perturbed)) if isinstance(perturbed, list | tuple) else (str(perturbed),)
    texts = {name: str(values[name] or "") for name in COLUMNS if name not in ("perturbed_answer", "text", "group")}
    return Row(**texts, perturbed_answer=perturbed, group=group)


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
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{place}: {column!r} holds a lone surrogate (half a character), which is not text",
                "write the whole character, or remove the row",
            ) from None


def _group(value: Any, place: str, column: str) -> str:
    """The group as text: 0 is a group like any other; null, "" and NaN (a missing value in pandas) are none."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict):
        raise InputError(f"{place}: {column!r} is a {type(value).__name__}", "a group is a text or a number")
    if isinstance(value, float) and value.is_integer():  # what pandas makes of a column of ints with a gap
        return str(int(value))
    return str(value)


def _passage(text: str, group: str, place: str) -> Row:
    """A passage as prompt and continuation, cut at the blank nearest to its middle."""
    blanks = [match.start() for match in re.finditer(r"(?<=\S)\s+(?=\S)", text)]
    if not blanks:
        raise InputError(f"{place}: a text of one word has nothing to continue", "remove the row")
    cut = min(blanks, key=lambda at: abs(at - len(text) / 2))
    return Row(text[:cut], text[cut:], group=group, text=text)
