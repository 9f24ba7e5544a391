"""Losses, controls, metrics, samplers and pruning rules of the user's own, read off the source, which never runs here.

A loss, `method: {name: ./my_loss.py:fn}`, with the contract of `rayul/unlearn/losses.py`. Its keyword-only parameters
with their defaults are the method's parameters in the spec:

    def fn(forget, retain, idk, *, weight: float = 1.0, kind: Literal["a", "b"] = "a"): ...
    fn.needs = {"retain"}      # optional; without it, what the body reads of `retain` and `idk`
    fn.retain = "nll"          # optional: rayul adds `retain_weight` times this loss on retain rows ("nll", "kl", "js")

A control, `control: {own: [{name: ./my_control.py:fn, above: 0.5}]}`, with the contract of `rayul/unlearn/controls.py`
and its parameters likewise:

    def fn(answers, *, above: float = 0.5): ...

A metric, `evaluate: {metrics: [es, ./my_metric.py:fn]}`, a number per row as in `rayul/unlearn/metrics.py`; criteria
and objectives name it forget.fn or retain.fn:

    def fn(scores) -> float: ...
    fn.better = "higher"       # or "lower": on rows that are to be kept

A pruning rule, `pruning: {rules: [./my_rule.py:fn]}`, asked after every evaluation. It is given the trial's evaluations
so far, in order (a list of `rayul.records.Evaluation`), those of all other trials, by trial, and the baseline's
metrics, by name. All of that is to be read, not changed. It returns None, or why the trial must stop, in a sentence:

    def fn(trial, others, baseline) -> str | None: ...

A sampler, `search: {sampler: ./my_sampler.py:fn}`, which is called anew for each trial, with another seed, and returns
an `optuna.samplers.BaseSampler`:

    def fn(seed, startup_trials): ...

The spec carries the text, so that every worker has it and a finished sweep keeps it: the file is one module, and
imports nothing but installed packages.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from pydantic_core import PydanticCustomError

from rayul.spec.gradients import SETTINGS
from rayul.spec.methods import NEEDS, RETAIN_TERMS, RETAIN_WEIGHT, Method
from rayul.spec.metrics import Metric
from rayul.spec.parameter import Parameter
from rayul.spec.problems import did_you_mean, expected, refuse, refuse_all, show
from rayul.spec.samplers import Sampler
from rayul.spec.source import find

CODE = "code"
"""The key under which a section of the resolved spec carries the source texts of its files, by path."""

_MAX_CHARACTERS = 200_000
_KINDS: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}


def is_custom(name: str) -> bool:
    """Whether the name of a method or metric means a function in a file: ./my_loss.py:fn."""
    return ".py:" in name


def split(name: str) -> tuple[str, str]:
    """File and function of "./my_loss.py:fn"."""
    path, _, function = name.rpartition(":")
    return path, function


def source_hash(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def read_source(path: str) -> str:
    """The text of the file. Raises `refuse(...)`."""
    found = find(path)
    if found is None or not found.is_file():
        raise refuse(f"no file {show(path)}", "write ./my_loss.py:function; paths start at the current folder")
    try:
        source = found.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(f"{show(path)} cannot be read as UTF-8 text: {error}") from None
    if len(source) > _MAX_CHARACTERS:
        raise refuse(f"{show(path)} is longer than {_MAX_CHARACTERS} characters", "put large code into a package")
    return source


def source_of(name: str, code: Mapping[str, str]) -> str:
    """The source text behind a name: of `code` (by path), else of the file. Raises `refuse(...)`."""
    path = split(name)[0]
    return code[path] if path in code else read_source(path)


def check_code(code: Any) -> dict[str, str]:
    """What stands under `code` in a section. Raises `refuse(...)` there for what is not text by path."""
    if not isinstance(code, dict) or not all(isinstance(text, str) for text in code.values()):
        raise refuse_all([((CODE,), expected("a mapping of paths to source texts", code))])
    return dict(code)


def with_code(section: Any, names: Iterable[Any]) -> Any:
    """The plain data of a section, under `code` the source text of each file that its names mean; what stands there
    already is not read again. A file that cannot be read is left out here, and refused where it is named."""
    if not isinstance(section, Mapping) or not isinstance(section.get(CODE, {}), Mapping):
        return section
    given, code = section.get(CODE, {}), {}
    for name in names:
        if isinstance(name, str) and is_custom(name):
            with suppress(PydanticCustomError):
                code[split(name)[0]] = source_of(name, given)
    return {**section, CODE: code}


@lru_cache(maxsize=64)
def custom_method(name: str, source: str) -> Method:
    """The method that a function of the source text is. Raises `refuse(...)` for what does not keep the contract."""
    tree, node, place = _function(name, source)
    _check_arguments(node.args, place, ("forget", "retain", "idk"))
    retain = _retain(tree, node, place)
    weight = RETAIN_WEIGHT if retain else {}
    parameters = dict(_parameters(node.args, place, ("name", CODE, *SETTINGS, "gru", *weight)))
    needs = _needs(tree, node, place)
    if "hidden" in needs and "layer" not in parameters:
        raise refuse(f"{place} needs hidden states but does not say of which layer", "add `layer: int | None = None`")
    if retain:
        if "retain" in needs:
            text = f"{place} reads retain rows and asks for a retain term, {node.name}.retain"
            raise refuse(text, "leave one of the two out")
        needs |= RETAIN_TERMS[retain]
    return Method(_summary(node, name), parameters | weight | SETTINGS, frozenset(needs), retain=retain)


@lru_cache(maxsize=64)
def custom_control(name: str, source: str) -> Mapping[str, Parameter]:
    """The parameters of the control that a function of the source text is. Raises `refuse(...)` for what does not keep
    the contract."""
    _, node, place = _function(name, source)
    _check_arguments(node.args, place, ("answers",))
    return dict(_parameters(node.args, place, ("name", CODE)))


@lru_cache(maxsize=64)
def custom_metric(name: str, source: str) -> Metric:
    """The metric that a function of the source text is. Raises `refuse(...)` for what does not keep the contract."""
    tree, node, place = _function(name, source)
    _check_arguments(node.args, place, ("scores",))
    _check_defaults(node.args, place, "a metric is given the scores of a row alone")
    better = _attribute(tree, node, "better")
    if better is None:
        hint = f'add below it: {node.name}.better = "higher" (or "lower"), as it is on rows that are to be kept'
        raise refuse(f"{place} does not say which way is better", hint)
    direction: Any = better.value if isinstance(better, ast.Constant) else None
    if direction not in ("higher", "lower"):
        raise refuse(f"{place}: better is {ast.unparse(better)}", 'write "higher" or "lower"')
    return Metric(direction, _summary(node, name), bounded=False)


@lru_cache(maxsize=64)
def custom_sampler(name: str, source: str) -> Sampler:
    """What is taken for true of the sampler that a function of the source text makes: that it learns from every trial
    that ended. Raises `refuse(...)` for what does not keep the contract."""
    _, node, place = _function(name, source)
    _check_arguments(node.args, place, ("seed", "startup_trials"))
    _check_defaults(node.args, place, "a sampler is given a seed and search.startup_trials alone")
    return Sampler("", learns="trials")


def check_rule(name: str, source: str) -> None:
    """Raises `refuse(...)` unless the function of the source text keeps the contract of a pruning rule."""
    _, node, place = _function(name, source)
    _check_arguments(node.args, place, ("trial", "others", "baseline"))
    _check_defaults(node.args, place, "a rule is given trial, others and baseline alone")


def _check_defaults(arguments: ast.arguments, place: str, why: str) -> None:
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is None:
            raise refuse(f"{place}: {argument.arg} has no default", why)


def _function(name: str, source: str) -> tuple[ast.Module, ast.FunctionDef, str]:
    """The module, the function in it that a name means, and where that is, as "file:line: function"."""
    path, function = split(name)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f"{path}:{error.lineno}" if isinstance(error, SyntaxError) else path
        raise refuse(f"{line}: not Python: {error.args[0]}", "it has to be importable") from None
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    node = functions.get(function)
    if node is None:
        known = did_you_mean(function, functions) if functions else "the file defines none at its top level"
        raise refuse(f"{path} has no function {function}", known)
    return tree, node, f"{path}:{node.lineno}: {function}"


def _summary(node: ast.FunctionDef, name: str) -> str:
    path, function = split(name)
    return (ast.get_docstring(node) or f"{function} of {path}").splitlines()[0]


def _check_arguments(arguments: ast.arguments, place: str, wanted: tuple[str, ...]) -> None:
    positional = [*arguments.posonlyargs, *arguments.args]
    if arguments.vararg or arguments.kwarg:
        raise refuse(f"{place} takes * or ** arguments", "name each parameter: its name is its key in the spec")
    if len(positional) != len(wanted) or arguments.defaults:
        got = ", ".join(argument.arg for argument in positional) or "none"
        number = (
            "one positional argument without a default",
            "two positional arguments without defaults",
            "three positional arguments without defaults",
        )[len(wanted) - 1]
        raise refuse(f"{place} must take {number}, got {got}", f"def fn({', '.join(wanted)})")


def _attribute(tree: ast.Module, node: ast.FunctionDef, name: str) -> ast.expr | None:
    """The value in the last top-level `fn.name = value`; None where there is none."""
    found = None
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and f"{node.name}.{name}" in map(ast.unparse, statement.targets):
            found = statement.value
    return found


def _parameters(arguments: ast.arguments, place: str, reserved: tuple[str, ...]) -> Iterator[tuple[str, Parameter]]:
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        name = argument.arg
        if name in reserved:
            raise refuse(f"{place}: {name} cannot be a parameter", f"{', '.join(reserved)} already have a meaning")
        if default is None:
            raise refuse(f"{place}: {name} has no default", f"for example {name}: float = 1.0")
        try:
            value = ast.literal_eval(default)
        except (ValueError, SyntaxError):
            hint = "write a number, a text, True or False"
            raise refuse(f"{place}: the default of {name} is not a plain value", hint) from None
        kind, options = _kind(argument.annotation, value)
        if kind is None:
            raise refuse(
                f"{place}: {name} has no type that a spec knows",
                f"annotate it: {name}: float (or int, bool, str, Literal[...], also | None)",
            )
        try:
            value = Parameter(kind, value, options=options).check(value)
        except PydanticCustomError as error:
            raise refuse(f"{place}: the default of {name}: {(error.context or {})['text']}") from None
        yield name, Parameter(kind, value, options=options)


def _kind(annotation: ast.expr | None, default: Any) -> tuple[type | None, tuple[str, ...]]:
    """The type of a parameter and the texts it may be: from its annotation, else from its default."""
    if annotation is None:
        return (type(default) if type(default) in _KINDS.values() else None), ()
    for part in _union(annotation):
        if isinstance(part, ast.Name) and part.id in _KINDS:
            return _KINDS[part.id], ()
        if isinstance(part, ast.Subscript) and ast.unparse(part.value).rpartition(".")[2] == "Literal":
            options = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
            texts = tuple(o.value for o in options if isinstance(o, ast.Constant) and isinstance(o.value, str))
            return (str, texts) if len(texts) == len(options) else (None, ())
    return None, ()


def _union(annotation: ast.expr) -> Iterator[ast.expr]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        yield from _union(annotation.left)
        yield from _union(annotation.right)
    elif isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).rpartition(".")[2] == "Optional":
        yield from _union(annotation.slice)
    else:
        yield annotation


def _needs(tree: ast.Module, node: ast.FunctionDef, place: str) -> set[str]:
    stated = _attribute(tree, node, "needs")
    if stated is not None:
        try:
            needs = set(ast.literal_eval(stated))
        except (ValueError, TypeError, SyntaxError):
            raise refuse(f"{place}: needs is not a plain set", '{"retain"}') from None
        for need in needs:
            if need not in NEEDS:
                raise refuse(f"{place}: needs unknown {show(need)}", did_you_mean(str(need), NEEDS))
        return needs
    read = {name.id for line in node.body for name in ast.walk(line) if isinstance(name, ast.Name)}
    _, retain, idk = (argument.arg for argument in [*node.args.posonlyargs, *node.args.args])
    return {need for need, name in (("retain", retain), ("idk", idk)) if name in read}


def _retain(tree: ast.Module, node: ast.FunctionDef, place: str) -> str:
    stated = _attribute(tree, node, "retain")
    if stated is None:
        return ""
    name = stated.value if isinstance(stated, ast.Constant) else None
    if name not in RETAIN_TERMS:
        raise refuse(f"{place}: retain is {ast.unparse(stated)}", f"write one of {', '.join(map(show, RETAIN_TERMS))}")
    return str(name)


def notices(code: Mapping[str, str]) -> list[str]:
    """A line for each file whose code a sweep runs."""
    return [f"code of {path} will run (sha256 {source_hash(source)[:12]})" for path, source in code.items()]
