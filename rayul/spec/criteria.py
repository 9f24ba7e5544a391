"""Utility limits: what a trial has to keep, e.g. `{metric: retain.es, at_least: 90% of baseline}`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator, model_validator
from pydantic_core.core_schema import ValidationInfo

from rayul.errors import InputError
from rayul.spec.forms import form
from rayul.spec.limits import PERCENTAGE, Limit
from rayul.spec.metrics import METRICS, MetricKey, is_forgetting
from rayul.spec.problems import expected, refuse, show
from rayul.spec.section import Searchable

_EXAMPLE = {"at_least": "90% of baseline", "at_most": "110% of baseline"}
"""Of limits that keep most of what a model has."""


def _side(value: Any, info: ValidationInfo) -> Limit:
    """The limit of the field `at_least` or `at_most` of a criterion."""
    if isinstance(value, Limit):
        return value
    return Limit.of(info.data.get("metric", ""), info.field_name == "at_least", value)


_PERCENTAGE = {"type": "string", "pattern": rf"^\s*{PERCENTAGE}\s*$"}
Side = Annotated[Limit, PlainValidator(_side), form(anyOf=[{"type": "number"}, _PERCENTAGE])]


class Criterion(Searchable):
    """A metric with a lower or an upper limit, and when its violation stops a trial."""

    unsearchable: ClassVar[tuple[str, ...]] = ("metric",)

    metric: MetricKey = Field(examples=["retain.es"])
    """ "<set>.<metric>" """
    at_least: Side | None = None
    at_most: Side | None = None
    patience: int = Field(default=2, ge=1)
    """Stop a trial after this many evaluations in a row that violate the criterion. 1 saves an evaluation, but
    a method with a retain loss may recover: see results/search."""
    grace: int = Field(default=0, ge=0)
    """Steps at the beginning of a trial in which violations do not count."""

    @model_validator(mode="after")
    def _one_limit(self) -> Criterion:
        if (self.at_least is None) == (self.at_most is None):
            both = self.at_least is not None
            raise refuse(
                f"{'both' if both else 'neither'} at_least {'and' if both else 'nor'} at_most is given",
                "give two criteria" if both else "for example `at_least: 90% of baseline`",
            )
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Criterion:
        if self.is_searched:
            return self
        limit = self.limit
        if not limit.relative and (why := _impossible(limit)):
            raise refuse(f"no model can keep {limit}: {why}", "for example 0.9, or 90% of baseline")
        if limit.relative and _protects(limit) and not limit.keeps(1.0, {limit.metric: 1.0}):
            raise refuse(
                f"the model before unlearning does not keep {limit} itself",
                f"for example `{limit.key}: {_EXAMPLE[limit.key]}`",
            )
        return self

    @property
    def is_searched(self) -> bool:
        """Whether the limit differs from trial to trial: only the spec of a trial knows it."""
        return not isinstance(self.at_least or self.at_most, Limit)

    @property
    def limit(self) -> Limit:
        """What has to be kept, of a criterion whose limit is not searched."""
        limit = self.at_least or self.at_most
        assert isinstance(limit, Limit)
        return limit


def parse_tau(value: Any) -> float | tuple[float, ...]:
    """A share of the baseline to keep, in (0, 1], or a list of different ones. Raises `refuse(...)`."""
    several = isinstance(value, (list, tuple))
    shares = list(value) if several else [value]
    if not shares:
        raise refuse("no target in the list", "for example [0.5, 0.7, 0.9, 0.95]")
    for i, share in enumerate(shares):
        if isinstance(share, bool) or not isinstance(share, (int, float)):
            raise expected("a share such as 0.9, or a list of shares", share)
        if not 0 < share <= 1:
            raise refuse(f"a share of the baseline is above 0 and at most 1, got {show(share)}", "write 0.9 for 90%")
        if share in shares[:i]:
            raise refuse(f"the share {show(share)} stands twice", "remove one of the two")
    return tuple(float(share) for share in shares) if several else float(shares[0])


_SHARE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
_SHARES = {"type": "array", "items": _SHARE, "minItems": 1, "uniqueItems": True}
Tau = Annotated[float | tuple[float, ...], PlainValidator(parse_tau), form(anyOf=[_SHARE, _SHARES])]


def keeping(metric: str, direction: str, tau: Any) -> Criterion:
    """The criterion that keeps a share tau of the baseline: at least tau times its value, of a metric that is minimised
    (a perplexity) at most 1/tau times. A searched tau is carried as it is: a trial's own spec has its number."""
    at_least = direction == "maximize"
    share = tau
    if isinstance(tau, (int, float)):
        share = Limit.share(metric, at_least, tau if at_least else 1 / tau)
    return Criterion(metric=metric, **{"at_least" if at_least else "at_most": share})


def violations(
    criteria: Iterable[Criterion], metrics: Mapping[str, float], baseline: Mapping[str, float]
) -> dict[str, float]:
    """Violation by metric, the larger one where two criteria limit the same metric; infinite for a missing metric.
    Raises what `Limit.on` raises."""
    worst: dict[str, float] = {}
    for criterion in criteria:
        value = criterion.limit.violation(metrics.get(criterion.metric, math.nan), baseline)
        worst[criterion.metric] = max(value, worst.get(criterion.metric, -math.inf))
    return worst


def known_limits(criteria: Iterable[Criterion]) -> tuple[Limit, ...]:
    """The limits of the criteria, but for those that are searched."""
    return tuple(criterion.limit for criterion in criteria if not criterion.is_searched)


def limits(criteria: Iterable[Criterion], baseline: Mapping[str, float]) -> dict[str, float]:
    """The known limit of each criterion by metric as a number on the baseline, the tighter one where two limit the same
    metric from one side. Raises what `Limit.on` raises."""
    found: dict[str, float] = {}
    for limit in known_limits(criteria):
        number = limit.on(baseline)
        tighter = max if limit.at_least else min
        found[limit.metric] = tighter(number, found.get(limit.metric, number))
    return found


def check_limits(criteria: Iterable[Criterion], baseline: Mapping[str, float]) -> None:
    """InputError for known limits that no model can keep, the baseline having these metrics: beyond what the metric can
    be, or two that exclude each other. Raises what `Limit.on` raises."""
    found = [limit.fixed(baseline) for limit in known_limits(criteria)]
    for limit in found:
        if why := _impossible(limit):
            raise InputError(f"no model can keep {limit}: {why}", "relax the limit: every trial would break it")
    for low in found:
        for high in found:
            if low.metric == high.metric and low.at_least and not high.at_least and low.value > high.value:
                raise InputError(f"no model can keep both {low} and {high}", "relax one of the two limits")


def check_baseline_keeps(criteria: Iterable[Criterion], baseline: Mapping[str, float]) -> None:
    """InputError for a known limit on what is to be kept that the baseline itself does not keep: unlearning starts
    beyond it. A limit on forget rows, or one that asks for less of what is good (at most of an accuracy), is a goal
    that trials may reach. Raises what `Limit.on` raises."""
    for limit in known_limits(criteria):
        value = baseline.get(limit.metric, math.nan)
        if not _protects(limit) or limit.keeps(value, baseline):
            continue
        raise InputError(
            f"the model before unlearning does not keep {limit.fixed(baseline)}: its {limit.metric} is {value:.4g}",
            f"relax the limit, or write it as a share of what the model has: `{limit.key}: {_EXAMPLE[limit.key]}`",
        )


def _protects(limit: Limit) -> bool:
    """Whether a limit keeps what the model has: on rows to keep, and from the side on which the metric gets worse."""
    set_name, _, name = limit.metric.partition(".")
    good = METRICS[name].direction_on_utility if name in METRICS else "higher"
    return set_name != "forget" and limit.at_least == (good == "higher")


def _impossible(limit: Limit) -> str:
    """Why no value of the metric keeps a limit, which is a number; "" where some may. Of a metric of one's own nothing
    is known."""
    name = limit.metric.partition(".")[2]
    metric = METRICS.get(name)
    if metric is None:
        return ""
    if not limit.at_least and limit.value < metric.lowest:
        return f"{name} is never below {metric.lowest:g}"
    return f"{name} is never above 1" if metric.bounded and limit.at_least and limit.value > 1 else ""


def check_objectives(objectives: Iterable[str], baseline: Mapping[str, float]) -> None:
    """InputError for an objective whose baseline value is negative or not finite, or of the forget rows zero: what is
    forgotten and what is kept are fractions of it."""
    for key in objectives:
        value = baseline.get(key, math.nan)
        if not 0 <= value < math.inf:
            raise InputError(
                f"objective {key} is {value:.4g} for the model before unlearning, and what is forgotten and kept are "
                "fractions of that",
                "choose a metric that is above zero there, e.g. a probability in place of its logarithm",
            )
        if value == 0 and is_forgetting(key):
            raise InputError(
                f"objective {key} is 0 for the model before unlearning, so there is nothing to forget",
                "are these the rows that the model was trained on, with its template? Or choose a metric that is above "
                "zero, e.g. forget.prob",
            )
