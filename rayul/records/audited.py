"""What an audit records: a line for each model that was measured, and for each attack on it.

The files of `audit/` in a results folder: `evaluations.jsonl` (these lines, append-only, unique on subject, seed and
attack), `audit.json` (what was asked for, and which rows belong to one group), `adapters/<subject>-seed<n>/`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rayul.files import json_line
from rayul.records import ADAPTERS, BASELINE, JOURNAL, ORACLE, Evaluation, JsonLines
from rayul.records.json_lines import read_lines

AUDIT, ASKED = "audit", "audit.json"
REFUSAL = "refusal"
"""The positive control: an adapter that refuses the forget questions word for word, and forgot nothing."""

CONTROLS = (BASELINE, ORACLE, REFUSAL)
"""Subjects that are no finalists."""

BEFORE = ""
"""The attack of a line that was measured before any."""


@dataclass(frozen=True)
class Scored:
    """One measurement of one model.

    variant: what an attack tried. judged: indices of the forget rows that count, all where it is empty. metrics,
    stderr: by "<set>.<metric>"; values: of the single rows where a metric is their mean, in the order of `judged`.
    """

    variant: str = ""
    judged: tuple[int, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    stderr: dict[str, float] = field(default_factory=dict)
    values: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Audited:
    """subject: one of CONTROLS, or a finalist's name (`name_of`). mixing: of a finalist, as this seed was calibrated.
    reason: why nothing was scored (the training diverged, the attack lacks rows)."""

    subject: str
    seed: int
    attack: str = BEFORE
    mixing: float = 1.0
    scored: tuple[Scored, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    device: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.subject, self.seed, self.attack)


def name_of(e: Evaluation) -> str:
    """A finalist's name, <trial_id>-<step>-<mixing>, as its adapter's folder is called."""
    return f"{e.trial_id}-{e.step}-{e.mixing:g}"


def audited_adapter(audit: Path, subject: str, seed: int) -> Path:
    """adapters/<subject>-seed<seed>/ of an audit's folder."""
    return audit / ADAPTERS / f"{subject}-seed{seed}"


def audit_journal(folder: Path) -> JsonLines[Audited]:
    """The lines of a results folder's audit."""
    path = folder / AUDIT / JOURNAL
    return JsonLines(path, read_lines(path, audited_from_json), audited_to_json, lambda row: row.key)


def audited_to_json(row: Audited) -> str:
    """One line of strict JSON; NaN and infinities are the strings "nan", "inf", "-inf"."""
    return json_line(asdict(row))


def audited_from_json(line: str) -> Audited:
    row = json.loads(line)
    scored = tuple(
        Scored(
            one["variant"],
            tuple(one["judged"]),
            _floats(one["metrics"]),
            _floats(one["stderr"]),
            {key: tuple(map(float, values)) for key, values in one["values"].items()},
        )
        for one in row.pop("scored")
    )
    return Audited(**row, scored=scored)


def _floats(plain: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in plain.items()}
