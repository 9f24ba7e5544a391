"""When trials fail for a reason that is no setting's: the sweep stops, and says why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rayul.errors import RayulError
from rayul.records import FAILED, Ending, Record
from rayul.spec import Spec

ALIKE = 3
"""Trials of a run, its first, that have to fail alike before no more are tried."""

FAILED_ALIKE = "the first trials failed alike, so no more were started"
"""What stopped such a run."""

BY_SETTINGS = {"diverged", "out of memory", "search.trial_time_limit"}
"""Rules by which a trial fails for what it drew: others may do well."""

_NUMBER = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)


class AlikeFailures:
    """Fed with the records of one run: earlier runs may have failed for what has been mended since.

    Trials fail alike where rule and reason are the same but for the numbers in them. Where methods are searched, two of
    them must have failed: one may be broken, and another not.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.first: str | None = None
        self.count, self.methods = 0, set[object]()
        self.differ = False

    def add(self, record: Record) -> None:
        if not isinstance(record, Ending) or self.differ:
            return
        reason = _NUMBER.sub("#", record.reason)
        self.first = self.first or reason
        if record.state != FAILED or record.rule in BY_SETTINGS or reason != self.first:
            self.differ = True
        self.count += 1
        self.methods.add(record.params.get("method.name"))

    def stopped(self) -> str:
        """Why no further trial is worth its cost, in a sentence; "" while one may be."""
        few = self.count < ALIKE or len(self.methods) < min(2, len(self.spec.method.names))
        return "" if self.differ or few else FAILED_ALIKE


def refuse_failures(endings: Sequence[Ending], stopped: str, wanted: int, folder: Path) -> None:
    """Raises RayulError with the reason where all trials that ended failed, or where that stopped the run. wanted:
    trials that were to run."""
    failed = [ending for ending in endings if ending.state == FAILED]
    if not failed or (len(failed) < len(endings) and stopped != FAILED_ALIKE):
        return
    if stopped == FAILED_ALIKE:
        message = f"{stopped}: {failed[-1].reason}"
    else:
        reasons = Counter(ending.reason for ending in failed)
        reason, times = reasons.most_common(1)[0]
        who = "the only trial" if len(failed) == 1 else f"all {len(failed)} trials"
        message = f"{who} that ended failed: " + (f"{times} of them with " if len(reasons) > 1 else "") + reason
    again = "begin a new sweep with --name" + (", or go on with --resume" if len(endings) < wanted else "")
    raise RayulError(message, f"remove the cause and {again}; the records are in {folder}")
