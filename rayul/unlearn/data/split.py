"""Splitting rows into parts that share nothing."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from rayul.unlearn.data.row import Row


def split_by_group(
    rows: Sequence[Row], fractions: Sequence[float], shuffled: bool = False, seed: str = ""
) -> list[list[Row]]:
    """Split rows into parts, in their order or with the groups shuffled. All rows of a group stay in one part, and so
    do rows that are the same but for capitals, blanks and punctuation: a judging set must not hold what was trained on.

    The shuffled order is that of the groups' hashes, with the seed, so that it depends on no file's order.
    """
    parts: list[list[Row]] = [[] for _ in fractions]
    bounds = [sum(fractions[: i + 1]) * len(rows) for i in range(len(fractions))]
    done, part = 0, 0
    groups, last = _groups(rows), len(fractions) - 1
    if shuffled:
        groups.sort(key=lambda group: _hash(group, seed))
    for i, group in enumerate(groups):
        # A group goes where its middle falls, but no part is left empty while there are groups enough for all.
        scarce = len(groups) - i <= last - part
        if parts[part] and part < last and (scarce or done + len(group) / 2 > bounds[part]):
            part += 1
        parts[part] += group
        done += len(group)
    return parts


def _hash(group: Sequence[Row], seed: str) -> bytes:
    return sha256((seed + repr(group[0].group or group[0].key)).encode()).digest()


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that have to stay together, in the order of their first rows."""
    root: dict[object, object] = {}

    def find(node: object) -> object:
        while root.setdefault(node, node) != node:
            node = root[node]
        return node

    for i, row in enumerate(rows):
        # In this order: the group of the first row stays the root, so equal rows do not change the order of groups.
        members = [("group", row.group) if row.group else ("row", i), ("text", row.key)]
        first, second = find(members[0]), find(members[1])
        root[second] = first
    groups: dict[object, list[Row]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(find(("group", row.group) if row.group else ("row", i)), []).append(row)
    return list(groups.values())
