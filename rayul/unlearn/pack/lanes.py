"""Who shares a forward: the slots' rows of a set, dealt out to forwards of one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayul.unlearn.pack.packable import Shape

Lane = tuple[int, list[int]]
"""A slot and at most `Shape.rows` rows of it; without rows, a lane that nothing reads."""


def forwards(wanted: Mapping[int, list[int]], shape: Shape, widths: Sequence[int] = ()) -> list[list[Lane]]:
    """The lanes of each forward: a place for every slot, or, in groups, as few forwards as hold all rows.

    wanted: rows by slot. A slot's rows come in their order. widths: numbers of lanes that a forward of a group may have
    in place of `Shape.group`, the largest first and 1 the last: none stays empty then.
    """
    size, longest = shape.rows, max(map(len, wanted.values()), default=0)
    rounds = [
        {k: rows[begin : begin + size] for k, rows in wanted.items() if begin < len(rows)}
        for begin in range(0, longest, size)
    ]
    if shape.group is None:
        return [[(k, chunks.get(k, [])) for k in range(shape.slots)] for chunks in rounds]
    pieces = [piece for chunks in rounds for piece in chunks.items()]
    if widths:
        return _dealt(pieces, widths)
    groups = [pieces[begin : begin + shape.group] for begin in range(0, len(pieces), shape.group)]
    # Those of the last forward that stay empty follow a slot that is in it: none but its own rows see it.
    return [[*lanes, *[(lanes[-1][0], [])] * (shape.group - len(lanes))] for lanes in groups]


def _dealt(pieces: Sequence[Lane], widths: Sequence[int]) -> list[list[Lane]]:
    found, begin = [], 0
    while begin < len(pieces):
        width = next(width for width in widths if width <= len(pieces) - begin)
        found.append(list(pieces[begin : begin + width]))
        begin += width
    return found
