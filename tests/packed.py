"""A pack driven by hand, without a device."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def advance(pack: Any, waiting: Collection[int] = ()) -> list[Any]:
    """Turns until some trials have something to report. Empty when there is nothing to train."""
    while pack.running(waiting):
        events: list[Any] = pack.turn(waiting)
        if events:
            return events
    return []
