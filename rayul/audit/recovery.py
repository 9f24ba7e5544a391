"""How much attacks on certified weights bring back of what was forgotten: shares, and steps to half of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rayul.records.attacked import FINE_TUNE, INTERPOLATE, Attacked


@dataclass(frozen=True)
class Recovery:
    """The worst line of an attack. returned: of what had been forgotten of the judged rows, the largest share that is
    back at any look (0: nothing; 1: all; NaN where nothing had been forgotten). at: where that was; half: the first
    look with half of it back, None where that was never reached. tried: how many lines the attack has."""

    row: Attacked
    returned: float
    at: int
    half: int | None
    tried: int

    @property
    def after(self) -> float:
        return self.row.es[self.row.at.index(self.at)]


def shares(row: Attacked) -> list[float]:
    """At each look, (es - before) / (baseline - before): the share of what was forgotten that is back."""
    gone = row.baseline - row.before
    return [(es - row.before) / gone if gone > 1e-9 else math.nan for es in row.es]


def recovery(row: Attacked, tried: int = 1) -> Recovery:
    """Of one line that was measured."""
    back = shares(row)
    worst = max(range(len(back)), key=lambda i: row.es[i])
    half = next((at for at, share in zip(row.at, back, strict=True) if share >= 0.5 - 1e-9), None)
    return Recovery(row, back[worst], row.at[worst], half, tried)


def recoveries(rows: Sequence[Attacked]) -> list[Recovery]:
    """The worst line of each attack of one model, and of fine-tuning of each kind of rows; what returns most first, and
    interpolation last: its way always ends at everything. Lines without a measurement are left out."""
    kinds: dict[tuple[str, str], list[Attacked]] = {}
    for row in rows:
        if row.es:
            kinds.setdefault(kind(row), []).append(row)
    worst = [max((recovery(row, len(lines)) for row in lines), key=_sortable) for lines in kinds.values()]
    return sorted(worst, key=lambda one: (one.row.attack != INTERPOLATE, _sortable(one)), reverse=True)


def kind(row: Attacked) -> tuple[str, str]:
    """What is told of on its own: an attack, and of fine-tuning the rows that the attacker has."""
    return (row.attack, row.variant.partition(",")[0] if row.attack == FINE_TUNE else "")


def _sortable(one: Recovery) -> float:
    return -math.inf if math.isnan(one.returned) else one.returned
