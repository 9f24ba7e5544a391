"""What a certificate asks of every coefficient of a dial, and a dial on its way through these tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rayul.pareto.certificate import bets, e_values, least_groups, lower_bounds, margins, t_p_values, walk
from rayul.records.certificate import Dial, Margin, Walked
from rayul.spec import Limit, Spec
from rayul.unlearn.answered import answered
from rayul.unlearn.evaluate import measurement
from rayul.unlearn.forward import Model, TokenScores, score
from rayul.unlearn.group_means import Values, group_means, group_names
from rayul.unlearn.task import EVALUATED, Task

_NOTHING: Mapping[str, float] = MappingProxyType({})

SELECT, CERTIFY = "retain", "retain_certify"


def certifiable(limits: Sequence[Limit]) -> tuple[list[Limit], list[Limit]]:
    """The limits that the certify rows can tell of, and the others."""
    mine = [limit for limit in limits if limit.metric.startswith(f"{SELECT}.")]
    return mine, [limit for limit in limits if limit not in mine]


class DialTests:
    """examples: what has to be scored of every model: all certify rows, all select rows where an e-value can pass (its
    bets are chosen on them), and the evaluated rows of other sets that have limits.

    limits: of each dial. level: at which each is tested. baseline: metrics of the model before unlearning.
    """

    def __init__(
        self, task: Task, spec: Spec, limits: Sequence[Sequence[Limit]], level: float, baseline: Mapping[str, float]
    ) -> None:
        self.task, self.metrics, self.level, self.baseline = task, spec.evaluate.metrics, level, baseline
        self.batch_size = spec.evaluate.batch_size
        split = [certifiable(one) for one in limits]
        self.groups = len(group_names(task, CERTIFY))
        free = any(self._enough_groups(tested) for tested, _ in split)
        self.whole = (CERTIFY, SELECT) if free else (CERTIFY,)
        self.names = {name: group_names(task, name) for name in self.whole}
        keys = {limit.metric for _, others in split for limit in others}
        limited = {key.split(".")[0] for key in keys}
        forward = task.forward_metrics(self.metrics, EVALUATED)
        self.other_metrics = {name: metrics for name, metrics in forward.items() if name in limited}
        self.others = task.evaluated(self.other_metrics)
        further = {f"{name}.{one}" for name, own in task.further_metrics(everything=False).items() for one in own}
        self.generates = bool(keys & further)
        """Whether a limit is on a metric of a probe that takes more than a forward: it needs the model itself."""
        whole = [e for name in self.whole for e in task.examples[name]]
        self.examples = whole + [e for examples in self.others.values() for e in examples]
        self.before = self._means(score(task.base, whole, task.pad, spec.evaluate.batch_size))

    def further(self, model: Model) -> dict[str, float]:
        """What a model measures beyond its scores."""
        return answered(model, self.task, self.batch_size).values if self.generates else {}

    def walked(
        self, limits: Sequence[Limit], scale: float, scores: Sequence[TokenScores], further: Mapping[str, float]
    ) -> Walked:
        """A coefficient that was scored, tested against the limits of its dial."""
        tested, others = certifiable(limits)
        values = self._means(scores)
        p_values, e_found, told = [], [], []
        free = self._enough_groups(tested)
        for limit in tested:
            key = _on(CERTIFY, limit)
            d = margins(limit, values[key][None], self.before[key], self.names[CERTIFY])
            p_values.append(float(t_p_values(d)[0]))
            e_found.append(self._e_value(limit, values, d) if free else None)
            told.append(_margin(limit, d, self.before[key], self.level))
        if others and not self._keeps(others, scores, further):
            return Walked(scale, 1.0, tuple(told))
        e = None if None in e_found else min(value for value in e_found if value is not None)
        return Walked(scale, max(p_values), tuple(told), e)

    def passes(self, one: Walked) -> bool:
        """Whether a coefficient passes one of the tests."""
        return one.p_value <= self.level or (one.e_value or 0.0) >= 1 / self.level

    def _enough_groups(self, limits: Sequence[Limit]) -> bool:
        """Whether an e-value can pass all of these limits."""
        return all(self.groups >= least_groups(limit, self.level) for limit in limits)

    def _means(self, scores: Sequence[TokenScores]) -> Values:
        remaining = iter(scores)
        by_set = {name: list(islice(remaining, len(self.task.examples[name]))) for name in self.whole}
        return group_means(by_set, self.task, self.metrics)

    def _keeps(self, limits: Sequence[Limit], scores: Sequence[TokenScores], further: Mapping[str, float]) -> bool:
        own = scores[len(self.examples) - sum(map(len, self.others.values())) :]
        groups = self.task.groups(self.others)
        values = measurement(own, groups, self.other_metrics, self.task.own).values | dict(further)
        return all(limit.keeps(values[limit.metric], self.baseline) for limit in limits)

    def _e_value(self, limit: Limit, values: Values, d: NDArray[np.float64]) -> float | None:
        """None for a metric that has no bounds."""
        select, certify = _on(SELECT, limit), _on(CERTIFY, limit)
        read = np.concatenate([v[key] for v in (values, self.before) for key in (select, certify)])
        if not ((read >= 0) & (read <= 1)).all():
            return None
        chosen = bets(limit, margins(limit, values[select][None], self.before[select], self.names[SELECT]))
        return float(e_values(limit, d, chosen)[0])


class DialWalk:
    """A dial on its way: coefficient by coefficient from the smallest, until one has passed none of the tests."""

    def __init__(self, dial: Dial, limits: Sequence[Limit], tests: DialTests) -> None:
        self.dial, self.limits, self.tests = dial, limits, tests
        self.walked: list[Walked] = []

    @property
    def ended(self) -> bool:
        done = self.walked
        return len(done) == len(self.dial.scales) or bool(done and not self.tests.passes(done[-1]))

    def next(self, count: int) -> tuple[float, ...]:
        """The coefficients that come next, `count` of them at most."""
        return self.dial.scales[len(self.walked) :][:count]

    def add(self, scores: Sequence[TokenScores], further: Mapping[str, float] = _NOTHING) -> None:
        """The scores of the next coefficient, and what else its model measures (`DialTests.further`)."""
        (scale,) = self.next(1)
        self.walked.append(self.tests.walked(self.limits, scale, scores, further))

    @property
    def passed(self) -> int:
        """How many coefficients passed the t test before one failed it."""
        return walk([np.array([one.p_value for one in self.walked])], self.tests.level).passed

    def found(self) -> Dial:
        """The dial with how far it was passed."""
        inverse = [1 / one.e_value if one.e_value else np.inf for one in self.walked]
        free = walk([np.array(inverse)], self.tests.level).passed
        return replace(self.dial, walked=tuple(self.walked), passed=self.passed, passed_free=free)


def _on(name: str, limit: Limit) -> str:
    return f"{name}.{limit.metric.partition('.')[2]}"


def _margin(limit: Limit, d: NDArray[np.float64], before: NDArray[np.float64], level: float) -> Margin:
    sign = 1 if limit.at_least else -1
    unit = float(before.mean()) if limit.relative else 1.0
    kept, low = (limit.at + sign * float(x) / unit for x in (d.mean(), lower_bounds(d, level)[0]))
    sd = float(d.std(ddof=1)) / unit if d.size > 1 else float("nan")
    return Margin(limit.metric, limit.at_least, limit.relative, limit.at, kept, low, sd)
