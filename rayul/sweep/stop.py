"""Ctrl-C, a pre-emption's notice or a spent budget, turned into an orderly end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune.stopper import Stopper

from rayul.report.summary import Summary

CTRL_C = "Ctrl-C"
"""What stopped a run, where a person or a pre-emption did."""

STOPPING = "stopping: what was reported is kept, and what runs now is ended (Ctrl-C again ends at once)"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a sweep; its records are complete and its report is made. `summary` may be None."""

    def __init__(self, summary: Summary | None) -> None:
        super().__init__()
        self.summary = summary


class StopSignal(Stopper):  # type: ignore[misc]
    """Turns Ctrl-C, SIGTERM (a pre-emption's notice) and a spent budget into a stop between two results: Tune ends its
    trials, and every row that was reported is in the journal. A second Ctrl-C ends the process at once.

    exhausted: why the budget is spent, "" while it is not.
    """

    def __init__(self, exhausted: Callable[[], str] = lambda: "") -> None:
        self.received = False
        self.exhausted = exhausted

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.received or bool(self.exhausted())

    @contextmanager
    def listening(self, say: Callable[[str], None]) -> Iterator[None]:
        """say: hears at once of a stop, which takes seconds. Outside of the main thread Python takes no signals, and
        nothing is changed."""

        def stop(number: int, frame: Any) -> None:
            self.received = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # In a thread: this one may be in the middle of a line.
            threading.Thread(target=say, args=[STOPPING], daemon=True).start()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
