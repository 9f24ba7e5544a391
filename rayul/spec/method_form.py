"""The JSON Schema of the sections that name a function and have its parameters: `method`, and `control.own`."""

from __future__ import annotations

from rayul.spec.custom import CODE
from rayul.spec.forms import OWN_FUNCTION, Form, one_of, searchable
from rayul.spec.methods import METHODS
from rayul.spec.parameter import Parameter

_TYPES = {float: "number", int: "integer", bool: "boolean", str: "string"}
_TEXTS: Form = {"type": "object", "additionalProperties": {"type": "string"}}


def method_form() -> Form:
    """A name alone, or with parameters: of a built-in method those that it has, of a function in a file any."""
    known = {key: parameter_form(p) for method in METHODS.values() for key, p in method.parameters.items()}
    names = one_of(METHODS)
    builtin = {
        "type": "object",
        "properties": {"name": searchable(names), **known},
        "required": ["name"],
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"name": {"const": name}}},
                "then": {"propertyNames": {"enum": ["name", *method.parameters]}},
            }
            for name, method in METHODS.items()
        ],
    }
    return {"anyOf": [one_of(METHODS, OWN_FUNCTION), builtin, _own(searchable(one_of(METHODS, OWN_FUNCTION)))]}


def own_control_form() -> Form:
    return {"anyOf": [OWN_FUNCTION, _own(OWN_FUNCTION)]}


def parameter_form(parameter: Parameter) -> Form:
    """A value of the parameter, or a distribution."""
    value: Form = {"type": _TYPES[parameter.kind]}
    if parameter.options:
        value["enum"] = list(parameter.options)
    if parameter.low > -float("inf"):
        value["minimum"] = parameter.low
    if parameter.high < float("inf"):
        value["maximum"] = parameter.high
    if parameter.many:
        value = {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}
    if parameter.default is None:
        value = {"anyOf": [value, {"type": "null"}]}
    said: Form = {"default": parameter.default, "description": parameter.summary}
    return value | said if parameter.many else searchable(value | said)


def _own(name: Form) -> Form:
    """A function in a file with its parameters, which only the file knows."""
    some = {"type": "object", "properties": {"choice": {"contains": OWN_FUNCTION}}, "required": ["choice"]}
    where = {"anyOf": [OWN_FUNCTION, some]}
    return {
        "type": "object",
        "properties": {"name": {"allOf": [name, where]}, CODE: _TEXTS},
        "required": ["name"],
    }
