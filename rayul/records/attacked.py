"""certified/attacks.jsonl of a results folder: what attacks brought back of what certified weights had forgotten."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Strict, TypeAdapter
from pydantic_core import from_json

from rayul.files import json_line
from rayul.records.certificate import CERTIFIED
from rayul.records.json_lines import JsonLines, read_lines
from rayul.records.schema import Count, Number, Seconds, Series

ATTACKED = "attacks.jsonl"

FINE_TUNE, INTERPOLATE = "fine-tune", "interpolate"
"""Attacks whose record is a curve: over steps, and over percent of the way back to the weights before unlearning."""

Text = Annotated[str, Strict()]


@dataclass(frozen=True)
class Attacked:
    """One attack on the weights of one certified folder.

    model: the folder's name. attack: FINE_TUNE, INTERPOLATE, or one of `rayul.spec.ATTACKS`. variant: what was tried,
    in words. at: where on its way the attack was looked at, ascending: steps, percent of the way back, or the one 0 of
    an attack without a way. es, stderr: forget.es there, a mean over the `rows` forget rows that are judged, and its
    standard error over their `groups`; higher is worse. before, baseline: es of the same rows before the attack, and
    before unlearning. reason:
    why nothing was measured.
    """

    model: Text
    attack: Text
    variant: Text
    at: tuple[Count, ...] = ()
    es: Series = ()
    stderr: Series = ()
    before: Number = float("nan")
    baseline: Number = float("nan")
    rows: Count = 0
    groups: Count = 0
    reason: Text = ""
    seconds: Seconds = 0.0

    def __post_init__(self) -> None:
        if not len(self.at) == len(self.es) == len(self.stderr):
            raise ValueError(f"{self.attack}, {self.variant}: {len(self.at)} looks, {len(self.es)} values")

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.model, self.attack, self.variant)


def attack_journal(folder: Path) -> JsonLines[Attacked]:
    """The lines of a results folder, to append to."""
    (folder / CERTIFIED).mkdir(exist_ok=True)
    return JsonLines(folder / CERTIFIED / ATTACKED, read_attacked(folder), attacked_to_json, lambda row: row.key)


def read_attacked(folder: Path) -> list[Attacked]:
    """All whole lines of a results folder, none where nothing was attacked. Raises RayulError for the first that is
    not as it was written."""
    path = folder / CERTIFIED / ATTACKED
    return read_lines(path, attacked_from_json, lambda row: [row.key]) if path.exists() else []


def attacked_to_json(row: Attacked) -> str:
    """One line of strict JSON; NaN and infinities are the strings "nan", "inf", "-inf"."""
    return json_line(asdict(row))


def attacked_from_json(line: str | bytes) -> Attacked:
    """Raises ValueError for a line that cannot be one."""
    return _ATTACKED.validate_python(from_json(line))


_ATTACKED = TypeAdapter(Attacked)
