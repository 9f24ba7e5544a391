"""The `finalists` section: which points of the front are trained again, how often, and what is tried on them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, PositiveInt, model_validator

from rayul.spec.criteria import Criterion
from rayul.spec.forms import named
from rayul.spec.metrics import METRICS, check_metric
from rayul.spec.problems import did_you_mean, expected, refuse, show
from rayul.spec.section import Section

ATTACKS: dict[str, str] = {
    "relearn": "a few steps of fine-tuning on a tenth of the forget rows, and on unrelated rows",
    "jailbreak": "prefixes, roles, and the first words of the answer given",
    "paraphrase": "the question in other words; needs rows with a paraphrased_question",
    "noise": "some tokens of the question replaced at random",
    "logit_lens": "every layer read with the model's own head",
    "quantise": "weights rounded to 8 and 4 bits",
}
"""Every attack; the functions are in `rayul/unlearn/attacks/`."""


def _check_attack(name: Any) -> str:
    if not isinstance(name, str):
        raise expected("the name of an attack", name)
    if name not in ATTACKS:
        raise refuse(f"unknown attack {show(name)}", did_you_mean(name, ATTACKS))
    return name


AttackName = Annotated[str, PlainValidator(_check_attack), named(ATTACKS)]


class Finalists(Section):
    """Points of the front that are trained again with fresh seeds, measured on rows that the search never read, and
    attacked. A plain number in the YAML is its `n`."""

    n: int = Field(default=3, ge=1, examples=[3])
    """Maximum number of points, one per trial."""
    seeds: int = Field(default=5, ge=1)
    """Fresh seeds, none of which the search has used."""
    choose: Literal["best", "knee"] = "best"
    """best: those that forget most; knee: those beyond which one objective costs sharply more of another."""
    within: Criterion | None = None
    """Only points that keep this limit too, such as {metric: retain.es, at_least: 95% of baseline}."""
    points: tuple[str, ...] = Field(default=(), strict=False)
    """These points instead, as trial or trial-step: [0014-35, 0031]."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """One-sided confidence of every interval: a criterion is kept when its t bound at this confidence keeps it. With
    few seeds that bound is far from the mean: at 0.95 it is 6.3, 2.9 and 2.1 standard errors for 2, 3 and 5 seeds."""
    attacks: tuple[AttackName, ...] = Field(default=tuple(ATTACKS), strict=False)
    metrics: tuple[Annotated[str, PlainValidator(check_metric), named(METRICS)], ...] = Field(
        default=tuple(METRICS), strict=False
    )
    """Metrics before the attacks; those that generate cost most. Metrics of every evaluation are always among them."""

    @model_validator(mode="after")
    def _one_limit(self) -> Finalists:
        if self.within is not None and self.within.is_searched:
            raise refuse("within: cannot be searched", "write one limit")
        return self

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """An unquoted 0014 is a number to YAML."""
        points = value.get("points") if isinstance(value, dict) else None
        if isinstance(points, list) and not all(isinstance(point, str) for point in points):
            raise refuse("points: a trial is written as text", 'quote it, e.g. points: ["0014-35", "0031"]')
        return value


def _short(value: Any) -> Any:
    return {"n": value} if isinstance(value, int) and not isinstance(value, bool) else value


AnyFinalists = Annotated[Finalists, BeforeValidator(_short, json_schema_input_type=Finalists | PositiveInt)]
