"""What `study.journal`, Optuna's own file, says of the trials of a sweep, read without Optuna.

The evaluations carry no clock, so that a resumed sweep leaves the same rows as an undisturbed one; the study does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

_CREATE_TRIAL, _SET_STATE = 4, 6
"""Optuna's JournalOperation."""

_ENDED = (1, 2, 3)
"""Of Optuna's TrialState: complete, pruned, failed."""


@dataclass(frozen=True)
class StudyRead:
    """asked: number of trials, those of `search.warm_start` included. ended: when each of this sweep's trials was told
    to have ended, by number; None where the file has no clock for it."""

    asked: int = 0
    ended: Mapping[int, datetime | None] = field(default_factory=dict)

    @property
    def ends(self) -> list[datetime]:
        """When trials ended, in order."""
        return sorted(end for end in self.ended.values() if end is not None)


def read_study(path: Path) -> StudyRead:
    """Lines that cannot be read, of a damaged file or of another version, are left out: a resume refuses those
    (`rayul.sweep.search.searcher.open_study`). Empty where there is no file."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return StudyRead()
    asked, ended = 0, {}
    for line in lines:
        if b'"datetime_' not in line:
            continue
        try:
            record = json.loads(line)
            operation = record["op_code"]
            if operation == _CREATE_TRIAL:
                asked += 1
            elif operation == _SET_STATE and record["state"] in _ENDED:
                ended[int(record["trial_id"])] = _clock(record.get("datetime_complete"))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return StudyRead(asked, ended)


def _clock(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
