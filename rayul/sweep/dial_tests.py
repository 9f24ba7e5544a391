"""What a certificate asks of every coefficient of a dial, and a dial on its way through these tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul.pareto.certificate import bets, e_values, least_groups, lower_bounds, margins, t_p_values, walk
from rayul.records.certificate import Dial, Margin, Walked
from rayul.spec import Limit, Spec, certifiable, certify_of
from rayul.unlearn.answered import answered
from rayul.unlearn.evaluate import measurement
from rayul.unlearn.forward import Model, TokenScores, score
from rayul.unlearn.group_means import Values, answered_group_means, group_means, group_places
from rayul.unlearn.task import EVALUATED, Task


class Further(NamedTuple):
    """What a model measures beyond its scores. values: by "<set>.<metric>", of the rows of the search. by_group: of the
    sets that a test reads."""

    values: Mapping[str, float] = MappingProxyType({})
    by_group: Mapping[str, NDArray[np.float64]] = MappingProxyType({})


_NOTHING = Further()


class DialTests:
    """examples: what has to be scored of every model: all certify rows, all select rows where an e-value can pass (its
    bets are chosen on them), and the evaluated rows of other sets that have limits.

    limits: of each dial; those on several sets have to be kept together, so each is tested at the whole level (an
    intersection-union test). level: at which each dial is tested. baseline: metrics of the model before unlearning.
    """

    def __init__(
        self, task: Task, spec: Spec, limits: Sequence[Sequence[Limit]], level: float, baseline: Mapping[str, float]
    ) -> None:
        self.task, self.spec, self.level, self.baseline = task, spec, level, baseline
        self.batch_size = spec.evaluate.batch_size
        split = [certifiable(spec, one) for one in limits]
        tested = dict.fromkeys(limit for mine, _ in split for limit in mine)
        others = dict.fromkeys(limit for _, rest in split for limit in rest)
        self.places = {limit.set_name: group_places(task, certify_of(limit.set_name)) for limit in tested}
        free = any(self._enough_groups(mine) for mine, _ in split)
        self.whole: dict[str, list[str]] = {}
        """The metrics that a test reads of a set in the forward of all its rows, by set."""
        self.answered: dict[str, list[str]] = {}
        """Those that take more than the forward."""
        for limit in tested:
            name, metric = limit.set_name, limit.metric.partition(".")[2]
            for read in (certify_of(name), name) if free else (certify_of(name),):
                metrics = (self.whole if task.is_cheap(metric) else self.answered).setdefault(read, [])
                metrics += [metric] if metric not in metrics else []
        limited = {limit.set_name for limit in others}
        forward = task.forward_metrics(spec.evaluate.metrics, EVALUATED)
        self.other_metrics = {name: metrics for name, metrics in forward.items() if name in limited}
        self.others = task.evaluated(self.other_metrics)
        further = {f"{name}.{one}" for name, own in task.further_metrics(everything=False).items() for one in own}
        self.answers_others = any(limit.metric in further for limit in others)
        whole = [e for name in self.whole for e in task.examples[name]]
        self.examples = whole + [e for examples in self.others.values() for e in examples]
        scores = score(task.base, whole, task.pad, self.batch_size)
        self.before = self._means(scores) | answered_group_means(task.base, task, self.answered, self.batch_size)

    @property
    def generates(self) -> bool:
        """Whether a limit is on a metric of a probe that takes more than a forward: it needs the model itself."""
        return self.answers_others or bool(self.answered)

    def further(self, model: Model) -> Further:
        values = answered(model, self.task, self.batch_size).values if self.answers_others else {}
        return Further(values, answered_group_means(model, self.task, self.answered, self.batch_size))

    def walked(self, limits: Sequence[Limit], scale: float, scores: Sequence[TokenScores], further: Further) -> Walked:
        """A coefficient that was scored, tested against the limits of its dial."""
        tested, others = certifiable(self.spec, limits)
        values = self._means(scores) | dict(further.by_group)
        p_values, e_found, told = [], [], []
        free = self._enough_groups(tested)
        for limit in tested:
            key = _on(certify_of(limit.set_name), limit)
            d = margins(limit, values[key][None], self.before[key], self.places[limit.set_name])
            p_values.append(float(t_p_values(d)[0]))
            e_found.append(self._e_value(limit, values, d) if free else None)
            told.append(_margin(limit, d, self.before[key], self.level))
        if others and not self._keeps(others, scores, further.values):
            return Walked(scale, 1.0, tuple(told))
        e = None if None in e_found else min(value for value in e_found if value is not None)
        return Walked(scale, max(p_values), tuple(told), e)

    def passes(self, one: Walked) -> bool:
        """Whether a coefficient passes one of the tests."""
        return one.p_value <= self.level or (one.e_value or 0.0) >= 1 / self.level

    def _enough_groups(self, limits: Sequence[Limit]) -> bool:
        """Whether an e-value can pass all of these limits."""
        return all(len(self.places[limit.set_name]) >= least_groups(limit, self.level) for limit in limits)

    def _means(self, scores: Sequence[TokenScores]) -> Values:
        remaining = iter(scores)
        found: Values = {}
        for name, metrics in self.whole.items():
            found |= group_means({name: list(islice(remaining, len(self.task.examples[name])))}, self.task, metrics)
        return found

    def _keeps(self, limits: Sequence[Limit], scores: Sequence[TokenScores], further: Mapping[str, float]) -> bool:
        own = scores[len(self.examples) - sum(map(len, self.others.values())) :]
        groups = self.task.groups(self.others)
        values = measurement(own, groups, self.other_metrics, self.task.own).values | dict(further)
        return all(limit.keeps(values[limit.metric], self.baseline) for limit in limits)

    def _e_value(self, limit: Limit, values: Values, d: NDArray[np.float64]) -> float | None:
        """None for a metric that has no bounds."""
        select, certify = limit.metric, _on(certify_of(limit.set_name), limit)
        read = np.concatenate([v[key] for v in (values, self.before) for key in (select, certify)])
        if not ((read >= 0) & (read <= 1)).all():
            return None
        places = group_places(self.task, limit.set_name)
        chosen = bets(limit, margins(limit, values[select][None], self.before[select], places))
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

    def add(self, scores: Sequence[TokenScores], further: Further = _NOTHING) -> None:
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
