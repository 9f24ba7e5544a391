"""The metrics and row sets a spec can name. A metric key is "<set>.<metric>", e.g. "retain.es"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import PlainValidator

from rayul.spec.problems import did_you_mean, expected, refuse, show


@dataclass(frozen=True)
class Metric:
    """`direction_on_utility`: which way is better on rows that are to be kept; on forget rows it is the other way.
    `cost`: "forward" for what one teacher-forced pass gives, "generate" for what needs sampling."""

    direction_on_utility: Literal["higher", "lower"]
    summary: str
    cost: Literal["forward", "generate"] = "forward"


METRICS: dict[str, Metric] = {
    "es": Metric("higher", "extraction strength in [0, 1]: the part of the answer that the model completes exactly"),
    "prob": Metric("higher", "probability in [0, 1]: the geometric mean of the answer tokens' probabilities"),
    "em": Metric(
        "higher", "exact memorisation in [0, 1]: the share of answer tokens that are the model's first choice"
    ),
    "ppl": Metric("lower", "perplexity from 1: the inverse of prob"),
}

SETS = ("forget", "retain", "general", "retain_report", "holdout")
"""Rows by purpose; `retain` is the retain-control set. Training rows (retain_train) are not measured."""

_WHY_NOT = {
    "retain_report": "these rows are kept for the final report; a search that reads them would flatter itself",
    "holdout": "no model was trained on these rows; only membership inference reads them",
}

SEARCH_SETS = tuple(name for name in SETS if name not in _WHY_NOT)
"""The sets that criteria and objectives may read."""


def check_metric_key(key: Any) -> str:
    """A metric that criteria and objectives may name. Raises `refuse(...)`."""
    if not isinstance(key, str):
        raise expected("a metric such as retain.es", key)
    set_name, _, metric = key.partition(".")
    if set_name in _WHY_NOT:
        raise refuse(f"{key} cannot steer the search: {_WHY_NOT[set_name]}", f"use retain.{metric or 'es'}")
    if set_name in SEARCH_SETS and metric in METRICS:
        return key
    raise refuse(f"unknown metric {show(key)}", did_you_mean(key, [f"{s}.{m}" for s in SEARCH_SETS for m in METRICS]))


def check_metric(name: Any) -> str:
    """A metric's name without a set. Raises `refuse(...)`."""
    if not isinstance(name, str):
        raise expected("the name of a metric", name)
    if name not in METRICS:
        raise refuse(f"unknown metric {show(name)}", did_you_mean(name, METRICS))
    return name


MetricKey = Annotated[str, PlainValidator(check_metric_key)]
MetricName = Annotated[str, PlainValidator(check_metric)]
