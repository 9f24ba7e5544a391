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
    Spec,
    TofuData,
    certifiable,
    certify_of,
    check_certifiable,
    is_certify_set,
    known_limits,
    sets_to_certify,
    uncertified,
)
from rayul.words import plural

if TYPE_CHECKING:
    from rayul.unlearn.data import Sets


class CertifyRows(NamedTuple):
    """What is kept for the certificate of a set. grouped: whether any row names a group."""

    groups: int
    rows: int
    grouped: bool = True


Kept = Mapping[str, CertifyRows]
"""By certify set."""


def kept_of(spec: Spec, sets: Sets | None) -> Kept | None:
    """From the rows, or where they are not read (`local_sets`) from what the spec says of them; None where that says
    nothing of a set that has a limit."""
    if sets is not None:
        return kept_in(sets)
    data, found = spec.data, {}
    if isinstance(data, TofuData):
        authors = data.judging_authors.get("retain_certify", 0)
        found["retain_certify"] = CertifyRows(authors, 20 * authors)
    elif isinstance(data, FolderData) and data.folder == TESTBED:
        found["retain_certify"] = CertifyRows(TESTBED_GROUPS, 5 * TESTBED_GROUPS)
    return found if all(certify_of(name) in found for name in sets_to_certify(spec)) else None


def kept_in(sets: Sets) -> Kept:
    """Of rows that are read."""
    from rayul.unlearn.data import group_numbers

    return {
        name: CertifyRows(len(set(group_numbers(rows))), len(rows), any(row.group for row in rows))
        for name, rows in sets.items()
        if is_certify_set(name)
    }


def certificate_told(spec: Spec, sets: Sets | None) -> tuple[str, ...]:
    """What `rayul validate` says: `certificate_lines` from the spec and the rows, where they are read. Raises
    InputError for too few groups."""
    kept = kept_of(spec, sets) if spec.certify is not None else None
    if kept is None:
        return ()
    check_certifiable(spec, groups_of(kept))
    return tuple(certificate_lines(spec, kept, {}))


def groups_of(kept: Kept) -> dict[str, int]:
    return {name: rows.groups for name, rows in kept.items()}


def certificate_lines(
    spec: Spec,
    kept: Kept,
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
    every = [spec.criteria_at(tau) for tau in spec.targets] or [spec.criteria]
    known = dict.fromkeys(limit for criteria in every for limit in known_limits(criteria))
    limits, _ = certifiable(spec, known)
    for probe in uncertified(spec):
        yield (
            f"limits on the rows to keep of {probe} are not certified, since the search reads all of them: "
            f"{probe}.split holds some back"
        )
    if not limits:
        yield "no limit on rows that have certify rows is set, so there is nothing to certify"
    for limit in limits:
        own = kept[certify_of(limit.set_name)]
        share = _share(limit, baseline)
        metric = spec.evaluate.of(limit.metric.partition(".")[2])
        if share is None or metric is None or not metric.bounded:
            yield f"what it takes to certify {limit} is not known: how groups spread in it has to be seen first"
            continue
        measured = seen(limit.metric, share)
        spread, alpha = measured or PRIOR, (1 - asked.confidence) / spec.certified_points
        halfway = (1 + share) / 2
        aim, enough = needed_share(share, own.groups, alpha, spread), needed_groups(halfway, share, alpha, spread)
        yield (
            f"{plural(own.groups, 'group')}{_of(limit)}: aim for {_percent(aim)} of {limit.metric} to certify "
            f"{_percent(share)}; {enough:,} groups are enough for a point that keeps {_percent(halfway)}"
        )
        yield (
            f"(to pass with {POWER:.0%} power, {plural(spec.certified_points, 'point')} sharing {asked.confidence:.0%} "
            f"confidence; groups have a standard deviation of {spread.sd:.2g} at {_percent(spread.at)}, "
            f"{'as seen in earlier sweeps' if measured else 'a guess until rows are measured'})"
        )
    for name in dict.fromkeys(limit.set_name for limit in limits):
        own = kept[certify_of(name)]
        if own.rows and not own.grouped:
            column = "data.columns.group" if name == "retain" else "columns.group of its source"
            where = "" if name == "retain" else f" of {name}"
            yield f"no row{where} names a group ({column}): this assumes that rows are independent"


def _of(limit: Limit) -> str:
    return "" if limit.set_name == "retain" else f" of {limit.set_name}"


def _share(limit: Limit, baseline: Mapping[str, float]) -> float | None:
    """The share of the baseline that the limit keeps; None for one that is no share below all of it."""
    base = baseline.get(limit.metric, 1.0)  # of a share, such as extraction strength, the most there is
    share = limit.at if limit.relative else limit.value / base if base > 0 else math.nan
    return share if limit.at_least and 0 < share < 1 else None


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
