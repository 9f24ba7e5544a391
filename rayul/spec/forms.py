"""Parts of the spec's JSON Schema, for values that a function checks: pydantic cannot read a form off a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Form = dict[str, Any]
"""A JSON Schema."""

OWN_FUNCTION: Form = {"type": "string", "pattern": r"\.py:\w+$", "description": "a function in a file: ./my_file.py:fn"}


@dataclass(frozen=True)
class HasForm:
    """Beside a validator in an annotation: the form of what it takes. It is made when a schema is asked for."""

    make: Callable[[], Form]

    def __get_pydantic_json_schema__(self, _: object, __: object) -> Form:
        return self.make()


def form(**keywords: Any) -> HasForm:
    return HasForm(lambda: dict(keywords))


def one_of(names: Iterable[str], *others: Form) -> Form:
    """One of these names, or any of the other forms."""
    named: Form = {"enum": list(names)}
    return {"anyOf": [named, *others]} if others else named


def named(names: Iterable[str], *others: Form) -> HasForm:
    return HasForm(lambda: one_of(names, *others))


def searchable(value: Form) -> Form:
    """A value of this form, or a distribution over such values."""
    return either(value, *_distributions(_bare(value)))


def either(value: Form, *others: Form) -> Form:
    """One of these forms, with what the first says of itself."""
    said = {key: part for key, part in value.items() if key in _SAID}
    return {"anyOf": [_bare(value), *others], **said}


_SAID = ("default", "description", "examples")


def _bare(value: Form) -> Form:
    return {key: part for key, part in value.items() if key not in _SAID}


def _distributions(value: Form) -> Iterator[Form]:
    kinds = _types(value)
    if not kinds or kinds & {"number", "integer"}:
        whole = {"type": "integer", "exclusiveMinimum": 0}
        yield _range("int", {"type": "integer"}, whole)
    if not kinds or "number" in kinds:
        yield _range("float", {"type": "number"}, {"type": "number", "exclusiveMinimum": 0})
    options = {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}
    yield {"type": "object", "properties": {"choice": options}, "required": ["choice"], "additionalProperties": False}


_PRIOR: Form = {
    "type": "object",
    "properties": {"center": {"type": "number"}, "spread": {"type": "number", "exclusiveMinimum": 0}},
    "required": ["center", "spread"],
    "additionalProperties": False,
}


def _range(kind: str, end: Form, step: Form) -> Form:
    ends = {"type": "array", "items": end, "minItems": 2, "maxItems": 2}
    properties = {kind: ends, "log": {"type": "boolean"}, "step": step, "prior": _PRIOR}
    return {"type": "object", "properties": properties, "required": [kind], "additionalProperties": False}


def _types(value: Form) -> set[str]:
    """The types that a form names; none where it leaves them open."""
    found = value.get("type", ())
    named = {found} if isinstance(found, str) else set(found)
    if "enum" in value:
        named.add("string")
    return named.union(*(_types(part) for part in value.get("anyOf", ())))
