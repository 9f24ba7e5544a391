"""The journal of a sweep, `evaluations.jsonl`: its evaluations and the endings of its trials, in order.

Both are in one file, which only grows. So an ending is never there without the evaluations before it: not on the disk
of a driver that was killed, and not in a copy that was made meanwhile (storage.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic_core import from_json

from rayul.records.endings import Ending, ending_from, ending_in_row
from rayul.records.evaluations import Evaluation, Key, evaluation_from, to_json
from rayul.records.json_lines import JsonLines, read_lines

Record = Evaluation | Ending


class Journal:
    """Iterating gives the evaluations, in order. An evaluation is recorded once for its (trial_id, step, mixing), an
    ending once for its trial.

    endings: by trial. records: evaluations and endings, in order.
    """

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path, _read(path), to_json, _key)
        self._trials: dict[str, list[Evaluation]] = {}
        self.endings: dict[str, Ending] = {}
        for record in self._lines:
            self._add(record)

    @property
    def path(self) -> Path:
        return self._lines.path

    @property
    def records(self) -> Iterator[Record]:
        return iter(self._lines)

    def append(self, *records: Record) -> list[Record]:
        """Write these in one go; returns those that were not there yet, which are on disk (fsync) when it returns."""
        new = self._lines.append(*records)
        for record in new:
            self._add(record)
        return new

    def of(self, trial_id: str) -> Sequence[Evaluation]:
        """The evaluations of one trial, in order."""
        return self._trials.get(trial_id, ())

    def __iter__(self) -> Iterator[Evaluation]:
        return (record for record in self._lines if isinstance(record, Evaluation))

    def _add(self, record: Record) -> None:
        if isinstance(record, Evaluation):
            self._trials.setdefault(record.trial_id, []).append(record)
        else:
            self.endings[record.trial_id] = record


class Recorded(NamedTuple):
    """What a journal holds. endings: by trial."""

    evaluations: list[Evaluation]
    endings: dict[str, Ending]


def read_journal(path: Path) -> Recorded:
    """All whole lines of a journal, in order; a last line without its newline is ignored. Raises RayulError for the
    first line that is not as it was written."""
    recorded = Recorded([], {})
    for record in _read(path):
        if isinstance(record, Evaluation):
            recorded.evaluations.append(record)
        else:
            recorded.endings[record.trial_id] = record
    return recorded


def _read(path: Path) -> list[Record]:
    return [record for line in read_lines(path, records_from_json, keys) for record in line]


def records_from_json(line: bytes) -> list[Record]:
    """What a line holds: an evaluation, or an ending, which has no step. Of an earlier version's last row of a trial
    both; where it had failed the ending alone, since nothing was evaluated there and nobody had taken its step."""
    row = from_json(line)
    if not isinstance(row, dict):
        raise ValueError("expected an object")
    if "step" not in row:
        return [ending_from(row)]
    evaluation, ending = evaluation_from(row), ending_in_row(row)
    if ending is None or evaluation.is_reference:
        return [evaluation]
    return [evaluation, ending] if evaluation.metrics else [ending]


def keys(records: Sequence[Record]) -> list[Key | str]:
    """What no other line may hold."""
    return [_key(record) for record in records]


def _key(record: Record) -> Key | str:
    return record.key if isinstance(record, Evaluation) else record.trial_id
