"""What the fields of a record may hold: checked when a line is read, whoever wrote it."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationError

from rayul.spec.problems import first_problem

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _numbers(plain: Any) -> Any:
    """The words for what is not finite (`rayul.files.plain`) as numbers, in a mapping or a list."""
    if isinstance(plain, dict):
        return dict(zip(plain, _numbers(list(plain.values())), strict=True))
    if not isinstance(plain, list):
        return plain
    return [_NOT_FINITE.get(value, value) if isinstance(value, str) else value for value in plain]


def _scalars(params: dict[str, Any]) -> dict[str, Any]:
    for key, value in params.items():
        if isinstance(value, str | bool | None):
            continue
        if not ((isinstance(value, float) and math.isfinite(value)) or (isinstance(value, int) and abs(value) < 2**63)):
            raise ValueError(f"{key} is {str(value)[:40]}: no setting that could be searched")
    return params


TrialId = Annotated[str, Field(pattern=r"^([0-9]{1,9}|baseline|oracle)$")]
Flag = Annotated[bool, Strict()]
Int64 = Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)]
"""What a column of a table holds."""
Count = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Seconds = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Numbers = Annotated[dict[str, Annotated[float, Strict()]], BeforeValidator(_numbers)]
Number = Annotated[float, Strict(), BeforeValidator(lambda plain: _numbers([plain])[0])]
Series = Annotated[tuple[Annotated[float, Strict()], ...], BeforeValidator(_numbers)]
Lists = dict[str, Series]
Params = Annotated[dict[str, Any], AfterValidator(_scalars)]


def why(error: Exception) -> str:
    """What is wrong with a record that could not be read, in one line."""
    if isinstance(error, ValidationError):
        return first_problem(error)
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
