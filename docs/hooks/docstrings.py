"""Griffe extension: docstrings of this project as Markdown.

They explain parameters and attributes in running text, as `name: what it is` or `a, b: what they are`, which becomes a
list; and their stars and angle brackets are meant as they stand.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class NamedLines(griffe.Extension):
    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        _rewrite(func, [parameter.name for parameter in func.parameters])

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        init = cls.members.get("__init__")
        parameters = [p.name for p in init.parameters] if isinstance(init, griffe.Function) else []
        _rewrite(cls, [*cls.members, *parameters])

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        _rewrite(attr, [])


def _rewrite(documented: griffe.Object, names: list[str]) -> None:
    if documented.docstring is None:
        return
    text = re.sub(r"`[^`]*`|([*<])", lambda m: f"\\{m[1]}" if m[1] else m[0], documented.docstring.value)
    text = re.sub(r"(?<=\.)\s+(?=Raises [A-Z])", "\n\n", text)
    if names:
        name = "|".join(map(re.escape, names))
        start = re.compile(rf"(?:^|(?<=[.;]) |\n\s*)((?:{name})(?:, (?:{name}))*): ")
        head, *paragraphs = text.split("\n\n")
        text = "\n\n".join([head, *(start.sub(r"\n- **\1**: ", paragraph).strip() for paragraph in paragraphs)])
    documented.docstring.value = text
