"""MkDocs hook: the tables of docs/spec.md, made from the sections of the spec themselves.

A line `::: keys Training` becomes a table of that section's keys with their defaults and docstrings. `key: meaning`
lines below it explain the keys that have no docstring.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import griffe
from mkdocs.exceptions import PluginError
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rayul.spec.section import Section

MARK = re.compile(r"^::: keys (\w+)\n((?:\w+: .+\n)*)", re.MULTILINE)
FILLED_IN = {"code", "provenance"}
"""Keys that rayul writes itself, into the spec.yaml of results."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    sections = {section.__name__: section for section in _subclasses(Section)}
    return MARK.sub(lambda match: table(sections[match[1]], match[2]), markdown)


def table(section: type[BaseModel], more: str) -> str:
    """Key, default and meaning of every key of a section. Raises PluginError for a key that nothing explains."""
    documented = griffe.load(section.__module__)[section.__name__].attributes
    meanings = dict(line.split(": ", 1) for line in more.splitlines())
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key, field in section.model_fields.items():
        if key in FILLED_IN:
            continue
        docstring = documented[key].docstring
        said = " ".join(docstring.value.split()) if docstring else meanings.get(key, "")
        if not said:
            name = f"{section.__module__}.{section.__name__}.{key}"
            raise PluginError(f"{name} has no docstring: explain it there, or in docs/spec.md")
        choices = ", ".join(f"`{_yaml(option)}`" for option in _options(field.annotation))
        meaning = f"One of {choices}. {said}" if choices else said
        rows.append(f"| `{key}` | {_default(field)} | {meaning[0].upper()}{meaning[1:].replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def _subclasses(of: type) -> Iterator[type[BaseModel]]:
    for subclass in of.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{_yaml(value)}`" if value not in ((), {}) else "none"


def _options(annotation: Any) -> tuple[Any, ...]:
    """The values of a Literal, also of one in a union."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return tuple(option for part in parts if get_origin(part) is Literal for option in get_args(part))


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")
