"""A row stands in one set only, and so do the rows of a group: what was trained on cannot judge, and what is to be
forgotten cannot be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from rayul.errors import InputError
from rayul.spec import is_certify_set, is_forget_set, is_report_set
from rayul.unlearn.data.row import Sets
from rayul.words import plural

KEPT = ("retain_train", "retain", "retain_certify", "retain_report")
APART = ("forget", *KEPT, "general", "holdout")
"""The sets that share no row; TOFU's real_authors and world_facts are parts of general."""

WHOLE = tuple(name for name in APART if name != "holdout")
"""The sets that share no group. Holdout rows may be about anybody: no model was trained on them, and none is judged by
what it keeps of them."""

SHOWN = 3

Shared = tuple[tuple[str, int], tuple[str, int]]
"""A row that stands in two sets, as (set, number from 1) of each."""


def check_apart(sets: Sets) -> None:
    """Raises InputError, with counts and the first places, where rows of two sets are the same but for capitals,
    blanks and punctuation (`Row.key`), or of one group."""
    keys = _keys(sets, *APART)
    both = _shared(keys, "forget", KEPT)
    if both:
        stand = "row to forget also stands" if len(both) == 1 else "rows to forget also stand"
        raise InputError(
            f"{len(both)} {stand} in a set to retain: {_shown(sets, both)}",
            "a row cannot be both: remove it from the retain file, or, where one file has all rows, take those to "
            "forget with `where` and leave them out of the others with `unless`",
        )
    for first, second in combinations(APART, 2):
        both = _shared(keys, first, [second])
        if both:
            raise InputError(
                _also(sets, both, first, second), f"{_why(first, second)}: remove them from one of the two"
            )
    for first, second in combinations(WHOLE, 2):
        _check_groups(sets, first, second)


def _check_groups(sets: Sets, first: str, second: str) -> None:
    there = {row.group for row in sets.get(second, ())}
    both = [group for group in dict.fromkeys(row.group for row in sets.get(first, ())) if group and group in there]
    if both:
        places = [" and ".join(_first(sets, name, group) for name in (first, second)) for group in both]
        count = f"{plural(len(both), 'group')} {'has' if len(both) == 1 else 'have'}"
        raise InputError(
            f"{count} rows in {first} and in {second}: {'; '.join(places[:SHOWN])}",
            f"{_why(first, second)}: move the rows of a group to one set. If the column does not say who or what "
            "a row is about, name another as columns.group, or null for none",
        )


def place_of(sets: Sets, name: str, number: int) -> str:
    """The file and line that a row of a set comes from, where they are known, else its number, counted from 1."""
    place = sets[name][number - 1].place
    return f"{place} ({name})" if place else f"{name} row {number}"


def _first(sets: Sets, name: str, group: str) -> str:
    return place_of(sets, name, next(i for i, row in enumerate(sets[name], 1) if row.group == group))


def check_probes_apart(sets: Sets, probed: Sets) -> None:
    """Raises InputError, as `check_apart` does, for a probe with rows of the data that it must not share: rows that are
    trained on or to be forgotten cannot show what is kept, and nothing steers by those that certify or report. A probe
    of rows to forget may share those, and a probe of others what steers anyway. Rows of a probe that are held back
    share none with any other set, and those that certify no group with the data."""
    both = {**sets, **probed}
    for name in probed:
        others: tuple[str, ...] = ("forget", "retain_train", "retain_certify", "retain_report")
        if is_forget_set(name):
            others = KEPT
        if _is_held_back(name):
            others = tuple(other for other in (*APART, *probed) if other != name)
        for other in others:
            if shared := _shared(_keys(both, other, name), other, [name]):
                why = f"{_why(other, name)}: remove them from one of the two"
                raise InputError(_also(both, shared, other, name), why)
        if is_certify_set(name):
            for other in WHOLE:
                _check_groups(both, other, name)


def _keys(sets: Sets, *names: str) -> dict[str, list[str]]:
    return {name: [row.key for row in sets.get(name, ())] for name in names}


def _is_held_back(name: str) -> bool:
    return is_certify_set(name) or is_report_set(name)


def _shared(keys: Mapping[str, Sequence[str]], first: str, others: Sequence[str]) -> list[Shared]:
    places = {key: i for i, key in reversed(list(enumerate(keys[first], 1)))}
    return [
        ((first, places[key]), (other, i)) for other in others for i, key in enumerate(keys[other], 1) if key in places
    ]


def _shown(sets: Sets, both: Sequence[Shared]) -> str:
    """The first of them, as "forget.jsonl:2 (forget) = rows.csv:7 (retain)"."""
    return "; ".join(f"{place_of(sets, *one)} = {place_of(sets, *other)}" for one, other in both[:SHOWN])


def _also(sets: Sets, both: Sequence[Shared], first: str, second: str) -> str:
    stand = "stands" if len(both) == 1 else "stand"
    return f"{len(both)} of {len(sets[second])} {second} rows also {stand} in {first}: {_shown(sets, both)}"


def _why(first: str, second: str) -> str:
    if second == "holdout":
        return "holdout rows are those that no model was trained on"
    if first == "forget":
        return "what is to be forgotten cannot show what is kept"
    if is_forget_set(second):
        return "a row cannot be both to forget and to retain"
    if is_certify_set(first) or is_certify_set(second):
        return "rows that anything else reads certify nothing"
    if first == "retain_train":
        return "rows that are trained on cannot judge what is kept"
    return "rows that choose a point cannot also judge it"
