"""MkDocs hook: the tables of docs/spec.md, made from the sections of the spec themselves.

A line `::: keys rayul.spec.config.Training` becomes a table of the section's keys with their defaults and docstrings.
`key: meaning` lines below it explain the keys that have no docstring.
"""

from __future__ import annotations

import json
import re
import types
from importlib import import_module
from typing import Any, Literal, Union, get_args, get_origin

import griffe
from mkdocs.exceptions import PluginError
from pydantic import BaseModel
from pydantic.fields import FieldInfo

MARK = re.compile(r"^::: keys (\S+)\.(\w+)\n((?:\w+: .+\n)*)", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    return MARK.sub(lambda match: table(match[1], match[2], match[3]), markdown)


def table(module: str, name: str, more: str) -> str:
    """Key, default and meaning of every key of a section. Raises PluginError for a key that nothing explains."""
    section: type[BaseModel] = getattr(import_module(module), name)
    documented = griffe.load(module)[name].attributes
    meanings = dict(line.split(": ", 1) for line in more.splitlines())
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key, field in section.model_fields.items():
        docstring = documented[key].docstring
        said = " ".join(docstring.value.split()) if docstring else meanings.get(key, "")
        if not said:
            raise PluginError(f"{module}.{name}.{key} has no docstring: explain it there, or below `::: keys` here")
        choices = ", ".join(f"`{_yaml(option)}`" for option in _options(field.annotation))
        meaning = f"One of {choices}. {said}" if choices else said
        rows.append(f"| `{key}` | {_default(field)} | {meaning[0].upper()}{meaning[1:].replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


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
