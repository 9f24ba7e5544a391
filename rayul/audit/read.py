"""An audit's files as objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rayul.errors import RayulError
from rayul.records import BASELINE, JOURNAL, ORACLE, Evaluation
from rayul.records.audited import ASKED, AUDIT, BEFORE, CONTROLS, Asked, Audited, Scored, read_asked, read_audited
from rayul.records.folder import SweepRecords
from rayul.records.json_lines import REPAIR
from rayul.records.objectives import forget_objective
from rayul.spec import Limit

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Finalist:
    """A point of the front that was audited. found: its row of the search. limits: what it was calibrated to,
    or judged by. runs: its fresh seeds that were trained;
    failed: the reasons of those that were not."""

    name: str
    found: Evaluation
    recalibrated: bool
    limits: tuple[Limit, ...]
    runs: tuple[Audited, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """rows: by subject, seed and attack."""

    results: SweepRecords
    confidence: float
    attacks: tuple[str, ...]
    groups: Mapping[str, Sequence[int]]
    finalists: tuple[Finalist, ...]
    rows: Mapping[tuple[str, int, str], Audited]

    @cached_property
    def controls(self) -> dict[str, Audited]:
        """The unattacked line of baseline, oracle and refusal, of those that are there."""
        return {row.subject: row for row in self.rows.values() if row.subject in CONTROLS and row.attack == BEFORE}

    @property
    def baseline(self) -> Scored:
        return self.controls[BASELINE].scored[0]

    @property
    def oracle(self) -> Scored | None:
        row = self.controls.get(ORACLE)
        return row.scored[0] if row is not None and row.scored else None

    @property
    def metric(self) -> str:
        """What forgetting is judged by: the sweep's forget objective where it is of the rows that attacks measure and
        has a value per row, else forget.es."""
        objective = forget_objective(self.results.objectives)
        measured = objective in self.baseline.values and str(objective).startswith("forget.")
        return str(objective) if measured else "forget.es"

    def attacked(self, subject: str, attack: str) -> list[Audited]:
        """The lines of an attack on every seed of a subject, in the seeds' order; without those that lack rows."""
        return [row for key, row in sorted(self.rows.items()) if key[0] == subject and key[2] == attack and row.scored]

    def before(self, row: Audited) -> Scored:
        """The unattacked measurement of the same model."""
        return self.rows[row.subject, row.seed, BEFORE].scored[0]

    def groups_of(self, key: str, judged: Sequence[int] = ()) -> NDArray[np.int64]:
        """The group of each row behind a metric "<set>.<metric>"."""
        groups = np.asarray(self.groups[key.partition(".")[0]], dtype=np.int64)
        return groups[list(judged)] if judged else groups


def read_audit(results: SweepRecords) -> Audit | None:
    """The audit of a sweep; None where there is none yet. Raises RayulError for files that are broken."""
    folder = results.folder / AUDIT
    if not (folder / JOURNAL).is_file() or not (folder / ASKED).is_file():
        return None
    asked = read_asked(folder / ASKED)
    rows = {row.key: row for row in read_audited(folder / JOURNAL)}
    found = {e.key: e for e in results.evaluations}
    _check(rows, asked, folder)
    if not any(subject == BASELINE and row.scored for (subject, _, _), row in rows.items()):
        return None  # everything is told against the baseline
    finalists = []
    for name, point in asked.finalists.items():
        mine = [row for key, row in sorted(rows.items()) if key[0] == name and key[2] == BEFORE]
        if mine:
            key = (point.trial_id, point.step, point.mixing)
            if key not in found:
                raise RayulError(
                    f"{folder / ASKED}: {name} has no evaluation in {results.folder / JOURNAL}",
                    "continue the sweep with --resume, then audit again",
                )
            finalists.append(
                Finalist(
                    name,
                    found[key],
                    point.recalibrated,
                    results.limits_at(point.target),
                    tuple(row for row in mine if row.scored),
                    tuple(row.reason for row in mine if not row.scored),
                )
            )
    return Audit(results, asked.confidence, asked.attacks, asked.groups, tuple(finalists), rows)


def _check(rows: Mapping[tuple[str, int, str], Audited], asked: Asked, folder: Path) -> None:
    """Raises RayulError where the lines of an audit do not fit each other, or the groups of audit.json."""
    for (subject, seed, attack), row in rows.items():
        before = rows.get((subject, seed, BEFORE))
        if attack != BEFORE and row.scored and (before is None or not before.scored):
            raise RayulError(
                f"{folder / JOURNAL}: {subject}, seed {seed}: {attack} without a measurement before it", REPAIR
            )
        for one in row.scored:
            for key, values in one.values.items():
                known = len(asked.groups.get(key.partition(".")[0], ()))
                if len(values) != (len(one.judged) or known) or max(one.judged, default=-1) >= known:
                    raise RayulError(
                        f"{folder / ASKED}: groups of {known} rows, and {JOURNAL} has {len(values)} of {key}",
                        REPAIR,
                    )
