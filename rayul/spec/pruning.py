"""The `pruning` section: which rules stop a trial early, the built-in ones by name and custom ones by file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo

from rayul.spec.custom import check_rule, is_custom, source_of, with_code
from rayul.spec.forms import OWN_FUNCTION, form
from rayul.spec.problems import expected, refuse, show
from rayul.spec.section import Section, switched


class Dominance(Section):
    """Stops a trial that, at the utility it has spent, is behind the front and will not catch up."""

    margin: float = Field(default=0.05, ge=0)
    """How much more the front must have forgotten, as a fraction of the baseline."""
    patience: int = Field(default=2, ge=1)
    """Number of evaluations in a row."""


class Halving(Section):
    """Successive halving: stops a trial that adds less to the hypervolume than the best of those that got as far."""

    reduction: int = Field(default=3, ge=2)
    """One in this many trials goes on at a rung."""
    first: float = Field(default=0.25, gt=0, lt=1)
    """The first rung, as a share of a trial's steps; each further one is `reduction` times as far."""


def _check_rule(name: Any, info: ValidationInfo) -> str:
    if not isinstance(name, str):
        raise expected("a text such as ./my_rule.py:fn", name)
    if not is_custom(name):
        hint = "write ./my_rule.py:fn; the built-in rules are criteria, dominance and budget, keys of their own"
        raise refuse(f"{show(name)} is not a function in a file", hint)
    check_rule(name, source_of(name, info.data.get("code", {})))
    return name


class Pruning(Section):
    """Which rules stop a trial before its last step; a stopped trial keeps its solutions."""

    code: dict[str, str] = Field(default_factory=dict)
    """The source text of each file in `rules`, by its path: read when the spec is, unless the spec has it (the
    spec.yaml of results does)."""
    criteria: bool = True
    """Stop at a broken criterion. Off: trials run on, and only their feasible evaluations count."""
    dominance: Annotated[
        Dominance | None, BeforeValidator(switched, json_schema_input_type=Dominance | bool | None)
    ] = Dominance()
    """true, false, or its margin and patience."""
    budget: Annotated[Halving | None, BeforeValidator(switched, json_schema_input_type=Halving | bool | None)] = None
    """true, false, or its reduction and first rung. In results/search it saves a further tenth of the steps and finds
    neither more nor less, so it is off."""
    rules: tuple[Annotated[str, PlainValidator(_check_rule), form(**OWN_FUNCTION)], ...] = Field(
        default=(), strict=False
    )
    """Custom rules, ./my_rule.py:fn, asked after these in the order given (docs/pruning.md)."""

    @model_validator(mode="before")
    @classmethod
    def _read_code(cls, section: Any) -> Any:
        names = section.get("rules", ()) if isinstance(section, dict) else ()
        return with_code(section, names if isinstance(names, (list, tuple)) else ())

    @field_validator("rules")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if names.count(name) > 1:
                raise refuse(f"{name} stands twice", "remove one of the two")
        return names
