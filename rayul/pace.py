"""How long work takes: what is left, from what was done so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping


class TimeLeft:
    """Seconds until a piece of work is done, from the shares of it that were done at several moments."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None
        self.latest = (0.0, 0.0)

    def add(self, now: float, done: float) -> None:
        """now: in seconds, of any clock. done: in [0, 1]. What was done at the first call is left out of the pace: an
        earlier run did it."""
        if self.first is None or done < self.latest[1]:
            self.first = self.latest = (now, done)
        elif done > self.latest[1]:
            self.latest = (now, done)

    def at(self, now: float) -> float | None:
        """None while there is nothing to go by: before a second share, and when the next one takes longer than all that
        was left. Between two shares it is counted down."""
        if self.first is None or self.latest[1] <= self.first[1]:
            return None
        seconds, share = self.latest[0] - self.first[0], self.latest[1] - self.first[1]
        left = seconds / share * (1 - self.latest[1]) - (now - self.latest[0])
        return left if left > 0 else None


class Work:
    """The share that is done of work of several kinds, where a unit of a kind takes about as long as the next.

    units: by kind, all that there is to do. guess: by kind, what a unit costs beside those of other kinds, for kinds of
    which none is done yet; 1 for those without a guess.
    """

    def __init__(self, units: Mapping[str, float], guess: Mapping[str, float] | None = None) -> None:
        self.units, self.guess = units, dict.fromkeys(units, 1.0) | dict(guess or {})
        self.done: defaultdict[str, float] = defaultdict(float)
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, kind: str, units: float, seconds: float) -> None:
        """So many units of a kind are done now, and took so many seconds."""
        self.done[kind] += units
        self.seconds[kind] += seconds

    @property
    def count(self) -> float:
        """Units that are done, of all kinds."""
        return sum(self.done.values())

    @property
    def share(self) -> float:
        """In [0, 1], of the seconds that all of it takes."""
        spent = sum(self.seconds.values())
        guessed = sum(self.guess[kind] * units for kind, units in self.done.items())
        if not spent or not guessed:
            return 0.0
        left = 0.0
        for kind, units in self.units.items():
            price = self.seconds[kind] / self.done[kind] if self.done[kind] else self.guess[kind] * spent / guessed
            left += price * (units - self.done[kind])
        return spent / (spent + left)
