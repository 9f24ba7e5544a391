"""What pruning saved in earlier sweeps of the same space."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rayul.errors import RayulError
from rayul.records import COMPLETED, JOURNAL, PRUNED, SPEC, read_journal
from rayul.spec import Spec, difference, load_spec

_MAY_DIFFER = ("name", "search", "resources", "oracle")
"""Sections that say how often and where to try, not what a trial does."""


class Saved(NamedTuple):
    """share: of all steps that the ended trials would have made. sweeps, trials: what it was counted on."""

    share: float
    sweeps: int
    trials: int


def saved_by_pruning(spec: Spec, results: Path) -> Saved | None:
    """Read from the records under `results`; None where no sweep of this space has a trial that ended."""
    made, planned, sweeps, trials = 0, 0, 0, 0
    for file in sorted(results.glob(f"*/{SPEC}")):
        try:
            earlier = load_spec(file, check_files=False)
            rows, endings = read_journal(file.parent / JOURNAL)
        except (RayulError, OSError):  # somebody else's folder, or one that a sweep has only just made
            continue
        if any(line.split(":")[0].split(".")[0] not in _MAY_DIFFER for line in difference(earlier, spec)):
            continue
        ends = [end for end in endings.values() if end.state in (COMPLETED, PRUNED)]
        last = {row.trial_id: row.step for row in rows}
        made += sum(last.get(end.trial_id, 0) for end in ends)
        planned += sum(earlier.at(end.params).training.steps for end in ends)
        sweeps, trials = sweeps + bool(ends), trials + len(ends)
    return Saved(1 - made / planned, sweeps, trials) if planned else None
