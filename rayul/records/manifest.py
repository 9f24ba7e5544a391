"""How the results in a folder were made: `run.json`, which resumes, packs and budgets read back.

The sweep writes it before its first row, and again whenever one of its runs begins or ends. `spec.yaml` is what the
user asked for, and nothing else. Folders from before there was a run.json have the same facts in the section
`provenance` of their spec.yaml: they are read from there, and the next run writes run.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from rayul.errors import RayulError, ResultsUnwritable
from rayul.files import write_json
from rayul.records import JOURNAL, SPEC
from rayul.records.json_lines import REPAIR
from rayul.spec.problems import first_problem
from rayul.spec.yaml_text import read_yaml

MANIFEST = "run.json"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class RowSet(_Part):
    """One set of the data: its number of rows, and the SHA-256 of their text in hexadecimal."""

    rows: NonNegativeInt
    sha256: str


class PackShape(_Part):
    """As `rayul.unlearn.pack.Shape`, which says what the numbers are."""

    slots: PositiveInt
    rank: PositiveInt
    rows: PositiveInt
    lanes: PositiveInt = 1
    group: PositiveInt | None = None
    compiled: bool = False


class PackRecord(_Part):
    """What the last bits of the results depend on. shape: of every device's pack, None where each trial has a process
    of its own. threads: of a process that trains, in the latest run."""

    shape: PackShape | None
    dtype: str
    threads: PositiveInt


class Run(_Part):
    """One run of the driver. ended: `began` and the seconds that it took, by a clock that nobody sets; None while it
    goes on. stopped: why it ended before its last trial, "" where it did not. records: evaluations and
    endings in the journal, at its end."""

    began: AwareDatetime
    ended: AwareDatetime | None = None
    stopped: str = ""
    records: NonNegativeInt | None = None


class Manifest(_Part):
    """What made the results of a folder; a field is empty, or None, where that was not recorded.

    command, date, versions, commit, hardware: of the run that began the sweep. code: "sha256 <digest>" by path, of
    custom losses and metrics. data: by set. tokens: by set, the SHA-256 of the tokens that its rows became, in
    hexadecimal. runs: in their order.
    """

    command: str = ""
    date: AwareDatetime | None = None
    versions: dict[str, str] = {}
    commit: str | None = None
    hardware: dict[str, str | int | None] = {}
    code: dict[str, str] = {}
    data: dict[str, RowSet] = {}
    tokens: dict[str, str] = {}
    pack: PackRecord | None = None
    runs: tuple[Run, ...] = ()

    def seconds(self, now: datetime) -> float:
        """Seconds of all runs together; of one that has not ended, until now."""
        spans = [((run.ended or now) - run.began).total_seconds() for run in self.runs]
        return sum(max(0.0, span) for span in spans)  # a clock may have been set back

    @property
    def records(self) -> int:
        """Evaluations and endings that the journal has at least: it only grows, and its lines bear their numbers, so
        all that can be lost without a trace is its end."""
        return max((run.records or 0 for run in self.runs), default=0)

    def without_records(self) -> Manifest:
        """Of a journal that was cut on purpose."""
        return self.model_copy(update={"runs": tuple(run.model_copy(update={"records": None}) for run in self.runs)})

    def plain(self) -> dict[str, Any]:
        """Plain data for JSON or YAML, without what was not recorded."""
        return self.model_dump(mode="json", exclude_defaults=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write run.json, whole or not at all. Raises RayulError where it cannot be written."""
    path = folder / MANIFEST
    try:
        write_json(path, manifest.plain())
    except OSError as error:
        raise ResultsUnwritable.at(path, error.strerror or error) from error


def check_length(folder: Path, manifest: Manifest, records: int) -> None:
    """Raises RayulError where the journal has fewer records than when a run of the sweep ended."""
    if records < manifest.records:
        raise RayulError(
            f"{folder / JOURNAL} has {records} records, but {manifest.records} by {MANIFEST}: its end was lost",
            REPAIR,
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a results folder that has a valid spec.yaml. Raises RayulError where it is broken."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _from_spec(folder / SPEC)
    except OSError as error:
        raise RayulError(f"{path} cannot be read: {error.strerror or error}", "fix its permissions") from error
    except ValidationError as error:
        raise RayulError(
            f"{path} is not as rayul writes it: {first_problem(error)}",
            "restore the file; or `rayul repair` sets it aside, and the sweep goes on as if nothing had been recorded: "
            "it does not notice rows that have changed, chooses its pack anew and forgets the time that it has spent",
        ) from error


def _from_spec(path: Path) -> Manifest:
    """Of the section `provenance` in the spec.yaml of a folder from before there was a run.json."""
    document = read_yaml(path.read_text(encoding="utf-8-sig"), str(path)).data
    old = document.get("provenance") if isinstance(document, dict) else None
    try:
        return Manifest.model_validate_json(json.dumps(_renewed(old) if isinstance(old, dict) else old or {}))
    except ValidationError as error:
        raise RayulError(
            f"{path}: its section provenance is not as rayul wrote it: {first_problem(error)}",
            "correct or delete the section",
        ) from error


def _renewed(old: Mapping[str, Any]) -> dict[str, Any]:
    """The section as a manifest is written: runs were numbered, and the shape of a pack stood beside dtype and threads.
    Keys that rayul never wrote are left out."""
    known = {key: value for key, value in old.items() if key in Manifest.model_fields}
    if isinstance(runs := known.get("runs"), dict):
        known["runs"] = list(runs.values())
    if isinstance(pack := known.get("pack"), dict):
        shape = {key: pack[key] for key in PackShape.model_fields if key in pack}
        others = {key: pack[key] for key in ("dtype", "threads") if key in pack}
        known["pack"] = {"shape": None if shape == {"slots": 1} else shape, **others}
    return known
