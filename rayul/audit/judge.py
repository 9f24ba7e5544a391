"""What an audit found of a finalist: what is forgotten, whether the limits hold on unread rows, what comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rayul.audit.intervals import Floats, Indices, Interval, Means, over_seeds, over_seeds_and_groups
from rayul.audit.read import Audit, Finalist
from rayul.pareto.held_out import twin_of
from rayul.records import ORACLE
from rayul.records.audited import REFUSAL, Audited, Scored
from rayul.spec import Limit


@dataclass(frozen=True)
class Kept:
    """A limit of the sweep, on rows that the search read and on rows it did not. Numbers are on the limit's own scale,
    see `Limit.at`: fractions of the baseline on the same rows where it is relative, else the metric's own.

    key: the metric on the unread rows. searched: the point as the search saw it (one seed, the rows it was chosen by);
    fresh: fresh seeds on the same rows; unread: fresh seeds on unread rows. So searched - fresh is the luck of the
    seed, fresh - unread that of the rows. holds: "yes" when the bound at the audit's confidence keeps the limit,
    "unsure" when only the mean does (one seed of a metric without values per row has no bound), or when the baseline
    has nothing on the unread rows to take a percentage of.
    """

    limit: Limit
    key: str
    searched: float
    fresh: Interval
    unread: Interval
    holds: Literal["yes", "unsure", "no"]


@dataclass(frozen=True)
class Return:
    """The worst of an attack's variants. before, after: the forget metric on the rows that count; gain: their
    difference; returned: as a share of what had been forgotten of those rows."""

    attack: str
    variant: str
    variants: int
    before: float
    after: Interval
    gain: Interval
    returned: Interval


@dataclass(frozen=True)
class Judged:
    """forgotten: 1 - metric / baseline over fresh seeds; searched: the same as the search saw it. beyond: attacks
    that bring back more than the oracle gains by them, and more than nothing, at the audit's confidence."""

    finalist: Finalist
    forgotten: Interval
    searched: float
    kept: tuple[Kept, ...]
    returns: tuple[Return, ...]
    beyond: tuple[Return, ...]

    @property
    def worst(self) -> Return | None:
        return max(self.returns, key=lambda r: r.gain.value, default=None)


def judge(audit: Audit) -> list[Judged]:
    """Every finalist that was trained with one fresh seed at least."""
    level = {r.attack: r for r in returns(audit, ORACLE)}
    found = []
    for finalist in audit.finalists:
        if not finalist.runs:
            continue
        back = returns(audit, finalist.name)
        beyond = [r for r in back if r.gain.low > max(0.0, level[r.attack].gain.value if r.attack in level else 0.0)]
        base = audit.baseline.metrics[audit.metric]
        searched = 1 - finalist.found.metrics.get(audit.metric, math.nan) / base if base else math.nan
        found.append(
            Judged(
                finalist,
                forgotten(audit, finalist.runs),
                searched,
                tuple(_kept(audit, finalist, limit) for limit in finalist.limits),
                tuple(back),
                tuple(beyond),
            )
        )
    return found


def forgotten(audit: Audit, runs: Sequence[Audited]) -> Interval:
    kept = _fraction(audit, runs, audit.metric)
    return Interval(1 - kept.value, kept.sd, 1 - kept.high, 1 - kept.low)


def returns(audit: Audit, subject: str) -> list[Return]:
    """The worst variant of every attack that this subject went through."""
    found = []
    for attack in audit.attacks:
        rows = audit.attacked(subject, attack)
        if rows:
            tried = [_return(audit, rows, i) for i in range(len(rows[0].scored))]
            found.append(max(tried, key=lambda r: r.gain.value))
    return found


def powerless(audit: Audit) -> list[str]:
    """Attacks that do not bring back what the positive control only hides: that they find nothing shows nothing."""
    return [r.attack for r in returns(audit, REFUSAL) if not r.gain.low > 0]


def _return(audit: Audit, rows: Sequence[Audited], variant: int) -> Return:
    tried: list[Scored] = [row.scored[variant] for row in rows]
    judged = tried[0].judged
    key = audit.metric
    groups = audit.groups_of(key, judged)
    after = Means.of(np.array([one.values[key] for one in tried]), groups)
    before = Means.of(np.stack([_judged(audit.before(row), key, judged) for row in rows]), groups)
    full = Means.of(_judged(audit.baseline, key, judged), groups)

    def interval(statistic: Callable[[Indices, Indices], float]) -> Interval:
        return over_seeds_and_groups(statistic, after.seeds, after.groups, audit.confidence)

    def share(s: Indices, a: Indices) -> float:
        gone = full.at(s, a) - before.at(s, a)
        return (after.at(s, a) - before.at(s, a)) / gone if gone > 1e-9 else 0.0

    everyone = np.arange(after.seeds), np.arange(after.groups)
    return Return(
        attack=rows[0].attack,
        variant=tried[0].variant,
        variants=len(rows[0].scored),
        before=float(before.at(*everyone)),
        after=interval(after.at),
        gain=interval(lambda s, a: after.at(s, a) - before.at(s, a)),
        returned=interval(share),
    )


def _judged(scored: Scored, key: str, judged: Sequence[int]) -> Floats:
    values = np.array(scored.values[key])
    return values[list(judged)] if judged else values


def _kept(audit: Audit, finalist: Finalist, limit: Limit) -> Kept:
    twin = twin_of(limit.metric)
    key = twin if twin in audit.baseline.metrics else limit.metric
    base = audit.results.baseline.metrics[limit.metric]
    value = finalist.found.metrics.get(limit.metric, math.nan)
    unread = _over(audit, finalist.runs, key, limit.scaled)
    bound = unread.low if limit.at_least else unread.high
    on_scale = Limit(key, limit.at_least, limit.at)
    sure = on_scale.keeps(bound)  # False where one seed on rows without values has no bound
    likely = on_scale.keeps(unread.value) or math.isnan(unread.value)  # NaN: the baseline has nothing on these rows
    return Kept(
        limit,
        key,
        limit.scaled(value, base),
        _over(audit, finalist.runs, limit.metric, limit.scaled),
        unread,
        "yes" if sure else "unsure" if likely else "no",
    )


def own_value(audit: Audit, runs: Sequence[Audited], key: str) -> Interval:
    """A metric over the seeds; where its values per row are known, rows are drawn too, by group."""
    return _over(audit, runs, key, lambda value, base: value)


def _fraction(audit: Audit, runs: Sequence[Audited], key: str) -> Interval:
    """A metric over the baseline's on the same rows, drawn together."""
    return _over(audit, runs, key, lambda value, base: value / base)


def _over(audit: Audit, runs: Sequence[Audited], key: str, scale: Callable[[float, float], float]) -> Interval:
    """scale(metric, the baseline's on the same rows) over the seeds; where values per row are known, rows vary
    too, by group."""
    if not all(key in one.values for one in (audit.baseline, *(run.scored[0] for run in runs))):
        base = audit.baseline.metrics.get(key) or math.nan
        values = [scale(run.scored[0].metrics.get(key, math.nan), base) for run in runs]
        return over_seeds(values, audit.confidence)
    groups = audit.groups_of(key)
    mine = Means.of(np.array([run.scored[0].values[key] for run in runs]), groups)
    before = Means.of(np.array(audit.baseline.values[key]), groups)

    def statistic(s: Indices, a: Indices) -> float:
        return scale(mine.at(s, a), before.at(s, a) or math.nan)  # of 0 there are no fractions

    return over_seeds_and_groups(statistic, mine.seeds, mine.groups, audit.confidence)
