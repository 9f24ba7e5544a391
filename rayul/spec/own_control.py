"""A custom control in the `control` section: a function in a file and, flat beside its name, its parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticCustomError

from rayul.spec.custom import CODE, check_code, custom_control, is_custom, source_of, split
from rayul.spec.problems import Loc, did_you_mean, expected, refuse, refuse_all, show
from rayul.spec.space import looks_searched, searched


@dataclass(frozen=True)
class OwnControl:
    """name: ./my_control.py:fn. parameters: all of its function's, each a value or a distribution. code: the source
    text by the file's path, read when the spec is, unless the spec has it (the spec.yaml of results does)."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)

    def to_yaml(self) -> dict[str, Any]:
        return {"name": self.name, **self.parameters, CODE: dict(self.code)}

    @classmethod
    def parse(cls, value: Any) -> OwnControl:
        """From the YAML's text or mapping. Raises all problems at once, each at its key."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or looks_searched(value):
            raise expected("a function such as ./my_control.py:fn", value)
        name, code = value.get("name"), check_code(value.get(CODE, {}))
        try:
            if not isinstance(name, str) or not is_custom(name):
                raise expected("a function such as ./my_control.py:fn", name)
            source = source_of(name, code)
            known = custom_control(name, source)
        except PydanticCustomError as error:
            raise refuse_all([(("name",), error)]) from None
        given, problems = {}, []
        for key, element in value.items():
            if key in ("name", CODE):
                continue
            try:
                if key not in known:
                    raise refuse(f"{name} has no parameter {show(key)}", did_you_mean(key, known) if known else "")
                given[key] = searched(element, known[key].check)
            except PydanticCustomError as error:
                loc: Loc = (key,)
                problems.append((loc, error))
        if problems:
            raise refuse_all(problems)
        return cls(name, {key: given.get(key, one.default) for key, one in known.items()}, {split(name)[0]: source})
