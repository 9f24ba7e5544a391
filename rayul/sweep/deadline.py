"""search.trial_time_limit: a trial that hangs ends with its process, and fails."""

from __future__ import annotations

import faulthandler
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a device imports this module, and no Tune
    from ray.tune.experiment import Trial

GRACE = 2.0
"""Seconds more than the driver gives a trial, so that the driver knows why its process has gone."""


def arm(limit: float | None) -> None:
    """End this process, whatever it hangs in, unless `arm` is called again within the limit.

    A thread of the C library waits for it: one of Python's would wait for the interpreter's lock, which hanging code
    may hold.
    """
    if limit is None:
        faulthandler.cancel_dump_traceback_later()
    else:
        faulthandler.dump_traceback_later(limit + GRACE, exit=True)


class Deadline:
    """The driver's side: which trials are overdue. Tune must not start those again: they would hang again."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.started: dict[str, tuple[float, Trial]] = {}

    def start(self, trial: Trial) -> None:
        self.started[trial.trial_id] = (time.monotonic(), trial)

    def end(self, trial: Trial) -> None:
        self.started.pop(trial.trial_id, None)

    def check(self) -> None:
        if self.limit is None:
            return
        now = time.monotonic()
        for began, trial in self.started.values():
            if now - began > self.limit:
                trial.max_failures = 0

    def why(self, trial: Trial) -> str:
        """Why a trial whose process has gone was ended, in a sentence; "" where not by us."""
        began, _ = self.started.get(trial.trial_id, (time.monotonic(), trial))
        if self.limit is None or time.monotonic() - began <= self.limit:
            return ""
        return f"took longer than search.trial_time_limit of {self.limit:g} s: it hung, or needs more time"
