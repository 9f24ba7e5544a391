"""Utility limits: what a trial has to keep, e.g. `{metric: retain.es, at_least: 90% of baseline}`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator, model_validator

from rayul.errors import InputError
from rayul.spec.metrics import MetricKey
from rayul.spec.problems import expected, refuse, show
from rayul.spec.section import Searchable

_PERCENTAGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%\s+of\s+baseline")


@dataclass(frozen=True)
class Threshold:
    """A limit on a metric: `value` itself, or `value` percent of the baseline's where `relative`."""

    value: float
    relative: bool = False

    @classmethod
    def parse(cls, value: Any) -> Threshold:
        """From the YAML's 0.9 or "90% of baseline". Raises `refuse(...)`."""
        if isinstance(value, cls):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise refuse(f"must be finite, got {value}")
            return cls(float(value))
        if not isinstance(value, str):
            raise expected('a number or "90% of baseline"', value)
        match = _PERCENTAGE.fullmatch(value.strip())
        if match is None or float(match[1]) == 0 or not math.isfinite(float(match[1])):
            hint = "write a number such as 0.9, or a percentage above zero such as 90% of baseline"
            raise refuse(f"{show(value)} is not a limit", hint)
        return cls(float(match[1]), relative=True)

    def to_yaml(self) -> float | str:
        percent = int(self.value) if self.value.is_integer() else self.value
        return f"{percent}% of baseline" if self.relative else self.value


Limit = Annotated[Threshold, PlainValidator(Threshold.parse)]


class Criterion(Searchable):
    """A metric with a lower or an upper limit, and when its violation stops a trial."""

    unsearchable: ClassVar[tuple[str, ...]] = ("metric",)

    metric: MetricKey = Field(examples=["retain.es"])
    """ "<set>.<metric>" """
    at_least: Limit | None = None
    at_most: Limit | None = None
    patience: int = Field(default=2, ge=1)
    """Stop a trial after this many evaluations in a row that violate the criterion. 1 saves the evaluation between, but
    a method with a retain loss may come back: see results/search."""
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

    def limit(self, baseline: Mapping[str, float]) -> float:
        """The limit in the metric's own unit. Raises InputError for a percentage of a baseline value that is zero,
        negative or not finite, or that is not there."""
        threshold = self.at_least or self.at_most
        assert threshold is not None
        if not threshold.relative:
            return threshold.value
        value = baseline.get(self.metric, math.nan)
        if not (0 < value < math.inf):
            raise InputError(
                f"criterion on {self.metric}: {threshold.to_yaml()} has no meaning, the baseline is {value:g}",
                "give an absolute limit such as `at_least: 0.5`, or check the model and its rows",
            )
        return threshold.value / 100 * value

    def violation(self, value: float, limit: float) -> float:
        """How far `value` is beyond the limit, as a fraction of the limit (absolute where it is 0). At most 0 keeps
        the criterion; infinite for NaN."""
        if math.isnan(value):
            return math.inf
        beyond = limit - value if self.at_least is not None else value - limit
        return beyond / abs(limit) if limit else beyond


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


Tau = Annotated[float | tuple[float, ...], PlainValidator(parse_tau)]


def keeping(metric: str, direction: str, tau: Any) -> Criterion:
    """The criterion that keeps a share tau of the baseline: at least tau times its value, of a metric that is minimised
    (a perplexity) at most 1/tau times. A searched tau is carried as it is: a trial's own spec has its number."""
    share = tau
    if isinstance(tau, (int, float)):
        # round: 100 * 0.55 is 55.00000000000001 in floating point, and is read by people.
        share = Threshold(round(100 * tau if direction == "maximize" else 100 / tau, 9), relative=True)
    return Criterion(metric=metric, **{"at_least" if direction == "maximize" else "at_most": share})


def violations(
    criteria: Iterable[Criterion], metrics: Mapping[str, float], baseline: Mapping[str, float]
) -> dict[str, float]:
    """Violation by metric, the larger one where two criteria limit the same metric; infinite for a missing metric."""
    worst: dict[str, float] = {}
    for criterion in criteria:
        value = criterion.violation(metrics.get(criterion.metric, math.nan), criterion.limit(baseline))
        worst[criterion.metric] = max(value, worst.get(criterion.metric, -math.inf))
    return worst


def limits(criteria: Iterable[Criterion], baseline: Mapping[str, float]) -> dict[str, float]:
    """The limit of each criterion by metric, the tighter one where two limit the same metric from one side; a searched
    limit differs from trial to trial and is left out. Raises InputError as `Criterion.limit` does."""
    found: dict[str, float] = {}
    for criterion in criteria:
        if isinstance(criterion.at_least or criterion.at_most, Threshold):
            limit = criterion.limit(baseline)
            tighter = max if criterion.at_least is not None else min
            found[criterion.metric] = tighter(limit, found.get(criterion.metric, limit))
    return found


def check_objectives(objectives: Iterable[str], baseline: Mapping[str, float]) -> None:
    """InputError for an objective whose baseline value is negative or not finite: what is forgotten and what is kept
    are fractions of it."""
    for key in objectives:
        value = baseline.get(key, math.nan)
        if not 0 <= value < math.inf:
            raise InputError(
                f"objective {key} is {value:.4g} for the model before unlearning, and what is forgotten and kept are "
                "fractions of that",
                "choose a metric that is above zero there, e.g. a probability in place of its logarithm",
            )
