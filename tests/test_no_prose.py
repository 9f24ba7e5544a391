"""Reasons, notes and messages are for people: no module takes them apart. What is grouped or counted is a field."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "rayul"
PROSE = {"reason", "reasons", "example", "stopped", "notes"}
TAKES_APART = {"split", "rsplit", "partition", "rpartition", "startswith", "endswith", "find", "index", "removeprefix"}
OLD = "ending_in_row"
"""Reads rows of earlier versions, in which the rule stood in the reason only."""


def is_prose(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        name = str(node.slice.value)
    return name in PROSE


def parsed(source: str) -> Iterator[str]:
    """The expressions that look into a text for people: re on it, a method that takes it apart, or `"..." in` it."""
    tree = ast.parse(source)
    allowed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == OLD
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in allowed:
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            with_re = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
            if with_re and any(is_prose(inner) for argument in node.args for inner in ast.walk(argument)):
                yield ast.unparse(node)
            # split() without an argument only takes out line breaks
            if node.func.attr in TAKES_APART and node.args and is_prose(node.func.value):
                yield ast.unparse(node)
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            text = isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)
            if text and any(is_prose(comparator) for comparator in node.comparators):
                yield ast.unparse(node)


def test_no_module_parses_a_reason() -> None:
    found = {str(path.relative_to(ROOT)): list(parsed(path.read_text())) for path in sorted(ROOT.rglob("*.py"))}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "re.split(r' at step |: ', e.reason)[0]",
        "re.sub(r'[0-9]+', '#', ending.reason)",
        "row.reason.split(' ')[0]",
        "reason.partition(':')",
        "'does not grow steadily' in e.reason",
        "row['reason'].startswith('dominance')",
    ],
)
def test_it_would_be_seen(source: str) -> None:
    assert list(parsed(source)) != []


def test_what_only_shows_one_is_no_parsing() -> None:
    assert list(parsed("f'{e.reason}'; ' '.join(e.reason.split()); UNSTEADY in e.notes; e.rule.partition('.')")) == []
