"""Small changes to a source file, one at a time: a comparison turned, an operator or a factor changed, a test negated.

A mutant is named by what can be read in the source (file, function, line of text, change), not by a line number, so
that the arguments in `survivors.txt` outlive edits elsewhere in the file.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {
    a: b
    for pair in (
        ("min", "max"),
        ("any", "all"),
        ("argmin", "argmax"),
        ("nanmin", "nanmax"),
        ("minimum", "maximum"),
        ("ceil", "floor"),
        ("low", "high"),
        ("exp", "log"),
        ("sum", "mean"),
    )
    for a, b in (pair, pair[::-1])
}
"""Methods and fields that come in pairs; of plain functions only those of Python itself."""
FUNCTIONS = ("min", "max", "any", "all")
WORDS = {"minimize": "maximize", "maximize": "minimize"}


@dataclass(frozen=True)
class Mutant:
    """name: file, function, the line, and what is changed in it. source: the file with the change."""

    name: str
    module: str
    path: Path
    tree: ast.Module


def mutants(root: Path, path: str) -> Iterator[Mutant]:
    """Every mutant of a file below root."""
    file = root / path
    text = file.read_text(encoding="utf-8")
    sites = _Sites(text)
    sites.visit(ast.parse(text))
    seen: Counter[str] = Counter()
    for number, (scope, line, change) in enumerate(sites.found):
        name = f"{path} {scope} | {line} | {change}"
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name} #{seen[name]}"
        tree = ast.fix_missing_locations(_Sites(text, number).visit(ast.parse(text)))
        yield Mutant(name, path.removesuffix(".py").replace("/", "."), file, tree)


class _Sites(ast.NodeTransformer):
    """Lists the places that can be changed in `found`, and changes the one of number `wanted`."""

    def __init__(self, text: str, wanted: int | None = None) -> None:
        self.lines, self.wanted = text.splitlines(), wanted
        self.scope: list[str] = []
        self.found: list[tuple[str, str, str]] = []

    def offer(self, node: ast.expr, *changes: tuple[str, ast.expr]) -> ast.expr:
        for what, changed in changes:
            self.found.append((".".join(self.scope) or "module", self.lines[node.lineno - 1].strip(), what))
            if len(self.found) - 1 == self.wanted:
                node = ast.copy_location(changed, node)
        return node

    def _scoped(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        self.scope.append(node.name)
        node.body = [self.visit(child) for child in node.body]  # neither decorators nor annotations
        if isinstance(node, ast.FunctionDef):
            node.args.defaults = [self.visit(child) for child in node.args.defaults]
            node.args.kw_defaults = [child and self.visit(child) for child in node.args.kw_defaults]
        self.scope.pop()
        return node

    visit_FunctionDef = visit_ClassDef = _scoped

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.value = node.value and self.visit(node.value)
        return node

    def _as_it_is(self, node: ast.AST) -> ast.AST:
        return node

    # What an error says is the business of its own tests; an assertion is one for the type checker.
    visit_Raise = visit_Assert = visit_JoinedStr = visit_Import = visit_ImportFrom = _as_it_is

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return node if ast.unparse(node.value) == "Literal" else self.generic_visit(node)  # a type

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)  # a docstring

    def visit_If(self, node: ast.If) -> ast.AST:
        return node if ast.unparse(node.test) == "TYPE_CHECKING" else self._tested(node)

    def _tested(self, node: ast.If | ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        node.test = self._negated(node.test)
        return node

    visit_IfExp = _tested

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        node.ifs = [self._negated(test) for test in node.ifs]
        return node

    def _negated(self, test: ast.expr) -> ast.expr:
        """Of a test that the other changes do not turn already."""
        if isinstance(test, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
            return test
        return self.offer(test, (f"{ast.unparse(test)} → not", ast.UnaryOp(ast.Not(), test)))

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        changes = []
        for i, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                changed = ast.Compare(node.left, [*node.ops[:i], other(), *node.ops[i + 1 :]], node.comparators)
                changes.append((f"{_sign(op)} → {_sign(other())}", changed))
        return self.offer(node, *changes)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        other = OPERATORS.get(type(node.op))
        if other is None:
            return node
        changed = ast.BinOp(node.left, other(), node.right)
        return self.offer(node, (f"{_sign(node.op)} → {_sign(other())}", changed))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        changed = ast.BoolOp(other, node.values)
        return self.offer(node, ("and → or" if isinstance(node.op, ast.And) else "or → and", changed))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        sign = {ast.USub: "-", ast.Not: "not", ast.Invert: "~"}.get(type(node.op))
        return node if sign is None else self.offer(node, (f"{sign} → nothing", node.operand))

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, bool):
            return self.offer(node, (f"{value} → {not value}", ast.Constant(not value)))
        if isinstance(value, (int, float)):
            changed = value + 1 if isinstance(value, int) or not value else value * 1.5
            return self.offer(node, (f"{value} → {changed}", ast.Constant(changed)))
        if isinstance(value, str) and value in WORDS:
            return self.offer(node, (f"{value} → {WORDS[value]}", ast.Constant(WORDS[value])))
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if not isinstance(node.ctx, ast.Load) or node.id not in FUNCTIONS:
            return node
        return self.offer(node, (f"{node.id} → {NAMES[node.id]}", ast.Name(NAMES[node.id], node.ctx)))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load) or node.attr not in NAMES:
            return node
        changed = ast.Attribute(node.value, NAMES[node.attr], node.ctx)
        return self.offer(node, (f".{node.attr} → .{NAMES[node.attr]}", changed))

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        return node if node.arg == "strict" else self.generic_visit(node)  # zip's own check


def _sign(op: ast.cmpop | ast.operator) -> str:
    signs = {
        "Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Eq": "==", "NotEq": "!=", "Is": "is", "IsNot": "is not",
        "In": "in", "NotIn": "not in", "Add": "+", "Sub": "-", "Mult": "*", "Div": "/", "Pow": "**", "FloorDiv": "//",
        "Mod": "%", "BitAnd": "&", "BitOr": "|",
    }  # fmt: skip
    return signs[type(op).__name__]
