"""What an audit found of a finalist: what is forgotten, whether the limits hold on unread rows, what comes back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rayul.audit.intervals import Floats, Interval, Means, over_seeds, over_seeds_and_authors
from rayul.audit.read import Audit, Finalist
from rayul.pareto.held_out import CONTROL, REPORT
from rayul.records import ORACLE
from rayul.records.audited import REFUSAL, Audited, Scored
from rayul.records.folder import Limit


@dataclass(frozen=True)
class Kept:
    """A limit of the sweep, on rows that the search read and on rows it did not; numbers are fractions of the baseline
    on the same rows where `relative`, else the metric's own.

    key: the metric on the unread rows. searched: the point as the search saw it (one seed, the rows it was chosen by);
    fresh: fresh seeds on the same rows; unread: fresh seeds on unread rows. So searched - fresh is the luck of the
    seed, fresh - unread that of the rows. holds: "yes" when the bound at the audit's confidence keeps the limit,
    "unsure" when only the mean does.
    """

    limit: Limit
    key: str
    at: float
    relative: bool
    searched: float
    fresh: Interval
    unread: Interval
    holds: Literal["yes", "unsure", "no"]

    @property
    def bound(self) -> float:
        """The end of the interval that is judged."""
        return self.unread.low if self.limit.at_least else self.unread.high


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
    authors = audit.authors_of(key, judged)
    after = Means.of(np.array([one.values[key] for one in tried]), authors)
    before = Means.of(np.stack([_judged(audit.before(row), key, judged) for row in rows]), authors)
    full = Means.of(_judged(audit.baseline, key, judged), authors)

    def interval(statistic: object) -> Interval:
        return over_seeds_and_authors(statistic, after.seeds, after.authors, audit.confidence)  # type: ignore[arg-type]

    def share(s: np.ndarray, a: np.ndarray) -> Floats:
        gone = full.at(s, a) - before.at(s, a)
        return np.where(gone > 1e-9, (after.at(s, a) - before.at(s, a)) / np.where(gone > 1e-9, gone, 1.0), 0.0)

    everyone = np.arange(after.seeds), np.arange(after.authors)
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
    twin = REPORT + limit.metric.removeprefix(CONTROL)
    unread_rows = limit.metric.startswith(CONTROL) and twin in audit.baseline.metrics
    key = twin if unread_rows else limit.metric
    base = audit.results.baseline.metrics[limit.metric]
    at = limit.value / base if limit.relative else limit.value
    value = finalist.found.metrics.get(limit.metric, math.nan)
    unread = _measured(audit, finalist.runs, key, limit.relative)
    low, mean = (unread.low if limit.at_least else unread.high), unread.value
    sure = low if math.isfinite(low) else mean
    return Kept(
        limit,
        key,
        at,
        limit.relative,
        value / base if limit.relative else value,
        _measured(audit, finalist.runs, limit.metric, limit.relative),
        unread,
        "yes" if limit.keeps(sure, at) else "unsure" if limit.keeps(mean, at) else "no",
    )


def _measured(audit: Audit, runs: Sequence[Audited], key: str, relative: bool) -> Interval:
    return _fraction(audit, runs, key) if relative else own_value(audit, runs, key)


def own_value(audit: Audit, runs: Sequence[Audited], key: str) -> Interval:
    """A metric over the seeds; where its values per row are known, rows are drawn too, by author."""
    if not all(key in run.scored[0].values for run in runs):
        return over_seeds([run.scored[0].metrics.get(key, math.nan) for run in runs], audit.confidence)
    means = Means.of(np.array([run.scored[0].values[key] for run in runs]), audit.authors_of(key))
    return over_seeds_and_authors(means.at, means.seeds, means.authors, audit.confidence)


def _fraction(audit: Audit, runs: Sequence[Audited], key: str) -> Interval:
    """A metric over the baseline's on the same rows, drawn together."""
    if not all(key in run.scored[0].values for run in runs):
        base = audit.baseline.metrics[key] or math.nan
        return over_seeds([run.scored[0].metrics.get(key, math.nan) / base for run in runs], audit.confidence)
    authors = audit.authors_of(key)
    mine = Means.of(np.array([run.scored[0].values[key] for run in runs]), authors)
    base_rows = Means.of(np.array(audit.baseline.values[key]), authors)

    def ratio(s: np.ndarray, a: np.ndarray) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(mine.at(s, a) / base_rows.at(s, a))

    return over_seeds_and_authors(ratio, mine.seeds, mine.authors, audit.confidence)
