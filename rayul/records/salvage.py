"""What can be kept of a journal that was damaged, and which trials have to be run again for what was lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from rayul.records.endings import Ending
from rayul.records.evaluations import BASELINE, ORACLE, Evaluation
from rayul.records.journal import Record, keys, records_from_json
from rayul.records.json_lines import Line, checked_lines

Lines = list[Line[list[Record]]]
Known = Mapping[str, tuple[int, Mapping[str, Any]]]
"""Seed and settings by trial."""


@dataclass
class Salvage:
    """kept, rejected: lines as they stand, in the order in which they were written; copies are in neither. faults: what
    is wrong, by line of the file. cut: by trial that has to be run again the settings that its rows had."""

    kept: list[bytes] = field(default_factory=list)
    rejected: list[bytes] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)
    cut: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Gap:
    """Lines that are lost. trials: whose they were, None where that is not known of all."""

    trials: frozenset[str] | None


def salvage(path: Path) -> Salvage:
    """Sort out a journal.

    A trial that has lost a line keeps its rows up to there and loses the rest, as if the driver had been killed at that
    moment: a resume runs it again, to the same rows. Where nobody knows whose a lost line was, it may have been of any
    trial that had begun before it and had not ended. Trials that had ended, or began later, are kept whole.
    """
    lines = list(checked_lines(path, records_from_json, keys))
    found = Salvage(faults={line.at: line.fault for line in lines if line.fault})
    if not found.faults:
        return Salvage(kept=[line.text for line in lines])
    found.rejected = [line.text for line in lines if line.record is None]
    records = [record for line in lines for record in line.record or () if record.trial_id not in (BASELINE, ORACLE)]
    first_step = min((record.step for record in records if isinstance(record, Evaluation)), default=0)
    begun: set[str] = set()
    ended: set[str] = set()
    unknown = False
    for line in _in_order(lines, {record.trial_id: (record.seed, record.params) for record in records}):
        if isinstance(line, _Gap):
            unknown = unknown or line.trials is None
            lost = begun - ended if line.trials is None else line.trials
            found.cut |= {trial: {} for trial in lost if trial not in found.cut}
            continue
        for record in line.record or ():
            trial = record.trial_id
            if trial in (BASELINE, ORACLE):
                continue
            is_first = isinstance(record, Evaluation) and record.step == first_step
            if unknown and trial not in begun and not is_first:  # its beginning is lost
                found.cut[trial] = {}
            begun.add(trial)
            if isinstance(record, Ending):
                ended.add(trial)
            if trial in found.cut:
                found.cut[trial] = record.params
        whose = {record.trial_id for record in line.record or ()}
        (found.rejected if whose & found.cut.keys() else found.kept).append(line.text)
    return found


def _in_order(lines: Lines, known: Known) -> Iterator[Line[list[Record]] | _Gap]:
    """The whole lines as they were written, each once, with the gaps between them. known: of the trials that have
    whole lines."""
    start = min((line.at for line in lines if line.number is not None), default=len(lines) + 1)
    broken: dict[object, str | None] = dict(_owner(line.text, known) for line in lines if line.record is None)
    seen: set[object] = set()
    expected = start
    numbered = [line for line in lines if line.number is not None and line.record is not None]
    for line in (*lines[: start - 1], *sorted(numbered, key=lambda line: line.number or 0)):
        if line.number is not None:
            if line.number > expected:
                yield _gap(broken.get(number) for number in range(expected, line.number))
            expected = line.number + 1
        if line.record is None:  # of an earlier version
            yield _gap([_owner(line.text, known)[1]])
        elif seen.isdisjoint(keys(line.record)):
            seen.update(keys(line.record))
            yield line


def _gap(owners: Iterable[str | None]) -> _Gap:
    trials = set(owners)
    return _Gap(None if None in trials else frozenset(filter(None, trials)))


def _owner(text: bytes, known: Known) -> tuple[int | None, str | None]:
    """Number and trial of a broken line, None where they are not known: a trial's name may itself be what was changed,
    so its seed and settings have to be in the line, too."""
    try:
        row = from_json(text)
        number, trial = row.get("line"), row["trial_id"]
        owner = trial if known.get(trial) == (row["seed"], row["params"]) else None
        return (number if isinstance(number, int) else None), owner
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, None
