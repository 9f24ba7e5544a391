"""The spec as JSON Schema, for editors and for programs that write specs. It is read off the sections themselves."""

from __future__ import annotations

import ast
import inspect
from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from rayul.spec.forms import Form, either, searchable
from rayul.spec.metrics import OWN_METRICS, STEERING_KEYS
from rayul.spec.section import Searchable, Section
from rayul.spec.spec import SHORTHAND, Spec
from rayul.spec.tracking import Tracking

ADDRESS = "https://raw.githubusercontent.com/rayul/rayul/main/docs/spec.schema.json"
"""Where the schema of the newest rayul is published."""

EDITOR_LINE = f"# yaml-language-server: $schema={ADDRESS}\n"
"""The first line of a spec, for editors with the YAML language server."""


def spec_schema() -> Form:
    """A JSON Schema (draft 7, which every editor knows) that takes every valid spec, with distributions and shorthands,
    and refuses unknown keys, names, types and values out of range. What depends on several keys, on files or on rows,
    `load_spec` checks alone; and it reads a few spellings of earlier versions that the schema does not have."""
    schema = Spec.model_json_schema(schema_generator=_Sections)
    properties = schema["properties"]
    for key, section in (("model", "Model"), ("oracle", "Model"), ("control", "Control")):
        short = schema["$defs"][section]["properties"][SHORTHAND[key]]
        properties[key] = either(properties[key], short)
    trackers = {"type": "array", "items": {"enum": list(Tracking.model_fields)}, "uniqueItems": True}
    properties["tracking"] = either(properties["tracking"], trackers)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": ADDRESS,
        "title": "A sweep of rayul",
        **schema,
        "if": {"not": {"anyOf": [OWN_METRICS, {"required": ["probes"]}]}},
        "then": {
            "properties": {
                "objectives": {"propertyNames": {"enum": list(STEERING_KEYS)}},
                "control": {
                    "properties": {"criteria": {"items": {"properties": {"metric": {"enum": list(STEERING_KEYS)}}}}},
                    "items": {"properties": {"metric": {"enum": list(STEERING_KEYS)}}},
                },
            }
        },
    }


class _Sections(GenerateJsonSchema):
    """Adds what pydantic does not know: distributions in searchable sections, and the docstrings of keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        section = cast(type[Section], schema["cls"])
        said = _docstrings(section)
        fixed = section.unsearchable if issubclass(section, Searchable) else tuple(section.model_fields)
        for key, value in made.get("properties", {}).items():
            described = value | {"description": said[key]} if key in said else value
            made["properties"][key] = described if key in fixed else searchable(described)
        made.pop("title", None)
        return made


def _docstrings(section: type[BaseModel]) -> dict[str, str]:
    """The text below each key of a section, in one line."""
    (body,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(body, ast.ClassDef)
    pairs = zip(body.body, body.body[1:], strict=False)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
