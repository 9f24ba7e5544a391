"""Model mixing ("unlearning with control", UWC): the largest share of the update that keeps the criteria.

The mixed model is (1 - a) * baseline + a * unlearned (arXiv 2406.09179, section 5); `Update.mixed` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import NamedTuple

GRID = (0.75, 0.5, 0.25)
BISECTIONS = 3
"""Seven evaluations at the most; the result is within 1/32 of the largest feasible a when the curve is monotone."""


class Calibration(NamedTuple):
    """mixing: the largest feasible a found (0: only the baseline keeps the criteria, which it does by definition).
    tried: every a evaluated with its total violation, in order of evaluation.
    monotone: whether the violation never falls as a grows; where it does, a larger feasible a may exist in a gap."""

    mixing: float
    tried: tuple[tuple[float, float], ...]
    monotone: bool


def calibrate(
    violation: Callable[[float], float], grid: Sequence[float] = GRID, bisections: int = BISECTIONS
) -> Calibration:
    """Find the largest a in [0, 1] with violation(a) <= 0.

    `violation(a)`: total violation of the criteria with the update scaled by a (0 = all kept). Tries a = 1 first, then
    the grid, then bisects between the largest feasible value and the next infeasible one.
    """
    rounds = calibration(grid, bisections)
    wanted = next(rounds)
    while True:
        try:
            wanted = rounds.send([violation(a) for a in wanted])
        except StopIteration as end:
            result: Calibration = end.value
            return result


def calibration(
    grid: Sequence[float] = GRID, bisections: int = BISECTIONS
) -> Generator[Sequence[float], Sequence[float], Calibration]:
    """`calibrate` in rounds: yields the coefficients to try, which may be evaluated at once, and is sent their
    violations."""
    tried: dict[float, float] = {}
    tried[1.0] = (yield (1.0,))[0]
    if tried[1.0] <= 0:
        return Calibration(1.0, tuple(tried.items()), True)
    low, high = 0.0, 1.0
    falling = sorted(grid, reverse=True)
    tried.update(zip(falling, (yield falling), strict=True))
    for a in falling:
        if tried[a] <= 0 and low == 0.0:
            low = a
        elif low == 0.0:
            high = a
    for _ in range(bisections):
        middle = (low + high) / 2
        tried[middle] = (yield (middle,))[0]
        if tried[middle] <= 0:
            low = middle
        else:
            high = middle
    ordered = [tried[a] for a in sorted(tried)]
    monotone = all(b >= a - 1e-9 for a, b in pairwise(ordered))
    return Calibration(low, tuple(tried.items()), monotone)


def calibrations(targets: int) -> Generator[Sequence[float], Sequence[Sequence[float]], list[Calibration]]:
    """Several calibrations of one model: a coefficient that more than one of them asks for is measured once.

    Yields the coefficients to try, and is sent for each of them its violation by target.
    """
    known: dict[float, Sequence[float]] = {}
    rounds = [calibration() for _ in range(targets)]
    asked = {i: next(one) for i, one in enumerate(rounds)}
    found: dict[int, Calibration] = {}
    while asked:
        new = tuple(dict.fromkeys(a for wanted in asked.values() for a in wanted if a not in known))
        if new:
            known.update(zip(new, (yield new), strict=True))
        for i, wanted in list(asked.items()):
            try:
                asked[i] = rounds[i].send([known[a][i] for a in wanted])
            except StopIteration as end:
                found[i] = end.value
                del asked[i]
    return [found[i] for i in range(targets)]
