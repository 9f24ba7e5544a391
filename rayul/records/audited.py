"""What an audit records: a line for each model that was measured, and for each attack on it.

The files of `audit/` in a results folder: `evaluations.jsonl` (these lines, append-only, unique on subject, seed and
attack), `audit.json` (what was asked for, and which rows belong to one group), `adapters/<subject>-seed<n>/`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, Strict, TypeAdapter
from pydantic_core import from_json

from rayul.errors import RayulError
from rayul.files import json_line
from rayul.records import ADAPTERS, BASELINE, JOURNAL, ORACLE, Evaluation, JsonLines
from rayul.records.json_lines import REPAIR, read_lines
from rayul.records.schema import Count, Flag, Int64, Lists, Numbers, Seconds, Share, TrialId, why

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
    judged: tuple[Count, ...] = ()
    metrics: Numbers = field(default_factory=dict)
    stderr: Numbers = field(default_factory=dict)
    values: Lists = field(default_factory=dict)


@dataclass(frozen=True)
class Audited:
    """subject: one of CONTROLS, or a finalist's name (`name_of`). mixing: of a finalist, as this seed was calibrated.
    reason: why nothing was scored (the training diverged, the attack lacks rows)."""

    subject: str
    seed: Int64
    attack: str = BEFORE
    mixing: Share = 1.0
    scored: tuple[Scored, ...] = ()
    reason: str = ""
    seconds: Seconds = 0.0
    device: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.subject, self.seed, self.attack)


@dataclass(frozen=True)
class Point:
    """A finalist as audit.json names it: the key of its evaluation. target: its share of control.tau, None without a
    list. recalibrated: whether each seed is calibrated anew."""

    trial_id: TrialId
    step: Count
    mixing: Share
    recalibrated: Flag
    target: Share | None


@dataclass(frozen=True)
class Asked:
    """What audit.json says: the finalists by name, and of each set the group of every row, as a number."""

    finalists: dict[str, Point]
    confidence: Annotated[float, Strict(), Field(gt=0, lt=1)]
    attacks: tuple[str, ...]
    # authors: as earlier versions named it
    groups: Annotated[dict[str, tuple[Count, ...]], Field(validation_alias=AliasChoices("groups", "authors"))]


def read_asked(path: Path) -> Asked:
    """Raises RayulError for a file that is broken."""
    try:
        return _ASKED.validate_python(from_json(path.read_bytes()))
    except (ValueError, OSError) as error:
        raise RayulError(f"{path}: not an audit: {why(error)}", REPAIR) from error


def name_of(e: Evaluation) -> str:
    """A finalist's name, <trial_id>-<step>-<mixing>, as its adapter's folder is called."""
    return f"{e.trial_id}-{e.step}-{e.mixing:g}"


def audited_adapter(audit: Path, subject: str, seed: int) -> Path:
    """adapters/<subject>-seed<seed>/ of an audit's folder."""
    return audit / ADAPTERS / f"{subject}-seed{seed}"


def audit_journal(folder: Path) -> JsonLines[Audited]:
    """The lines of a results folder's audit."""
    path = folder / AUDIT / JOURNAL
    return JsonLines(path, read_audited(path), audited_to_json, lambda row: row.key)


def read_audited(path: Path) -> list[Audited]:
    """All whole lines of an audit's journal. Raises RayulError for the first that is not as it was written."""
    return read_lines(path, audited_from_json, audited_keys)


def audited_keys(row: Audited) -> list[tuple[str, int, str]]:
    """What no other line may hold."""
    return [row.key]


def audited_to_json(row: Audited) -> str:
    """One line of strict JSON; NaN and infinities are the strings "nan", "inf", "-inf"."""
    return json_line(asdict(row))


def audited_from_json(line: str | bytes) -> Audited:
    """Raises ValueError for a line that cannot be one."""
    return _AUDITED.validate_python(from_json(line))


_AUDITED, _ASKED = TypeAdapter(Audited), TypeAdapter(Asked)
