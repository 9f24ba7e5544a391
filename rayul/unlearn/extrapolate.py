"""What many rows take, from runs of a few."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

Numbers = Sequence[float]


class AtSize(NamedTuple):
    """numbers: of a run of all rows. rows: the most that were run; where these are all, nothing is extrapolated."""

    numbers: list[float]
    rows: int


def at_size(run: Callable[[int], Numbers], most: int, allowance: float, nothing: Numbers) -> AtSize:
    """The numbers that `run(most)` would give (seconds, bytes, whatever grows with rows), without running so many where
    that takes too long.

    Sizes double from 1, for as long as the next run is expected to end within the allowance (seconds for all runs
    together). Beyond the last, each number goes on along the line through the last two, and never falls. nothing: the
    numbers without any row.
    """
    begin = time.perf_counter()
    (small, before), (size, found) = (0, nothing), (1, run(1))
    took = time.perf_counter() - begin
    while size < most:
        following, spent = min(2 * size, most), time.perf_counter() - begin
        if spent + took * following / size > allowance:
            break
        small, before = size, found
        size, found = following, run(following)
        took = time.perf_counter() - begin - spent
    further = (most - size) / (size - small)
    return AtSize([b + further * max(0.0, b - a) for a, b in zip(before, found, strict=True)], size)
