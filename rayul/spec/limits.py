"""A limit on a metric: how it is written, which number it is on a baseline, and what keeps it.

Nothing else in rayul compares a value with a limit, so a new kind of limit is written here.

| in a spec | after a sweep | the limit |
| --- | --- | --- |
| `at_least: 0.9` | `retain.es>=0.9` | a number in the metric's own unit |
| `at_least: 90% of baseline` | `retain.es>=0.9*baseline` | a percentage of the baseline's value on the same rows |
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rayul.errors import InputError
from rayul.spec.metrics import SEARCH_SETS, SETS, searched_of
from rayul.spec.problems import expected, refuse, show

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Values = TypeVar("Values", float, "NDArray[np.float64]")

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
PERCENTAGE = r"([0-9]+(?:\.[0-9]+)?)\s*%\s+of\s+baseline"
_MULTIPLE = re.compile(rf"({_NUMBER})\s*\*\s*baseline")
_CONDITION = re.compile(r"\s*([\w.]+)\s*(>=|<=|[<>=!]+)?\s*(.*?)\s*")
_FORM = 'write a metric, >= or <=, and a number or number*baseline, e.g. "retain.es>=0.95*baseline"'
_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Limit:
    """`metric` has to be at least (or at most) `value`; where `relative`, `value` percent of the baseline's."""

    metric: str
    at_least: bool
    value: float
    relative: bool = False

    @classmethod
    def of(cls, metric: str, at_least: bool, side: Any) -> Limit:
        """From the right side in YAML, 0.9 or "90% of baseline". Raises `refuse(...)`."""
        if isinstance(side, (int, float)) and not isinstance(side, bool):
            if not math.isfinite(side):
                raise refuse(f"must be finite, got {side}")
            return cls(metric, at_least, float(side))
        if not isinstance(side, str):
            raise expected('a number or "90% of baseline"', side)
        match = re.fullmatch(PERCENTAGE, side.strip())
        if match is None or not 0 < float(match[1]) < math.inf:
            hint = "write a number such as 0.9, or a percentage above zero such as 90% of baseline"
            raise refuse(f"{show(side)} is not a limit", hint)
        return cls(metric, at_least, float(match[1]), relative=True)

    @classmethod
    def parse(cls, text: str) -> Limit:
        """From a condition, "retain.es>=0.95*baseline" or "forget.es <= 0.2". Raises InputError that names the part at
        fault."""
        match = _CONDITION.fullmatch(text)
        if match is None or not match[2] or not match[3]:
            raise InputError(f"{text!r} is not a condition", _FORM)
        metric, operator, right = match.groups()
        name, _, rest = metric.partition(".")
        if (name in SETS and name not in SEARCH_SETS) or searched_of(name) != name or not name or not rest:
            sets = ", ".join(f"{name}.<metric>" for name in SEARCH_SETS)
            hint = f"one of {sets} or of a probe, e.g. retain.es"
            raise InputError(f"{text!r}: {metric!r} is no metric of a search", hint)
        if operator not in (">=", "<="):
            raise InputError(f"{text!r}: {operator!r} is not understood", "compare with >= or <=")
        if re.fullmatch(_NUMBER, right):
            return cls(metric, operator == ">=", float(right))
        multiple = _MULTIPLE.fullmatch(right)
        if multiple is None or not float(multiple[1]) > 0:
            raise InputError(f"{text!r}: {right!r} is not a limit", _FORM)
        return cls.share(metric, operator == ">=", float(multiple[1]))

    @classmethod
    def share(cls, metric: str, at_least: bool, share: float) -> Limit:
        """So large a share of the baseline's value."""
        # round: 100 * 0.55 is 55.00000000000001 in floating point, and is read by people.
        return cls(metric, at_least, round(100 * share, 9), relative=True)

    @property
    def set_name(self) -> str:
        """The set of rows that it is about."""
        return self.metric.partition(".")[0]

    @property
    def key(self) -> Literal["at_least", "at_most"]:
        """Of the right side in a spec."""
        return "at_least" if self.at_least else "at_most"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Where the values lie that keep the limit."""
        return "maximize" if self.at_least else "minimize"

    def on(self, baseline: Mapping[str, float]) -> float:
        """The limit in the metric's own unit, the baseline having these metrics. Raises InputError for a percentage of
        a value that is zero, negative or not finite, or that is not there."""
        if not self.relative:
            return self.value
        if self.metric not in baseline:
            measured = ", ".join(baseline) or "nothing"
            raise InputError(f"limit {self}: the baseline has no {self.metric}", f"measured are {measured}")
        base = baseline[self.metric]
        if not 0 < base < math.inf:
            raise InputError(
                f"limit on {self.metric}: {self.to_yaml()} has no meaning, the baseline is {base:g}",
                f"give an absolute limit such as `{self.key}: 0.5`, or check the model and its rows",
            )
        return self.at * base

    def fixed(self, baseline: Mapping[str, float]) -> Limit:
        """The same limit as a number, which needs no baseline any more. Raises what `on` raises."""
        return replace(self, value=self.on(baseline), relative=False)

    def violation(self, value: float, baseline: Mapping[str, float] = _NOTHING) -> float:
        """How far `value` is beyond the limit, as a fraction of the limit (absolute where it is 0). At most 0 keeps it;
        infinite for NaN. Raises what `on` raises."""
        limit = self.on(baseline)
        if math.isnan(value):
            return math.inf
        beyond = limit - value if self.at_least else value - limit
        return beyond / abs(limit) if limit else beyond

    def keeps(self, value: float, baseline: Mapping[str, float] = _NOTHING) -> bool:
        """Whether a value of the metric keeps the limit; False for NaN. Raises what `on` raises."""
        return self.violation(value, baseline) <= 0

    @property
    def at(self) -> float:
        """The limit on the scale of `scaled`: the same number whatever the baseline is."""
        return self.value / 100 if self.relative else self.value

    def scaled(self, values: Values, baseline: Values) -> Values:
        """Values of the metric on the scale on which the limit is `at`: divided by the baseline's value on the same
        rows where relative, else as they are. Shapes broadcast."""
        return values / baseline if self.relative else values

    def to_yaml(self) -> float | str:
        """The right side, as a spec has it."""
        if not self.relative:
            return self.value
        percent = int(self.value) if self.value == int(self.value) else self.value
        return f"{percent}% of baseline"

    def __str__(self) -> str:
        side = self.to_yaml() if self.relative else f"{self.value:.4g}"
        return f"{self.metric} {'≥' if self.at_least else '≤'} {side}"
