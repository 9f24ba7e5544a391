"""Multiple choice: what a record with a `choices` column asks, in the words of lm-evaluation-harness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from rayul.errors import InputError

LETTERS = ascii_uppercase
ASKING = "Answer:"


class MultipleChoice(NamedTuple):
    """prompt: everything up to the letter of the answer. letter: of the right option. stem: the question alone.
    subject: what the prompt says that it is about, or ""."""

    prompt: str
    letter: str
    choices: tuple[str, ...]
    stem: str
    subject: str


def multiple_choice(values: Mapping[str, Any], place: str, columns: Mapping[Any, str]) -> MultipleChoice:
    """The prompt of MMLU and WMDP in lm-evaluation-harness (doc_to_text of `mmlu` and `wmdp`): the question, a line per
    option, "Answer:". A subject, such as high_school_biology, is named in a line before it, as that of MMLU's tasks is.

    values: of our columns. Raises InputError that names the place (never the content, which may be private): options
    that are no list of texts, and an answer outside them.
    """
    stem, choices = values["question"], values["choices"]
    if not isinstance(stem, str) or not stem.strip():
        column = columns.get("question", "question")
        raise InputError(f"{place}: no {column!r}: it must be a text that is not empty", "write what is asked")
    readable = isinstance(choices, list | tuple) and all(isinstance(c, str) and c.strip() for c in choices)
    if not readable or not 2 <= len(choices) <= len(LETTERS):
        column = columns.get("choices", "choices")
        raise InputError(
            f"{place}: {column!r} is not a list of 2 to {len(LETTERS)} texts, none of them empty",
            'write the options as a list: "choices": ["mitosis", "meiosis", ...]',
        )
    right = _right(values["answer"], choices, place, columns.get("answer", "answer"))
    subject = values["subject"].replace("_", " ").strip() if isinstance(values["subject"], str) else ""
    prompt = f"{subject_line(subject)}{with_options(stem.strip(), choices)}\n{ASKING}"
    return MultipleChoice(prompt, LETTERS[right], tuple(choices), stem.strip(), subject)


def subject_line(subject: str) -> str:
    """What is said before a question, or before the examples before it; "" without a subject."""
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n" if subject else ""


def with_options(stem: str, choices: Sequence[str]) -> str:
    """A question and a line per option."""
    return "\n".join([stem, *(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))])


def _right(answer: Any, choices: list[str], place: str, column: str) -> int:
    """The number of the right option, from 0: the answer is that number, its letter, or its text; or a list of a 1 for
    the right option and a 0 for each other."""
    count = len(choices)
    way_out = f"write a number from 0 to {count - 1}, or a letter from A to {LETTERS[count - 1]}"
    if isinstance(answer, float) and math.isfinite(answer) and answer.is_integer():  # an int column with a gap
        answer = int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool):
        found = {answer}
    elif isinstance(answer, list) and len(answer) == count and sorted(map(str, answer)) == [*"0" * (count - 1), "1"]:
        found = {list(map(str, answer)).index("1")}
    elif isinstance(answer, str):
        text = answer.strip()
        found = {i for i, choice in enumerate(choices) if choice.strip() == text}
        found |= {int(text)} if text.isascii() and text.isdigit() else set()
        found |= {LETTERS.index(text.upper())} if len(text) == 1 and text.upper() in LETTERS else set()
        if len(found) > 1:
            raise InputError(f"{place}: {column!r} may stand for more than one of the choices", way_out)
    else:
        found = set()
    if not found:
        raise InputError(f"{place}: {column!r} names none of the {count} choices", way_out)
    (right,) = found
    if not 0 <= right < count:
        raise InputError(f"{place}: {column!r} is outside the {count} choices", way_out)
    return right
