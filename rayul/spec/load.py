"""From a YAML file and `--set` overrides to a `Spec`, with every problem of both in one error."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rayul.spec.explain import explain
from rayul.spec.methods import METHODS
from rayul.spec.problems import Loc, Problem, SpecError, dotted, show
from rayul.spec.shipped import is_name, spec_file, way_to_shipped
from rayul.spec.source import Source
from rayul.spec.spec import Spec, expand, validated
from rayul.spec.update import UPDATES
from rayul.spec.yaml_text import Document, read_yaml, unescaped

_MAX_BYTES = 1_000_000

_TEXTS = tuple(f"{model}.{name}" for model in ("model", "oracle") for name in ("template", "system"))
"""Keys whose value an override may give as it is, without the quotes that YAML would need."""

_WITH_SOURCES = ("data", "probes")
"""Sections in which a plain text may stand for a `Source`."""


def load_spec(path: str | Path, overrides: Sequence[str] = (), *, check_files: bool = True) -> Spec:
    """Read and validate a spec: a file, or the name of a shipped one where no file has that name.

    overrides: "key.path=value", the value in YAML; "control.criteria.0.at_least=0.8" reaches into lists. An override of
    a mapping replaces it ("data.forget=x.jsonl" with its columns; "data.forget.path=x.jsonl" keeps them); one of
    `method.name` takes the file's parameters that only other methods have with it, and one of `update` the section of
    the other kind. A template or a system message may stand there without quotes (`unescaped`).
    check_files: local models and data that do not exist are errors; turn it off to read the spec of finished results
    elsewhere. Raises SpecError with all problems at once; nothing else, whatever the file holds.
    """
    return parse_spec(spec_text(path), overrides, source=str(path), check_files=check_files)


def spec_text(path: str | Path) -> str:
    """Of a file, or of a shipped spec. Raises SpecError where it cannot be read."""
    source = str(path)
    try:
        data = _read(spec_file(path))
    except FileNotFoundError as error:
        missing = "no such file, and no shipped spec of that name"
        text = missing if is_name(path) else f"cannot be read: {error.strerror}"
        raise SpecError([Problem(source, "", text, way_to_shipped(path))]) from None
    except OSError as error:
        raise SpecError([Problem(source, "", f"cannot be read: {error.strerror or error}")]) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError([Problem(f"{source}:{line}", "", "not UTF-8 text", "is it a YAML file?")]) from None


def parse_spec(text: str, overrides: Sequence[str] = (), *, source: str = "<text>", check_files: bool = True) -> Spec:
    """`load_spec` of a text; `source` names it in errors."""
    document = read_document(text, overrides, source)
    spec = None
    try:
        spec = validated(document.data, check_files=check_files)
    except ValidationError as error:
        document.problems += [
            Problem(document.place(loc), dotted(loc), text, hint) for loc, text, hint in explain(error, Spec)
        ]
    if spec is None or document.problems:
        raise SpecError(sorted(document.problems, key=by_line))
    return spec


def read_document(text: str, overrides: Sequence[str], source: str) -> Document:
    """A spec's text with its overrides, as plain data that nothing has validated. Raises SpecError where it is no
    mapping."""
    document = read_yaml(text, source)
    if not isinstance(document.data, dict):
        if not document.problems:
            what = "is empty" if document.data is None else f"expected a mapping of keys, got {show(document.data)}"
            hint = "copy a spec to start from: rayul init --from ga"
            document.problems.append(Problem(f"{source}:1", "", what, hint))
        raise SpecError(document.problems)
    document.data = expand(document.data)
    document.data.pop("provenance", None)  # in the spec.yaml of results from before there was a run.json
    for override in overrides:
        _apply(document, override)
    if any(override.startswith("method.name") for override in overrides):
        _leave_out_others(document)
    if any(override.partition("=")[0].strip() == "update" for override in overrides):
        _leave_out_other_update(document)
    return document


def by_line(problem: Problem) -> tuple[bool, int]:
    """The order of problems: by line, those of overrides last."""
    line = problem.place.rpartition(":")[2]
    return (problem.place.startswith("--set"), int(line) if line.isdecimal() else 0)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise OSError(f"larger than {_MAX_BYTES // 1000} kB, not a spec")
    return data


def _apply(document: Document, override: str) -> None:
    """Put the value of "key.path=value" into the document; what is wrong with it goes to the document's problems."""
    place = f"--set {override}"
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if parts[0] == "objectives":  # its keys are metrics, which have a dot of their own
        parts = [parts[0], *filter(None, [".".join(parts[1:])])]
    value = _free_text(text) if key.strip() in _TEXTS else read_yaml(text, place)
    if not equals or not all(parts):
        document.problems.append(Problem(place, "", "expected key.path=value", "for example training.lr=1e-3"))
        return
    if value.problems:
        document.problems += [Problem(place, key, problem.text, problem.hint) for problem in value.problems]
        return
    loc: Loc = ()
    target: Any = document.data
    for part, following in pairwise(parts):
        index = _step(target, part)
        if index is None:
            break
        loc = (*loc, index)
        if isinstance(target, dict) and target.get(part) is None:
            target[part] = {}
            document.places[loc] = place
        if parts[0] in _WITH_SOURCES and following in Source.model_fields and isinstance(target[index], str):
            target[index] = {"path": target[index]}
        target = target[index]
    last = _step(target, parts[-1]) if len(loc) == len(parts) - 1 else None
    if last is None:
        document.problems.append(Problem(place, dotted(loc), f"has no key {parts[len(loc)]}: it is {show(target)}"))
        return
    target[last] = value.data
    loc = (*loc, last)
    document.data = expand(document.data)
    document.places = {p: at for p, at in document.places.items() if p[: len(loc)] != loc} | {loc: place}


def _leave_out_others(document: Document) -> None:
    """After --set method.name=...: the file's parameters that only other methods have go with them."""
    method = document.data.get("method")
    name = method.get("name") if isinstance(method, dict) else None
    names = name.get("choice") if isinstance(name, dict) else [name]
    if not isinstance(names, list) or not all(isinstance(one, str) and one in METHODS for one in names):
        return
    kept = {"name"}.union(*(METHODS[one].parameters for one in names))
    others = {key for one in METHODS.values() for key in one.parameters} - kept
    for key in others & method.keys():
        if not document.place(("method", key)).startswith("--set"):
            del method[key]


def _leave_out_other_update(document: Document) -> None:
    """After --set update=...: the file's section of the other kind goes, unless an override is about it."""
    for kind in UPDATES:
        asked = any(at.startswith("--set") for loc, at in document.places.items() if loc[:1] == (kind,))
        if kind != document.data.get("update") and not asked:
            document.data.pop(kind, None)


def _free_text(text: str) -> Document:
    """Quoted text and null as YAML has them, anything else as it is: a shell has taken the quotes away."""
    quoted = text.strip()[:1] in ("'", '"')
    yaml = read_yaml(text, "")
    return yaml if not yaml.problems and (quoted or yaml.data is None) else Document(unescaped(text))


def _step(target: Any, part: str) -> str | int | None:
    """The key or index that `part` means in `target`, None where it cannot have one."""
    if isinstance(target, dict):
        return part
    if isinstance(target, list) and part.isascii() and part.isdigit() and int(part) < len(target):
        return int(part)
    return None
