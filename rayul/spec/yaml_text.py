"""YAML text to plain data that remembers its lines, and back.

The rules are those of YAML 1.2, not PyYAML's 1.1: `1e-5` is a float, `no` is text, `12:30` is text. Keys are text and
stand once. Nothing that a file may hold raises anything but a `Problem`.

Not ruamel.yaml (0.19): of 5,000 mutated specs (tests/security/test_fuzz.py) it reads dozens otherwise (1_000 and dates
are no text, !!binary is accepted), and it stops at the first duplicate key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from rayul.spec.problems import Loc, Problem, dotted, show

_TAG = "tag:yaml.org,2002:"
_MAX_DEPTH, _MAX_VALUES = 30, 20_000  # an alias may repeat a value any number of times: a few lines can hold billions
_MAX_NODES = 2 * _MAX_VALUES  # a key is a node, and no value

_RULES = [  # tag, pattern, first characters: the core schema of YAML 1.2.2, section 10.3.2
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
]


class _TooManyNodes(Exception):
    """More than a spec has: PyYAML would take half a minute for those of a megabyte."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own attribute)
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise _TooManyNodes
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as text, e.g. a revision "12e4"; never writes aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RULES:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _tag, re.compile(f"^(?:{_pattern})$"), _first)


def unescaped(text: str) -> str:
    """Text with the new lines and tabs that "\\n" and "\\t" mean, as a shell and YAML in single quotes pass them."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Several lines stand as they are (source code, a template); PyYAML quotes what that form cannot hold."""
    return dumper.represent_scalar(f"{_TAG}str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def dump_yaml(data: Any, *, flow: bool = False) -> str:
    """Plain data as YAML text that `read_yaml` reads back equal, keys in their order. flow: all in one line."""
    width = math.inf if flow else 120
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width, default_flow_style=flow
    )
    return text.removesuffix("...\n").strip() if flow else text


@dataclass
class Document:
    """A YAML text as plain data. `places` says by path where a key or list entry stands, as "file:line"."""

    data: Any = None
    places: dict[Loc, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Loc) -> str:
        """Where `path` stands, or the nearest value around it. Parts the file does not have are skipped, so that
        ("control", "criteria", 0) is found where the file has a bare list under `control`."""
        found: Loc = ()
        for part in path:
            if (*found, part) in self.places:
                found = (*found, part)
        return self.places[found]


def read_yaml(text: str, source: str) -> Document:
    """Parse one YAML document. `source` is the file's name in places. Syntax errors, duplicate keys, keys that are not
    text, and tags come back in `problems`; the rest of the data is still there."""
    document = Document(places={(): f"{source}:1"})
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.problems.append(Problem(f"{source}:{line}", "", f"not text: character {show(chr(error.character))}"))
    except _TooManyNodes:
        hint = "rows stand in a file of their own, which `data` names"
        document.problems.append(Problem(f"{source}:{loader.line + 1}", "", f"more than {_MAX_VALUES} values", hint))
    except yaml.MarkedYAMLError as error:
        document.problems.append(_syntax_problem(error, source))
    except (RecursionError, yaml.YAMLError, ValueError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else f"not YAML: {error}"
        document.problems.append(Problem(f"{source}:1", "", why))
    else:
        if node is not None:
            document.data = _Reader(document, source).value(node, ())
    return document


def _syntax_problem(error: yaml.MarkedYAMLError, source: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    hint = ""
    if "'\\t'" in (error.problem or ""):
        hint = "YAML indents with spaces: replace the tab"
    elif "single document" in (error.context or ""):
        hint = "one spec a file: remove the line --- and what follows it"
    return Problem(f"{source}:{line}", "", f"not YAML: {error.problem or error.context}", hint)


class _Reader:
    """Turns YAML nodes into plain data and notes lines and problems on the way."""

    def __init__(self, document: Document, source: str) -> None:
        self.document = document
        self.source = source
        self.values = 0

    def problem(self, node: yaml.Node, path: Loc, text: str, hint: str = "") -> None:
        self.document.problems.append(Problem(self.line(node), dotted(path), text, hint))

    def line(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}"

    def value(self, node: yaml.Node, path: Loc) -> Any:
        self.values += 1
        if self.values == _MAX_VALUES:
            self.problem(node, path, f"more than {_MAX_VALUES} values", "an alias (*name) repeats too much")
        if self.values >= _MAX_VALUES:
            return None
        if len(path) > _MAX_DEPTH:
            self.problem(node, path[:3], f"nested more than {_MAX_DEPTH} deep")
            return None
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return {key: self.value(child, (*path, key)) for key, child in self.entries(node, path)}
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            for index, child in enumerate(node.value):
                self.document.places.setdefault((*path, index), self.line(child))
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        self.problem(node, path, f"the tag {node.tag.replace(_TAG, '!!')} is not supported", "remove it")
        return None

    def entries(self, node: yaml.MappingNode, path: Loc) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, str] = {}
        for key_node, child in node.value:
            key = self.scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                what = show(key) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                self.problem(key_node, path, f"a key must be text, got {what}", "put the key in quotes")
            elif key == "<<":
                self.problem(key_node, (*path, key), "merge keys are not YAML 1.2", "write the keys out")
            elif key in seen:
                self.problem(key_node, (*path, key), f"stands twice, first at {seen[key]}", "remove one of the two")
            else:
                seen[key] = self.line(key_node)
                self.document.places.setdefault((*path, key), seen[key])
                yield key, child

    def scalar(self, node: yaml.ScalarNode, path: Loc) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        try:
            if kind == "str":
                text.encode()  # "\ud800" is half a character: nothing could print or save it
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
                if number.bit_length() > 63:  # nothing downstream (float, JSON, Parquet) takes it
                    raise ValueError(text)
                return number
            if kind == "float":
                return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
        except (ValueError, KeyError):
            self.problem(node, path, f"{show(text, 30)} is not a valid {kind}")
        else:
            self.problem(node, path, f"the tag {node.tag.replace(_TAG, '!!')} is not supported", "remove it")
        return None
