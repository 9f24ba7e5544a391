"""Which keys of a YAML text have no comment on the line above."""

from __future__ import annotations

from collections.abc import Iterator

import yaml


def keys(node: yaml.Node) -> Iterator[tuple[str, int]]:
    """Every key with its line (from 0), distributions' own keys left out."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value not in ("float", "int", "choice", "log", "step"):
                yield key.value, key.start_mark.line
            yield from keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from keys(child)


def bare_keys(text: str) -> tuple[list[str], int]:
    """The keys without a comment above them, as "line: key", and how many keys there are in all."""
    lines, found = text.splitlines(), list(keys(yaml.compose(text, Loader=yaml.SafeLoader)))
    bare = [f"{line + 1}: {key}" for key, line in found if not lines[line - 1].lstrip().startswith("# ")]
    return bare, len(found)
