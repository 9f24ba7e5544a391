"""When a sweep has had enough besides its number of trials: time, device-hours, a front that no longer grows."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, PositiveInt

from rayul.spec.forms import form
from rayul.spec.problems import expected, refuse, show
from rayul.spec.section import Section

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_PARTS = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
_FORMS = [
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "string", "pattern": r"^\s*(\d+(\.\d+)?\s*[dhmsDHMS]\s*)+$"},
]


def parse_duration(value: Any) -> float:
    """Seconds, above zero, from a number of them or a text such as 30m, 2h, 1h30m or 90s. Raises `refuse(...)`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise expected("a duration such as 30m or 2h", value)
    if isinstance(value, str):
        text = value.replace(" ", "").lower()
        if not _PARTS.fullmatch(text):
            raise refuse(f"{show(value)} is not a duration", "write 90s, 30m, 2h, 1h30m, 1d, or a number of seconds")
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([dhms])", text))
    else:
        seconds = float(value)
    if not 0 < seconds < math.inf:
        raise refuse(f"must be more than 0 seconds and finite, got {show(value)}")
    return seconds


Duration = Annotated[float, PlainValidator(parse_duration), form(anyOf=_FORMS)]


class Stagnation(Section):
    """The front no longer pays for its search. A plain number in the YAML is its `trials`."""

    trials: int = Field(ge=1, examples=[20])
    """Number of latest trials that have to raise the hypervolume together."""
    growth: float = Field(default=0.01, ge=0)
    """The fraction by which they have to raise it, else the search stops. While nothing is feasible, it goes on."""


def _short(value: Any) -> Any:
    return {"trials": value} if isinstance(value, int) and not isinstance(value, bool) else value


AnyStagnation = Annotated[Stagnation, BeforeValidator(_short, json_schema_input_type=Stagnation | PositiveInt)]
