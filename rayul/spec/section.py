"""What the sections of a spec have in common: strict, frozen, without unknown keys, and where it helps searchable."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo

from rayul.spec.problems import refuse
from rayul.spec.space import Choice, Float, Int, looks_searched, searched


class Section(BaseModel):
    """A mapping of the YAML. Types are strict: "8" is not a number, 0.5 is not a whole one, 1 is not true."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_distribution(cls, value: Any) -> Any:
        if looks_searched(value):
            raise refuse("cannot be searched", "all trials of a sweep share it; only its own numbers may be searched")
        return value


class Searchable(Section):
    """A section whose values may each be a distribution instead.

    A field's annotation is the type of one value, which is what a trial sees: `Spec.at` leaves no distribution. Before
    that, in the spec of a sweep, the attribute may hold a `Float`, `Int` or `Choice`.
    """

    unsearchable: ClassVar[tuple[str, ...]] = ()

    @field_validator("*", mode="wrap")
    @classmethod
    def _value_or_distribution(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        is_distribution = looks_searched(value) or isinstance(value, (Float, Int, Choice))
        if is_distribution and info.field_name in cls.unsearchable:
            raise refuse("cannot be searched", "write one value")
        return searched(value, check)


def switched(value: Any) -> Any:
    """true for a section's defaults, false for none: what a section that can be switched off may be written as."""
    return {} if value is True else None if value is False else value
