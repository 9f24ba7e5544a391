"""What a sweep's certificate will be able to show, before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from rayul.pareto.power import POWER, PRIOR, Spread, needed_groups, needed_share
from rayul.spec import (
    TESTBED,
    TESTBED_GROUPS,
    FolderData,
    Limit,
    Source,
    Spec,
    TofuData,
    check_certifiable,
    known_limits,
)
from rayul.spec.source import find
from rayul.words import plural

if TYPE_CHECKING:
    from rayul.unlearn.data import Sets


class CertifyRows(NamedTuple):
    """What is kept for the certificate. grouped: whether any row names a group. shared: number of groups that have rows
    in other sets too."""

    groups: int
    rows: int
    grouped: bool = True
    shared: int = 0


def kept_of(spec: Spec) -> CertifyRows | None:
    """From the spec and files of this machine alone; None where the rows are elsewhere. Raises what `load_sets`
    raises."""
    data = spec.data
    if isinstance(data, TofuData):
        authors = data.judging_authors.get("retain_certify", 0)
        return CertifyRows(authors, 20 * authors)
    if isinstance(data, FolderData):
        if data.folder == TESTBED:
            return CertifyRows(TESTBED_GROUPS, 5 * TESTBED_GROUPS)
    else:
        sources = [value for _, value in data if isinstance(value, Source)]
        if not all((place := find(source.path)) and place.is_file() for source in sources):
            return None
    from rayul.unlearn.data import load_sets

    return kept_in(load_sets(data))


def kept_in(sets: Sets) -> CertifyRows:
    """Of rows that are read."""
    from rayul.unlearn.data import group_numbers

    rows = sets.get("retain_certify", ())
    elsewhere = {row.group for key, others in sets.items() if key != "retain_certify" for row in others}
    named = {row.group for row in rows} - {""}
    return CertifyRows(len(set(group_numbers(rows))), len(rows), bool(named), len(named & elsewhere))


def certifiable(spec: Spec) -> tuple[str, ...]:
    """What `rayul validate` says: `certificate_lines` from the spec and this machine's files alone. Raises InputError
    for rows that cannot be read, and for too few groups."""
    kept = kept_of(spec) if spec.certify is not None else None
    if kept is None:
        return ()
    check_certifiable(spec, kept.groups)
    return tuple(certificate_lines(spec, kept, {}))


def certificate_lines(
    spec: Spec,
    kept: CertifyRows,
    baseline: Mapping[str, float],
    seen: Callable[[str, float], Spread | None] = lambda metric, share: None,
) -> Iterator[str]:
    """What can be certified, a sentence for each limit; nothing where no certificate is asked for.

    baseline: metrics before unlearning, as far as they are known. seen: the spread of the groups of models that keep
    about this share of a metric, None where none were seen.
    """
    asked = spec.certify
    if asked is None:
        return
    limits = [limit for limit in known_limits(spec.criteria) if limit.metric.startswith("retain.")]
    if not limits:
        yield "no limit on retain rows is set, so there is nothing to certify"
    for limit in limits:
        share = _share(limit, baseline)
        metric = spec.evaluate.of(limit.metric.partition(".")[2])
        if share is None or metric is None or not metric.bounded:
            yield f"what it takes to certify {limit} is not known: how groups spread in it has to be seen first"
            continue
        known = seen(limit.metric, share)
        spread, alpha, halfway = known or PRIOR, (1 - asked.confidence) / asked.points, (1 + share) / 2
        aim, enough = needed_share(share, kept.groups, alpha, spread), needed_groups(halfway, share, alpha, spread)
        yield (
            f"{plural(kept.groups, 'group')}: aim for {_percent(aim)} of {limit.metric} to certify {_percent(share)}; "
            f"{enough:,} groups would do for a point that keeps {_percent(halfway)}"
        )
        yield (
            f"(to pass with {POWER:.0%} power, {plural(asked.points, 'point')} sharing {asked.confidence:.0%} "
            f"confidence; groups spread by {spread.sd:.2g} at {_percent(spread.at)}, "
            f"{'as seen in earlier sweeps' if known else 'a prior until rows are seen'})"
        )
    if kept.shared:
        yield (
            f"{kept.shared:,} of {plural(kept.groups, 'group')} also have rows in other sets: a certificate speaks of "
            "groups that nothing else has seen"
        )
    if kept.rows and not kept.grouped:
        yield "no row names a group (data.columns.group): this assumes that rows are independent"


def _share(limit: Limit, baseline: Mapping[str, float]) -> float | None:
    """The share of the baseline that the limit keeps; None for one that is no share below all of it."""
    base = baseline.get(limit.metric, 1.0)  # of a share, such as extraction strength, the most there is
    share = limit.at if limit.relative else limit.value / base if base > 0 else math.nan
    return share if limit.at_least and 0 < share < 1 else None


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
