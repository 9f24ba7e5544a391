"""One setting of a method: its type, its bounds, its default."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from rayul.spec.problems import did_you_mean, expected, refuse, show

_KIND_NAMES = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}

POSITIVE = 1e-6
"""A smallest value for what is divided by."""


@dataclass(frozen=True)
class Parameter:
    """One number, text or switch of a method. `low` and `high` are inclusive; `options` are the texts it may be, any
    where it is empty. A parameter whose default is None may be null. many: a list of such values, which cannot be
    searched."""

    kind: type
    default: Any
    low: float = -math.inf
    high: float = math.inf
    summary: str = ""
    options: tuple[str, ...] = ()
    many: bool = False

    def check(self, value: Any) -> Any:
        """The value in the parameter's own type. Raises `refuse(...)`."""
        if value is None and self.default is None:
            return None
        if self.many:
            if not isinstance(value, (list, tuple)) or not value or len(set(map(repr, value))) < len(value):
                raise expected(f"a list of which each is {_KIND_NAMES[self.kind]} of its own", value)
            return tuple(replace(self, many=False).check(one) for one in value)
        if self.kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind is not bool):
            raise expected(_KIND_NAMES[self.kind], value)
        if isinstance(value, str) and self.options and value not in self.options:
            raise refuse(f"unknown value {show(value)}", did_you_mean(value, self.options))
        if isinstance(value, (int, float)) and not (self.low <= value <= self.high and math.isfinite(value)):
            limits = f"at least {self.low:g}" if self.high == math.inf else f"in [{self.low:g}, {self.high:g}]"
            raise refuse(f"must be finite and {limits}, got {value}")
        return value
