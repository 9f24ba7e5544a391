"""Dials walked on the certify rows, in a process that has the model: what a certificate is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayul.errors import RayulError
from rayul.pareto.certificate import bets, e_values, least_groups, lower_bounds, margins, t_p_values, walk
from rayul.records import Evaluation, adapter_folder
from rayul.records.certificate import Dial, Margin, Reading, Walked
from rayul.spec import Limit, Spec, known_limits, violations
from rayul.sweep.driver_disk import DriverDisk
from rayul.unlearn.data import Sets
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.export import measure_reported
from rayul.unlearn.group_means import group_means, group_names
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.update.saved import Scaled, scalable

SELECT, CERTIFY = "retain", "retain_certify"

Values = Mapping[str, NDArray[np.float64]]
"""By "<set>.<metric>" the value in each group [n]."""


def certifiable(limits: Sequence[Limit]) -> tuple[list[Limit], list[Limit]]:
    """The limits that the certify rows can tell of, and the others."""
    mine = [limit for limit in limits if limit.metric.startswith(f"{SELECT}.")]
    return mine, [limit for limit in limits if limit not in mine]


def walk_dials(
    spec: Spec,
    sets: Sets,
    disk: DriverDisk,
    reading: Reading,
    points: Sequence[Evaluation],
    baseline: Mapping[str, float],
    task: Task | None = None,
) -> tuple[Dial, ...]:
    """The dials of a reading, walked, and what each certified model measures.

    points: of the dials, in their order. baseline: metrics of the model before unlearning. task: that of the spec,
    where this process has it. Raises RayulError for an adapter that is missing, and InputError for a group whose metric
    is not a number.
    """
    spec, folder = disk.with_models(spec), disk.adapters()
    walker = _Walker(task or load_task(spec, sets), spec, reading.level, baseline)
    found = []
    for dial, point in zip(reading.dials, points, strict=True):
        place = adapter_folder(folder, point)
        if not disk.get(place):
            raise RayulError(f"{place}: the adapter to certify is missing", "restore it, and run rayul certify again")
        with scalable(walker.task.base, place) as at:
            found.append(walker.walked(dial, point, at))
    return tuple(found)


class _Walker:
    def __init__(self, task: Task, spec: Spec, level: float, baseline: Mapping[str, float]) -> None:
        self.task, self.spec, self.level, self.baseline = task, spec, level, baseline
        self.batch = spec.evaluate.batch_size
        self.names = {name: group_names(task, name) for name in (SELECT, CERTIFY)}
        self.before = self._scored(task.base)

    def walked(self, dial: Dial, point: Evaluation, at: Scaled) -> Dial:
        """Scores a coefficient only where the one before it has passed one of the tests."""
        criteria = self.spec.at(point.params).criteria
        limits, others = certifiable(known_limits(criteria))
        walked: list[Walked] = []
        for scale in dial.scales:
            with at(scale) as model:
                one = replace(self._tested(limits, self._scored(model)), scale=scale)
                if others and not self._keeps(others, model):
                    one = replace(one, p_value=1.0, e_value=None)
            walked.append(one)
            if not (one.p_value <= self.level or (one.e_value or 0.0) >= 1 / self.level):
                break
        passed = walk([np.array([one.p_value for one in walked])], self.level).passed
        free = walk([np.array([1 / one.e_value if one.e_value else np.inf for one in walked])], self.level).passed
        dial = replace(dial, walked=tuple(walked), passed=passed, passed_free=free)
        if not passed:
            return dial
        with at(dial.scales[passed - 1]) as model:
            measured = measure_reported(self.task, self.spec, model)
        metrics = {key: m.value for key, m in measured.items()}
        certified = replace(
            point,
            mixing=dial.mixing_at(passed),
            metrics=metrics,
            stderr={key: m.stderr for key, m in measured.items()},
            rows={key.split(".")[0]: m.rows for key, m in measured.items()},
            groups={key.split(".")[0]: m.groups for key, m in measured.items()},
            group_sums={},
            group_rows={},
            violation=violations(criteria, metrics, self.baseline),
            notes=(),
        )
        return replace(dial, certified=replace(certified, feasible=all(v <= 0 for v in certified.violation.values())))

    def _scored(self, model: Any) -> Values:
        return group_means(model, self.task, (SELECT, CERTIFY), self.spec.evaluate.metrics, self.batch)

    def _keeps(self, limits: Sequence[Limit], model: Any) -> bool:
        sets = list(dict.fromkeys(limit.metric.partition(".")[0] for limit in limits))
        values = evaluate(model, self.task, self.spec.evaluate.metrics, self.batch, sets).values
        return all(limit.keeps(values[limit.metric], self.baseline) for limit in limits)

    def _tested(self, limits: Sequence[Limit], values: Values) -> Walked:
        p_values, e_found, told = [], [], []
        for limit in limits:
            key = _on(CERTIFY, limit)
            d = margins(limit, values[key][None], self.before[key], self.names[CERTIFY])
            p_values.append(float(t_p_values(d)[0]))
            e_found.append(self._e_value(limit, values, d))
            told.append(_margin(limit, d, self.before[key], self.level))
        e = None if None in e_found else min(value for value in e_found if value is not None)
        return Walked(0.0, max(p_values), tuple(told), e)

    def _e_value(self, limit: Limit, values: Values, d: NDArray[np.float64]) -> float | None:
        """None where there are too few groups for it to pass, or a metric that has no bounds."""
        select, certify = _on(SELECT, limit), _on(CERTIFY, limit)
        read = np.concatenate([v[key] for v in (values, self.before) for key in (select, certify)])
        if d.shape[1] < least_groups(limit, self.level) or not ((read >= 0) & (read <= 1)).all():
            return None
        chosen = bets(limit, margins(limit, values[select][None], self.before[select], self.names[SELECT]))
        return float(e_values(limit, d, chosen)[0])


def _on(name: str, limit: Limit) -> str:
    return f"{name}.{limit.metric.partition('.')[2]}"


def _margin(limit: Limit, d: NDArray[np.float64], before: NDArray[np.float64], level: float) -> Margin:
    sign = 1 if limit.at_least else -1
    unit = float(before.mean()) if limit.relative else 1.0
    kept, low = (limit.at + sign * float(x) / unit for x in (d.mean(), lower_bounds(d, level)[0]))
    sd = float(d.std(ddof=1)) / unit if d.size > 1 else float("nan")
    return Margin(limit.metric, limit.at_least, limit.relative, limit.at, kept, low, sd)
