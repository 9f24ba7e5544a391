"""A row stands in one set only: one that was trained on cannot judge, and one to forget cannot be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from rayul.errors import InputError
from rayul.unlearn.data.row import Sets

KEPT = ("retain_train", "retain", "retain_certify", "retain_report")
APART = ("forget", *KEPT, "general", "holdout")
"""The sets that share no row; TOFU's real_authors and world_facts are parts of general."""

SHOWN = 3


def check_apart(sets: Sets) -> None:
    """Raises InputError, with counts and the first places, where rows of two sets are the same but for capitals,
    blanks and punctuation (`Row.key`)."""
    keys = {name: [row.key for row in sets.get(name, ())] for name in APART}
    both = _shared(keys, "forget", KEPT)
    if both:
        raise InputError(
            f"{len(both)} rows to forget also stand in a set to retain: {'; '.join(both[:SHOWN])}",
            "a row cannot be both: remove it from the retain file",
        )
    for first, second in combinations(APART, 2):
        both = _shared(keys, first, [second])
        if both:
            raise InputError(
                f"{len(both)} of {len(sets[second])} {second} rows also stand in {first}: {'; '.join(both[:SHOWN])}",
                f"{_why(first, second)}: remove them from one of the two",
            )


def _shared(keys: Mapping[str, Sequence[str]], first: str, others: Sequence[str]) -> list[str]:
    """Rows that stand in both, as "forget row 2 = retain row 7"."""
    places = {key: i for i, key in reversed(list(enumerate(keys[first], 1)))}
    return [
        f"{first} row {places[key]} = {other} row {i}"
        for other in others
        for i, key in enumerate(keys[other], 1)
        if key in places
    ]


def _why(first: str, second: str) -> str:
    if second == "holdout":
        return "holdout rows are those that no model was trained on"
    if first == "forget":
        return "what is to be forgotten cannot show what is kept"
    if "retain_certify" in (first, second):
        return "rows that anything else reads certify nothing"
    if first == "retain_train":
        return "rows that are trained on cannot judge what is kept"
    return "rows that choose a point cannot also judge it"
