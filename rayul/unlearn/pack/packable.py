"""Which trials may share a pack, and the shape that a pack needs for them."""

from __future__ import annotations

from math import ceil, gcd
from typing import Any, NamedTuple

from rayul.spec import Choice, Float, Int, Spec

CPU_ROWS = 8
"""Rows that fill a forward on a core. On the testbed (packs.py) a core trains 163, 188 and 196 rows a second at 4, 8
and 16 rows a forward; what a wider one would gain, lanes without a trial would lose again."""


class Shape(NamedTuple):
    """The shapes of a pack. They are part of a result: at equal shapes, dtype and threads it is the same to the bit.

    slots: K. rank: the largest a trial may have. rows: of each slot in one forward; a larger batch takes several
    forwards, a smaller one leaves rows unused. lanes: adapters evaluated in one forward. group: slots in one forward of
    training; where they are all (None), each has its place there, whether it has rows of the set or not.
    compiled: whether its forwards are; `resources.compile` asks for it, or leaves it to who chooses the pack.
    """

    slots: int
    rank: int
    rows: int
    lanes: int = 1
    group: int | None = None
    compiled: bool = False

    @classmethod
    def of(cls, spec: Spec, slots: int, *, cpu: bool) -> Shape:
        """For all trials of a sweep: the largest rank; the number of rows that divides every batch size. On a CPU
        groups that just fill a forward: a lane without rows costs as much there as one with. (Where more lanes are seen
        to give the same bits, forwards have more: `widths`.)"""
        sizes = _values(spec.training.micro_batch_size or spec.training.batch_size)
        shape = cls(slots, max(_values(spec.lora.r)), gcd(*sizes), compiled=spec.resources.compile is True)
        group = ceil(CPU_ROWS / shape.rows)
        return shape._replace(group=min(group, slots)) if cpu else shape

    def __str__(self) -> str:
        group = f", {self.group} together" if self.group else ""
        compiled = ", compiled" if self.compiled else ""
        lanes = f"{self.lanes} evaluated at a time{compiled}"
        return f"{self.slots} slots of {self.rows} rows{group}, rank {self.rank}, {lanes}"

    def smaller(self) -> Shape | None:
        """Half the slots; with one slot half the rows, so a batch takes twice the forwards. None below that."""
        if self.slots > 1:
            slots = (self.slots + 1) // 2
            return self._replace(slots=slots, group=min(self.group, slots) if self.group else None)
        return self._replace(rows=(self.rows + 1) // 2) if self.rows > 1 else None


def packable(a: Spec, b: Spec) -> str | None:
    """Why these two trials cannot share a pack, or None. `packable(a, a)`: why `a` cannot be in any pack."""
    for spec in (a, b):
        if spec.update_kind.alone:
            return f"update: {spec.update}: {spec.update_kind.alone}"
    for what, ours, theirs in (
        ("model", a.model, b.model),
        ("update", a.update, b.update),
        ("lora.target_modules", a.lora.target_modules, b.lora.target_modules),
        ("lora.layers", a.lora.layers, b.lora.layers),
        ("data", a.data, b.data),
        ("probes", a.probes, b.probes),
        ("evaluate", a.evaluate, b.evaluate),
    ):
        if ours != theirs:
            return f"{what} differs: {ours} and {theirs}"
    return None


def _values(value: Any) -> list[int]:
    """Every whole number that a leaf of a spec may become."""
    if isinstance(value, Choice):
        return [int(option) for option in value.options if option is not None]
    if isinstance(value, Int):
        return list(range(value.low, value.high + 1, value.step))
    if isinstance(value, Float):
        raise TypeError(f"{value} is not a whole number")
    return [int(value)]
