"""Whether one sweep is ahead of another by more than chance: of two points over the groups of rows that both were
measured on, of two recipes over their seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayul.records import Evaluation
from rayul.report.axes import Axis
from rayul.unlearn.measured import Variance, jackknife, t_margin

CONFIDENCE = 0.95
"""Of the intervals, two-sided."""

_ONE_SIDED = (1 + CONFIDENCE) / 2


def margin_over_groups(axis: Axis, first: Evaluation, second: Evaluation) -> float:
    """Half of the t interval of the difference of two points on the axis; NaN where no error was recorded.

    The points are of other models on the same rows, so groups are paired where both evaluations have their sums: a
    group that is hard for one is hard for the other. Else the two errors are taken as independent, which is wider.
    The spread of seeds is no part of either.
    """
    paired = _paired(axis, first, second)
    if paired is not None:
        return t_margin([paired], _ONE_SIDED)
    set_name = axis.metric.partition(".")[0]
    parts = []
    for e, error in zip((first, second), axis.error([first, second]), strict=True):
        groups = e.groups.get(set_name) or e.rows.get(set_name, 0)  # old records: each row by itself
        if not math.isfinite(error) or groups < 2:
            return math.nan
        parts.append(Variance(float(error**2), groups - 1))
    return t_margin(parts, _ONE_SIDED)


def _paired(axis: Axis, first: Evaluation, second: Evaluation) -> Variance | None:
    """Of the difference of two ratio estimators on the same groups (Cochran 1977, chapter 6), each by the slope of the
    axis at its value; None where the groups are not known, or not the same."""
    set_name = axis.metric.partition(".")[0]
    rows = [np.asarray(e.group_rows.get(set_name, ()), dtype=np.float64) for e in (first, second)]
    sums = [np.asarray(e.group_sums.get(axis.metric, ()), dtype=np.float64) for e in (first, second)]
    if len(rows[0]) < 2 or not np.array_equal(rows[0], rows[1]) or any(len(one) != len(rows[0]) for one in sums):
        return None
    n = rows[0]
    slopes = axis.slope([first, second])
    beyond = [slope * (s - s.sum() / n.sum() * n) for slope, s in zip(slopes, sums, strict=True)]
    groups = len(n)
    value = groups / (groups - 1) * np.square(beyond[0] - beyond[1]).sum() / n.sum() ** 2
    return Variance(float(value), groups - 1)


@dataclass(frozen=True)
class Repeats:
    """One spec and its seeds: a label, and the numbers of its sweeps."""

    label: str
    sweeps: tuple[int, ...]


def recipes(labels: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[Repeats]:
    """seeds: the sweeps that differ in their seeds alone; each of the others is a recipe of its own."""
    several = {i: tuple(group) for group in seeds for i in group}
    groups = dict.fromkeys(several.get(i, (i,)) for i in range(len(labels)))
    return [Repeats(_shared([labels[i] for i in group]), group) for group in groups]


def _shared(labels: Sequence[str]) -> str:
    """ "ga-0", "ga-1" -> "ga"."""
    first, last = min(labels), max(labels)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    start = re.sub(r"[-_. ]*(seed)?[-_. ]*\d*$", "", first[:same])
    return start if len(labels) > 1 and start else labels[0]


@dataclass(frozen=True)
class OverSeeds:
    """The two recipes that are best in a number, with their means over seeds. margin: half of the interval of the
    difference (Welch 1947: a t interval with a variance for each recipe)."""

    first: Repeats
    second: Repeats
    means: tuple[float, float]
    margin: float

    @property
    def difference(self) -> float:
        return self.means[0] - self.means[1]

    @property
    def clear(self) -> bool:
        return self.difference > self.margin


def lead_over_seeds(found: Sequence[Repeats], values: Sequence[float]) -> OverSeeds | None:
    """values: of each sweep. None where there are no two recipes with two seeds or more each."""
    repeated = [one for one in found if len(one.sweeps) > 1]
    if len(repeated) < 2:
        return None
    means = {one.label: float(np.mean([values[i] for i in one.sweeps])) for one in repeated}
    first, second = sorted(repeated, key=lambda one: -means[one.label])[:2]
    parts = [_variance([values[i] for i in one.sweeps]) for one in (first, second)]
    return OverSeeds(first, second, (means[first.label], means[second.label]), t_margin(parts, _ONE_SIDED))


def _variance(values: Sequence[float]) -> Variance:
    """Of the mean."""
    return jackknife([(sum(values) - value) / (len(values) - 1) for value in values])
