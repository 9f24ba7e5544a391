"""How much of what the trials came to each hyper-parameter explains on its own.

The share is the fraction of the variance between trials that lies between the groups of one hyper-parameter's values:
a main effect, as fANOVA's (Hutter et al. 2014), straight from the trials instead of from a forest fitted to them. The
outcome is replaced by its rank, which makes it the effect size of the Kruskal-Wallis test, and the share is corrected
for what k groups part by chance alone (epsilon squared, Kelley 1935): 1 - (1 - eta^2)(n - 1)/(n - k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayul.pareto.best import best_of_trials
from rayul.records import RUNNING, Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.objectives import Floats
from rayul.report.axes import Axis, axes
from rayul.spec import is_forgetting

MIN_TRIALS = 20
"""Below, chance is louder than most settings: at 20 in two groups an irrelevant one reaches 0.15 in one of twenty."""

MAX_GROUPS = 5
RESAMPLES = 400


@dataclass(frozen=True)
class Importance:
    """One hyper-parameter's effect on one outcome.

    share: of the variance of ranks, in [0, 1]; stderr: its standard error by bootstrap over trials; chance: the share
    that 95% of random reorderings of the trials stay below. trend: Spearman's rank correlation, NaN for categories.
    All NaN where `why` says that it cannot be told. trials: how many have this hyper-parameter.
    """

    name: str
    share: float
    stderr: float
    chance: float
    trend: float
    trials: int
    why: str = ""

    @property
    def beyond_chance(self) -> bool:
        return self.share > self.chance


def outcomes(results: SweepRecords, axis: Axis) -> dict[str, float]:
    """What each ended trial came to, on the axis' scale: forgotten at its best solution, 0 without one; for utility
    what was kept at its last evaluation (of the largest mixing). Trials without metrics are absent."""
    ended = {t: last for t, e in results.endings.items() if e.state != RUNNING and (last := last_of(results.trials[t]))}
    if is_forgetting(axis.metric):
        best = {trial: e for trial, (e, _) in best_of_trials(results).items()}
        return {t: max(0.0, float(axis.of([best[t]])[0])) if t in best else 0.0 for t in ended}
    kept = axis.of(list(ended.values()))
    return {t: float(v) for t, v in zip(ended, kept, strict=True) if math.isfinite(v)}


def last_of(rows: Sequence[Evaluation]) -> Evaluation | None:
    """The last evaluation with metrics; of one step the one with the largest mixing."""
    return max((e for e in rows if e.metrics), key=lambda e: (e.step, e.mixing), default=None)


def importances(results: SweepRecords) -> list[tuple[Axis, list[Importance]]]:
    """For each axis of the charts the hyper-parameters, the most important first, those that cannot be told last."""
    names = list(dict.fromkeys([*results.space, *(n for e in results.endings.values() for n in e.params)]))
    found = []
    for axis in axes(results) or ():
        reached = outcomes(results, axis)
        params = {t: results.trials[t][0].params for t in reached}
        rows = []
        for name in names:
            having = [t for t in reached if params[t].get(name) is not None]
            rows.append(importance(name, [params[t][name] for t in having], [reached[t] for t in having]))
        found.append((axis, sorted(rows, key=lambda i: -math.inf if math.isnan(i.share) else i.share, reverse=True)))
    return found


def importance(name: str, values: Sequence[Any], outcome: Sequence[float]) -> Importance:
    """The effect of one hyper-parameter's values [n] on the outcome [n], both by trial."""
    from scipy.stats import rankdata  # a second to import, which most commands do without

    n = len(values)
    unknown = Importance(name, math.nan, math.nan, math.nan, math.nan, n)
    if n < MIN_TRIALS:
        return Importance(
            **unknown.__dict__ | {"why": f"{n} of the {MIN_TRIALS} trials needed" if n else "in no trial"}
        )
    groups, ordered = grouped(values)
    if groups.max() == 0:
        return Importance(**unknown.__dict__ | {"why": f"always {values[0]}"})
    ranks = rankdata(np.asarray(outcome, dtype=np.float64))
    if np.ptp(ranks) == 0:
        return Importance(**unknown.__dict__ | {"why": "all trials have the same value"})
    draw = np.random.default_rng(0)
    resampled = draw.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    share = float(explained(groups, ranks[None], np.ones((1, n)))[0])
    stderr = float(np.nanstd(explained(groups, ranks[None], resampled)))
    shuffled = draw.permuted(np.tile(ranks, (RESAMPLES, 1)), axis=1)
    chance = float(np.quantile(explained(groups, shuffled, np.ones((1, n))), 0.95))
    trend = float(np.corrcoef(rankdata(ordered), ranks)[0, 1]) if ordered is not None else math.nan
    return Importance(name, max(0.0, share), stderr, chance, trend, n)


def explained(groups: npt.NDArray[np.intp], outcome: Floats, weights: Floats) -> Floats:
    """Epsilon squared [b] of outcome [b or 1, n] between groups [n], a trial counted `weights` [b or 1, n] times."""
    member = np.eye(groups.max() + 1)[groups]
    count, total = weights @ member, (weights * outcome) @ member
    n = weights.sum(axis=1)
    mean = (weights * outcome).sum(axis=1) / n
    spread = (weights * (outcome - mean[:, None]) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nansum(total**2 / count, axis=1) - n * mean**2
        k = (count > 0).sum(axis=1)
        result: Floats = 1 - (1 - between / spread) * (n - 1) / (n - k)
    return result


def grouped(values: Sequence[Any]) -> tuple[npt.NDArray[np.intp], Floats | None]:
    """Group numbers [n] and, where the values have an order, the values. Up to six different values are a group each;
    more numbers are parted at their quantiles into groups of at least eight."""
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numeric:
        kinds = {kind: i for i, kind in enumerate(dict.fromkeys(map(str, values)))}
        return np.array([kinds[str(v)] for v in values]), None
    numbers = np.array(values, dtype=np.float64)
    if len(np.unique(numbers)) <= MAX_GROUPS + 1:
        return np.unique(numbers, return_inverse=True)[1], numbers
    count = min(MAX_GROUPS, max(2, len(values) // 8))
    edges = np.quantile(numbers, np.arange(1, count) / count)
    return np.unique(np.searchsorted(edges, numbers, side="left"), return_inverse=True)[1], numbers
