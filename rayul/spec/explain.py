"""pydantic's errors in the words of this package: what is wrong and the way out, in terms of the YAML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rayul.spec.problems import Loc, did_you_mean, in_words
from rayul.spec.space import looks_searched


def explain(error: ValidationError, root: type[BaseModel]) -> Iterator[tuple[Loc, str, str]]:
    """(place, problem, hint) of every error, once. `root` is the model that was validated."""
    seen = set()
    for detail in error.errors(include_url=False):
        loc = tuple(part for part in detail["loc"] if part != "[key]")
        context: dict[str, Any] = detail.get("ctx", {})
        kind, value = detail["type"], detail["input"]
        if kind == "spec":
            text, hint = context["text"], context["hint"]
        elif looks_searched(value):
            text, hint = "cannot be searched", "write one value: all trials of a sweep share it"
        elif kind == "extra_forbidden":
            text, hint = "unknown key", did_you_mean(str(loc[-1]), _keys(root, loc[:-1]))
        elif kind == "missing":
            examples = [example for field in _fields(root, loc) for example in field.examples or ()]
            text, hint = "is missing", f"for example `{loc[-1]}: {examples[0]}`" if examples else ""
        else:
            worded = in_words(kind, value, context, detail["msg"]).context or {}
            text, hint = worded["text"], worded["hint"]
        if (loc, text) not in seen:
            seen.add((loc, text))
            yield loc, text, hint


def _keys(root: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that a section may have; for one that has several forms, those of all of them."""
    return list(dict.fromkeys(name for section in _sections(root, loc) for name in section.model_fields))


def _fields(root: type[BaseModel], loc: Loc) -> list[FieldInfo]:
    return [
        section.model_fields[str(loc[-1])]
        for section in _sections(root, loc[:-1])
        if str(loc[-1]) in section.model_fields
    ]


def _sections(root: type[BaseModel], loc: Loc) -> list[type[BaseModel]]:
    sections = [root]
    for part in loc:
        if isinstance(part, str):
            annotations = [s.model_fields[part].annotation for s in sections if part in s.model_fields]
            if annotations:  # else the key of a mapping of sections
                sections = [section for annotation in annotations for section in _models(annotation)]
    return sections


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models inside an annotation such as `Model | None` or `tuple[Criterion, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]
