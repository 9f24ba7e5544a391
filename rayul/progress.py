"""How far a piece of work is: a bar with the time left on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from rayul.background import beside
from rayul.pace import TimeLeft
from rayul.words import clock, printable

FIRST_LINE = 0.4
"""Seconds after which work that no terminal shows says what it is doing: with the start of Python, within one of the
command."""

NEXT_WORK = 4.0
"""Seconds after a line until the next piece of work is named."""

LINE_EVERY = 30.0
"""Seconds between two lines of such work."""


class ProgressBar:
    """What a command shows while it works. Nothing until the first `update`; nothing is left of it on a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.shown = ExitStack()
        self.is_shown = False
        self.message = ""
        self.done: float | None = None
        self.began, self.left = 0.0, TimeLeft()
        self.spinner = Spinner("dots")

    def update(self, message: str, done: float | None = None) -> None:
        """message: what is being done. done: the share that is done, in [0, 1]; None where it is not known, which
        begins another piece of work."""
        if done is None or self.done is None or not self.is_shown:
            self.began, self.left = time.monotonic(), TimeLeft()
        self.message, self.done = message, done
        if done is not None:
            self.left.add(time.monotonic(), done)
        if not self.is_shown:
            self.is_shown = True
            if self.console.is_terminal:
                live = Live(get_renderable=self._view, console=self.console, refresh_per_second=8, transient=True)
                self.shown.enter_context(live)
            else:
                self.shown.enter_context(lines(self.console, self._line, FIRST_LINE, work=self._work))

    def stop(self) -> None:
        """Show nothing until the next `update`."""
        self.is_shown = False
        self.shown.close()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _work(self) -> str:
        """What is being done, without how far it is."""
        return re.sub(r"\d+", "", self.message)

    def _line(self) -> str:
        share = f" ({self.done:.0%})" if self.done is not None else ""
        return f"{self.message}{share}: {self._time()}"

    def _time(self) -> str:
        now = time.monotonic()
        left = self.left.at(now) if self.done is not None else None
        return f"{clock(now - self.began)} elapsed" + (f", about {clock(left)} left" if left is not None else "")

    def _view(self) -> Table:
        view = Table.grid(padding=(0, 1))
        view.add_column()
        view.add_column(no_wrap=True, overflow="ellipsis")
        view.add_column()
        view.add_column(no_wrap=True)
        bar = Text("") if self.done is None else Bar(total=1.0, completed=self.done, width=24)
        view.add_row(self.spinner, Text(printable(self.message)), bar, Text(self._time()))
        return view


@contextmanager
def doing(console: Console, what: str) -> Iterator[ProgressBar]:
    """Show what the block does; it may say more with `update`."""
    with ProgressBar(console) as bar:
        bar.update(what)
        yield bar


@contextmanager
def lines(
    console: Console,
    line: Callable[[], str],
    first: float = LINE_EVERY,
    every: float = LINE_EVERY,
    work: Callable[[], str] = str,
) -> Iterator[None]:
    """Print a line every so many seconds while the block runs, the first after `first` seconds. work: names the piece
    of work; the next one is told within NEXT_WORK seconds."""

    def say(over: threading.Event) -> None:
        wait, told = first, time.monotonic()
        named: str | None = None
        while not over.wait(wait):
            now, is_of = time.monotonic(), work()
            if named is None or is_of != named or now - told >= every:
                console.print(Text(printable(line())), soft_wrap=True)
                told, named = now, is_of
            wait = min(NEXT_WORK, max(0.0, told + every - now))

    with beside(say):
        yield
