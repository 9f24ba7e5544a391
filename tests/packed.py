"""A pack turned as a device turns it, until there is news."""

from __future__ import annotations

from collections.abc import Collection

from rayul.unlearn.pack.pack import Event, Pack


def advance(pack: Pack, waiting: Collection[int] = ()) -> list[Event]:
    """Turns until some trials have something to report; empty when there is nothing to train."""
    while pack.running(waiting):
        events = pack.turn(waiting)
        if events:
            return events
    return []
