"""Rows that say nearly the same: of those to forget, the ones that rows of another set come close to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rayul.unlearn.data.row import Row

LENGTH = 3
"""Words of a shingle."""

ALIKE = 0.6
"""Similarity from which two rows count as nearly the same. Of TOFU's forget10 rows none reaches 0.4 with any row of
another set, and of the testbed's, whose questions are templates, none reaches 0.5."""

MOST_ROWS, MOST_WORDS, MOST_PLACES = 5_000, 300, 50
"""Rows of a set and words of a row that are compared, and forget rows that a shingle is looked up in: a shingle of more
of them is a phrase of the data set. They bound the cost at a few seconds, whatever the files hold."""


class Pair(NamedTuple):
    """A forget row and the row of a set that is most like it, both counted from 1; similarity in [0, 1]."""

    forget: int
    set_name: str
    row: int
    similarity: float


def nearly_same(sets: Mapping[str, Sequence[Row]], others: Sequence[str]) -> list[Pair]:
    """For each forget row the row of the other sets that is most like it, where one is nearly the same.

    The similarity is the Jaccard index of the rows' sets of shingles, runs of three words of `Row.key` (Broder, "On the
    resemblance and containment of documents", 1997).
    """
    forget = dict(_shingles(sets["forget"]))
    places: dict[tuple[str, ...], list[int]] = {}
    for i, shingles in forget.items():
        for shingle in shingles:
            places.setdefault(shingle, []).append(i)
    best: dict[int, Pair] = {}
    for name in others:
        for j, shingles in _shingles(sets.get(name, ())):
            found = (places.get(shingle, ()) for shingle in shingles)
            shared = Counter(i for rows in found if len(rows) <= MOST_PLACES for i in rows)
            for i in shared:
                both = len(shingles & forget[i])
                similarity = both / (len(shingles) + len(forget[i]) - both)
                if similarity >= ALIKE and (i not in best or similarity > best[i].similarity):
                    best[i] = Pair(i, name, j, similarity)
    return [best[i] for i in sorted(best)]


def _shingles(rows: Sequence[Row]) -> Iterator[tuple[int, frozenset[tuple[str, ...]]]]:
    """(row from 1, its shingles) of evenly spaced rows; a row of fewer words is one shingle."""
    count = min(len(rows), MOST_ROWS)
    for place in range(count):
        i = place * len(rows) // count
        words = rows[i].key.split()[:MOST_WORDS]
        starts = range(max(1, len(words) - LENGTH + 1))
        yield i + 1, frozenset(tuple(words[start : start + LENGTH]) for start in starts)
