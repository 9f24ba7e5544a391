"""Whether one sweep is ahead of another by more than chance: of two points over the groups of rows that both were
measured on, of two recipes over their seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rayul.records import Evaluation
from rayul.report.axes import Axis
from rayul.unlearn.measured import Variance, jackknife, t_margin

CONFIDENCE = 0.95
"""Of the intervals, two-sided."""

_ONE_SIDED = (1 + CONFIDENCE) / 2

FEWEST, ADVISED = 3, 5
"""Seeds of a recipe: the fewest for which an interval is shown (of two each it reaches 4 to 13 standard errors), and
the number that is advised."""


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
    groups = list(dict.fromkeys(several.get(i, (i,)) for i in range(len(labels))))
    names = [_shared([labels[i] for i in group]) for group in groups]
    if len(set(names)) < len(names):
        names = [", ".join(labels[i] for i in group) for group in groups]
    return [Repeats(name, group) for name, group in zip(names, groups, strict=True)]


def _shared(labels: Sequence[str]) -> str:
    """ "ga-0", "ga-1" -> "ga"."""
    first, last = min(labels), max(labels)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    start = re.sub(r"[-_. ]*(seed)?[-_. ]*\d*$", "", first[:same])
    return start if len(labels) > 1 and start else labels[0]


@dataclass(frozen=True)
class OverSeeds:
    """Two recipes, the one with the larger mean of a number first, with these means over seeds. margin: half of the 95%
    interval of their difference (Welch 1947: a t interval with a variance for each recipe). p: of Welch's two-sided
    test. corrected: p after Holm (1979) for all pairs that were compared. All three are NaN where a recipe has fewer
    seeds than FEWEST."""

    first: Repeats
    second: Repeats
    means: tuple[float, float]
    margin: float
    p: float
    corrected: float

    @property
    def difference(self) -> float:
        return self.means[0] - self.means[1]

    @property
    def seeds(self) -> tuple[int, int]:
        return len(self.first.sweeps), len(self.second.sweeps)

    @property
    def clear(self) -> bool:
        """More than seeds differ; of a single pair, whether its interval lies above 0."""
        return self.corrected < 1 - CONFIDENCE


def pairs_over_seeds(found: Sequence[Repeats], values: Sequence[float]) -> list[OverSeeds]:
    """Each pair of the recipes that have two seeds or more, those of the best first. values: of each sweep."""
    drawn = {one: [values[i] for i in one.sweeps] for one in found if len(one.sweeps) > 1}
    ordered = sorted(drawn, key=lambda one: -float(np.mean(drawn[one])))
    pairs = list(combinations(ordered, 2))
    tests = [_welch(drawn[first], drawn[second]) for first, second in pairs]
    corrected = holm([p for _, p in tests])
    return [
        OverSeeds(first, second, (float(np.mean(drawn[first])), float(np.mean(drawn[second]))), margin, p, after)
        for (first, second), (margin, p), after in zip(pairs, tests, corrected, strict=True)
    ]


def _welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Half of the t interval of the difference of the means, and p; NaN where one has too few values."""
    from scipy import stats  # a second to import

    if min(len(first), len(second)) < FEWEST:
        return math.nan, math.nan
    margin = t_margin([_variance(first), _variance(second)], _ONE_SIDED)
    if not margin:  # equal seeds: a t test divides by zero
        return margin, float(np.mean(first) == np.mean(second))
    return margin, float(stats.ttest_ind(first, second, equal_var=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the same order; NaN stays, and does not count."""
    known = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    corrected, least = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(known):
        least = corrected[i] = max(least, min(1.0, (len(known) - rank) * p_values[i]))
    return corrected


def _variance(values: Sequence[float]) -> Variance:
    """Of the mean."""
    return jackknife([(sum(values) - value) / (len(values) - 1) for value in values])
