"""What is wrong with a spec, where, and the way out: every problem of a file in one error."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from rayul.errors import InputError

Loc = tuple[str | int, ...]
"""Where a value stands, e.g. ("control", "criteria", 0, "at_least")."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `place` is "file:line" or the flag it came from; `key` is dotted, or "" for the file."""

    place: str
    key: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        line = ": ".join(part for part in (self.place, self.key, self.text) if part)
        return f"{line}\n  hint: {self.hint}" if self.hint else line


class SpecError(InputError):
    """All problems of one spec; `str()` is one `file:line: key: problem` each, followed by its hint."""

    code = "spec"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems,))


def dotted(path: Loc) -> str:
    """("control", "criteria", 0) -> "control.criteria.0"; a part that would not print is shown escaped."""
    return ".".join(part if part.isprintable() else show(part) for part in map(str, path))


def first_problem(error: ValidationError) -> str:
    """The first of an error's problems in one line, for what people do not write by hand."""
    problem = error.errors(include_url=False)[0]
    place = f"{dotted(problem['loc'])}: " if problem["loc"] else ""
    return f"{place}{problem['msg']}"


def show(value: object, width: int = 60) -> str:
    """The value as the YAML writes it ("8" in quotes, true, null), shortened."""
    text = json.dumps(value, default=str)
    return text if len(text) <= width else text[: width - 3] + "..."


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A hint: the option that `word` resembles, or all of them."""
    options = list(options)
    close = difflib.get_close_matches(word.lower(), options, n=1)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(options)}"


def refuse(text: str, hint: str = "") -> PydanticCustomError:
    """An error to raise inside a validator. The text is a value, not a template: it may hold braces."""
    return PydanticCustomError("spec", "{text}", {"text": text, "hint": hint})


def refuse_all(problems: Sequence[tuple[Loc, PydanticCustomError]]) -> ValidationError:
    """Several errors to raise inside a validator, each at its own place below the value."""
    return ValidationError.from_exception_data(
        "spec", [InitErrorDetails(type=error, loc=path, input=None) for path, error in problems]
    )


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}

_BOUND = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def expected(what: str, value: object, where: str = "") -> PydanticCustomError:
    """`expected a number, got "8"`, with a hint that fits what stands there instead. `where` goes in front."""
    text, hint = f"{where}expected {what}, got {show(value)}", ""
    if value is None:
        text, hint = f"{where}expected {what}, got nothing", "write a value after the colon, or remove the key"
    elif isinstance(value, dict) and what not in ("a mapping", "a list"):
        text, hint = f"{where}expected {what}, got a mapping", "only float, int and choice make a search distribution"
    elif isinstance(value, str) and what.startswith(("a number", "a whole number")) and _is_number(value):
        plain = value.replace("_", "")
        hint = (
            f"write {plain}: numbers have no underscores in YAML" if plain != value else f"remove the quotes: {value}"
        )
    elif what == "text" and isinstance(value, (int, float)):
        hint = f'put it in quotes: "{show(value)}"'
    elif what == "true or false" and value in ("yes", "on", "no", "off"):
        hint = f"write {show(value in ('yes', 'on'))}"
    return refuse(text, hint)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii()  # float reads the digits of every script, YAML does not


def in_words(kind: str, value: object, context: dict[str, Any], message: str) -> PydanticCustomError:
    """One of pydantic's own errors, by its type, in the words of this package."""
    if kind in _EXPECTED:
        return expected(_EXPECTED[kind], value)
    if kind in _BOUND:
        name, words = _BOUND[kind]
        return refuse(f"must be {words} {context[name]:g}, got {show(value)}")
    if kind == "literal_error":
        options = [option.strip("' ") for option in context["expected"].replace(" or ", ", ").split(", ")]
        if isinstance(value, str):
            return refuse(f"unknown value {show(value)}", did_you_mean(value, options))
        return expected(" or ".join([", ".join(options[:-1]), options[-1]] if options[1:] else options), value)
    if kind == "finite_number":
        return refuse(f"must be finite, got {value}")
    if kind == "too_short":
        return refuse("is empty", "give at least one entry, or remove the key")
    return refuse(message[:1].lower() + message[1:])
