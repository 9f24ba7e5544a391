"""The metrics and row sets a spec can name. A metric key is "<set>.<metric>", e.g. "retain.es"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import PlainValidator
from pydantic_core.core_schema import ValidationInfo

from rayul.spec.problems import did_you_mean, expected, refuse, show


@dataclass(frozen=True)
class Metric:
    """`direction_on_utility`: which way is better on rows that are to be kept; on forget rows it is the other way,
    except for what shows a broken model (empty, repetition, distinct), which is bad everywhere.
    `cost`: "forward": in the one teacher-forced pass that every evaluation makes; "passes": further passes, over
    paraphrases, wrong answers, holdout rows or the oracle; "generate": answers are generated."""

    direction_on_utility: Literal["higher", "lower"]
    summary: str
    cost: Literal["forward", "passes", "generate"] = "forward"


METRICS: dict[str, Metric] = {
    "es": Metric("higher", "extraction strength in [0, 1]: the part of the answer that the model completes exactly"),
    "prob": Metric("higher", "probability in [0, 1]: the geometric mean of the answer tokens' probabilities"),
    "em": Metric(
        "higher", "exact memorisation in [0, 1]: the share of answer tokens that are the model's first choice"
    ),
    "ppl": Metric("lower", "perplexity from 1: exp of the mean NLL of all answer tokens"),
    "es_perturb": Metric("higher", "extraction strength on the paraphrased question, in [0, 1]", "passes"),
    "es_similar": Metric(
        "higher", "extraction strength, a continuation being similar (LCS over half of it) instead of exact", "generate"
    ),
    "prob_options": Metric("higher", "p(answer) / (p(answer) + p of all wrong answers), in [0, 1]", "passes"),
    "truth_ratio": Metric("lower", "min(R, 1/R) in [0, 1]; 1: right and wrong answers are equally likely", "passes"),
    "truthfulness": Metric("higher", "max(0, 1 - R) in [0, 1]: the truth ratio as model utility counts it", "passes"),
    "rouge": Metric("higher", "ROUGE-L recall of the greedy answer, stemmed, in [0, 1]", "generate"),
    "empty": Metric("lower", "share of empty answers, in [0, 1]", "generate"),
    "repetition": Metric("lower", "share of repeated 4-grams within answers, in [0, 1]", "generate"),
    "distinct": Metric("higher", "share of distinct 2-grams of all answers, in [0, 1]; falls on collapse", "generate"),
    "forget_quality": Metric(
        "lower", "forget rows only: p-value of a KS test against the oracle, in [0, 1]; high is good", "passes"
    ),
    "model_utility": Metric("higher", "retain rows only: TOFU's harmonic mean, in [0, 1]", "generate"),
    "mia_loss": Metric("higher", "forget rows only: AUC against holdout by loss; 0.5 is the goal", "passes"),
    "mia_zlib": Metric("higher", "the same by loss over zlib entropy", "passes"),
    "mia_min_k": Metric("higher", "the same by the least likely tokens", "passes"),
    "mia_min_k_pp": Metric("higher", "the same by the least likely tokens, standardised", "passes"),
}
"""Every metric; the functions are in `rayul/unlearn/metrics.py` (cost "forward") and `rayul/unlearn/suite.py`."""

CHEAP = tuple(name for name, metric in METRICS.items() if metric.cost == "forward")
"""What every evaluation can measure, and so what criteria and objectives may read."""

SETS = ("forget", "retain", "general", "retain_report", "holdout")
"""Rows by purpose; `retain` is the retain-control set. Training rows (retain_train) are not measured."""

_WHY_NOT = {
    "retain_report": "these rows are kept for the final report; a search that reads them would flatter itself",
    "holdout": "no model was trained on these rows; only membership inference reads them",
}

SEARCH_SETS = tuple(name for name in SETS if name not in _WHY_NOT)
"""The sets that criteria and objectives may read."""


OWN = "own_metrics"
"""Of the context of a validation: the names of the metrics of one's own that the spec measures, which its criteria and
objectives may name."""


def check_metric_key(key: Any, info: ValidationInfo) -> str:
    """A metric that criteria and objectives may name. Raises `refuse(...)`."""
    if not isinstance(key, str):
        raise expected("a metric such as retain.es", key)
    set_name, _, metric = key.partition(".")
    if set_name in _WHY_NOT:
        raise refuse(f"{key} cannot steer the search: {_WHY_NOT[set_name]}", f"use retain.{metric or 'es'}")
    cheap = (*CHEAP, *(info.context or {}).get(OWN, ()))
    if set_name in SEARCH_SETS and metric in cheap:
        return key
    if set_name in SEARCH_SETS and metric in METRICS:
        raise refuse(f"{key} cannot steer the search: it needs more than one forward pass", _ONLY_CHEAP)
    raise refuse(f"unknown metric {show(key)}", did_you_mean(key, [f"{s}.{m}" for s in SEARCH_SETS for m in cheap]))


def check_metric(name: Any) -> str:
    """A metric's name without a set. Raises `refuse(...)`."""
    if not isinstance(name, str):
        raise expected("the name of a metric", name)
    if name not in METRICS:
        raise refuse(f"unknown metric {show(name)}", did_you_mean(name, METRICS))
    return name


def check_cheap_metric(name: Any) -> str:
    """A metric that every evaluation can measure. Raises `refuse(...)`."""
    if check_metric(name) not in CHEAP:
        raise refuse(f"{name} needs more than one forward pass", "name it in evaluate.final")
    return str(name)


_ONLY_CHEAP = f"steer by {', '.join(CHEAP)}, and name it in evaluate.final to have it of every front point"

MetricKey = Annotated[str, PlainValidator(check_metric_key)]
