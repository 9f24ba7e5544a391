"""What the models that a report names still recall, by group and in words: computed here, rendered by page, card,
terminal and comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import mul
from typing import NamedTuple

from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.recall import Counted, Recall, Sample, recall_of
from rayul.report.certified import certified
from rayul.words import percent, plural

TITLES = {
    "forget": "to forget",
    "retain": "to keep (select rows)",
    "retain_report": "to keep (report rows)",
    "general": "general",
}
MOST_GROUPS = 100
"""Groups of a set in the page; recall.json has them all."""


class Change(NamedTuple):
    """Rows, of one group or of a whole set, before and after. name: of the group. number: its place in recall.json,
    from 1. es: mean extraction strength in [0, 1]. verbatim: number of rows that come back word for word."""

    name: str
    number: int
    rows: int
    es_before: float
    es_after: float
    verbatim_before: int
    verbatim_after: int


@dataclass(frozen=True)
class RecalledSet:
    """One set. groups: those that the rows name, what is worst first: of rows to forget where most is left, of others
    where most is lost."""

    set: str
    title: str
    whole: Change
    groups: list[Change]

    @property
    def order(self) -> str:
        """Of the groups."""
        return "most left first" if self.set == "forget" else "most lost first"

    @property
    def worst(self) -> Change | None:
        """The group in which most is left or lost; None where no rows name a group."""
        return self.groups[0] if self.groups else None


@dataclass(frozen=True)
class Recalled:
    """One model. what: "the certified point" or "the search's own best"."""

    what: str
    e: Evaluation
    sets: list[RecalledSet]
    samples: Sequence[Sample]


def recalled(results: SweepRecords, best: Evaluation | None) -> list[Recalled]:
    """Of the best certified point and of the search's own best, as far as they were measured by group."""
    named = [("the certified point", one.e) for one in certified(results)[:1]]
    if best is not None and best.key not in [e.key for _, e in named]:
        named.append(("the search's own best", best))
    found = [(what, e, recall_of(results.folder, e)) for what, e in named]
    return [Recalled(what, e, sets_of(recall), recall.samples) for what, e, recall in found if recall is not None]


def with_samples(one: Recalled, most: int | None) -> Recalled:
    """With at most so many samples of each set; None: all of them. With 0 it is for people who may not see whom the
    rows are about either, and has no names."""
    if most is None:
        return one
    if most == 0:
        return replace(unnamed(one), samples=())
    by_set: dict[str, list[Sample]] = {}
    for sample in one.samples:
        by_set.setdefault(sample.set, []).append(sample)
    return replace(one, samples=[sample for own in by_set.values() for sample in own[:most]])


def unnamed(one: Recalled) -> Recalled:
    """With numbers in place of the names of groups, which are private like the rows: they are of those whom a model is
    to forget. A number counts within its set, as in recall.json, so the set's name stands before it."""
    sets = [
        replace(own, groups=[change._replace(name=f"{own.set} group {change.number}") for change in own.groups])
        for own in one.sets
    ]
    return replace(one, sets=sets)


def as_asked(one: Recalled) -> Recalled:
    """For terminals, logs and comparisons: names of groups only where the sweep was asked for samples of its rows."""
    return one if one.samples else unnamed(one)


def sets_of(recall: Recall) -> list[RecalledSet]:
    """The sets in the order of TITLES, then any other."""
    names = [*(name for name in TITLES if name in recall.after), *(name for name in recall.after if name not in TITLES)]
    return [_set(name, recall.before[name], recall.after[name]) for name in names]


def _set(name: str, before: Counted, after: Counted) -> RecalledSet:
    numbers = range(1, len(after.groups) + 1)
    columns = zip(after.groups, numbers, after.rows, before.es, after.es, before.verbatim, after.verbatim, strict=True)
    groups = [Change(*row) for row in columns]
    rows = sum(after.rows)
    was, is_ = (sum(map(mul, one.rows, one.es)) / rows for one in (before, after))
    whole = Change("", 0, rows, was, is_, before.verbatim_count, after.verbatim_count)
    named = [group for group in groups if group.name]
    named.sort(key=lambda group: _badness(name, group), reverse=True)
    return RecalledSet(name, TITLES.get(name, name), whole, named)


def _badness(name: str, group: Change) -> tuple[float, float]:
    if name == "forget":
        return group.es_after, group.verbatim_after / group.rows
    return group.es_before - group.es_after, (group.verbatim_before - group.verbatim_after) / group.rows


def recalled_lines(one: Recalled) -> list[str]:
    """In sentences."""
    lines = []
    for found in one.sets:
        all_, worst = found.whole, found.worst
        if found.set == "forget":
            come = "comes" if all_.verbatim_after == 1 else "come"
            line = (
                f"{all_.verbatim_after} of the {plural(all_.rows, 'row')} to forget still {come} back word for word "
                f"({all_.verbatim_before} did before)"
            )
            if worst is not None and worst.verbatim_after > 0:
                line += f"; most is left of {worst.name}: {_told(worst)}"
            left = sum(group.verbatim_after > 0 for group in found.groups)
            if left:
                have = "has" if left == 1 else "have"
                line += f". {left} of {plural(len(found.groups), 'group')} still {have} such a row"
        else:
            line = (
                f"Of {plural(all_.rows, 'row')} {'of general knowledge' if found.set == 'general' else found.title}, "
                f"{all_.verbatim_after} come back word for word ({all_.verbatim_before} did before)"
            )
            if worst is not None and worst.es_after < worst.es_before:
                line += f"; most is lost of {worst.name}: {_told(worst)}"
        lines.append(line + ".")
    return lines


def _told(group: Change) -> str:
    return f"{group.verbatim_after} of {group.rows} (before: {group.verbatim_before})"


def cells(change: Change) -> tuple[str, str, str]:
    """Of a row of a table: number of rows; how many come back word for word, before and after; es before and after, as
    shares of the answers' text."""
    return (
        str(change.rows),
        f"{change.verbatim_before} → {change.verbatim_after}",
        f"{percent(change.es_before)} → {percent(change.es_after)}",
    )
