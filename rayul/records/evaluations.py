"""The evaluation row and its storage: the seam between the half that computes and the half that reads.

One evaluation is the metrics of one trial at one step and one mixing coefficient. The journal
(`evaluations.jsonl`) is append-only, one JSON object a line, flushed to disk row by row and unique on
(trial_id, step, mixing); the Parquet file is the same rows, flat.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayul.errors import RayulError
from rayul.files import json_line, whole_file
from rayul.records.json_lines import JsonLines, read_lines

BASELINE, ORACLE = "baseline", "oracle"
"""Trial ids of the two reference rows; every other row belongs to a trial of the search."""

RUNNING, COMPLETED, PRUNED, FAILED = "running", "completed", "pruned", "failed"
"""`state` of a row: RUNNING unless it is the last row of its trial."""

SPEC, JOURNAL, STUDY, ADAPTERS = "spec.yaml", "evaluations.jsonl", "study.journal", "adapters"
"""Names in a results folder: what a sweep asked for, its rows, Optuna's study, and the adapters of its front."""

CHECKPOINTS = "checkpoints"
"""Folder of the states of running trials, in the results folder; gone when the sweep ends."""

Key = tuple[str, int, float]


@dataclass(frozen=True)
class Evaluation:
    """One row of the record.

    trial_id: "0007", the Optuna trial's number; or BASELINE or ORACLE.
    step: optimiser steps taken (0 is the model before unlearning).
    mixing: coefficient a in [0, 1] of (1-a)*baseline + a*unlearned.
    params: the searched hyper-parameters by dotted key, e.g. {"training.lr": 1e-3}.
    metrics, stderr: by "<set>.<metric>", e.g. {"forget.es": 0.41}; rows: number of rows by set.
    violation: by metric of a criterion; <= 0 keeps the criterion. feasible: every violation <= 0.
    state, reason: RUNNING, or how the trial ended with this row, and why in a sentence.
    train_seconds: seconds of training and evaluation of the trial until this row, those that others had with it in a
        pack not counted.
    device: what it ran on. numerics: what else its last bits hang on: the pack's shape, dtype, threads.
    """

    trial_id: str
    step: int
    mixing: float = 1.0
    seed: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    stderr: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    violation: dict[str, float] = field(default_factory=dict)
    feasible: bool = True
    state: str = RUNNING
    reason: str = ""
    train_seconds: float = 0.0
    device: str = ""
    numerics: str = ""

    @property
    def key(self) -> Key:
        return (self.trial_id, self.step, self.mixing)

    @property
    def is_reference(self) -> bool:
        return self.trial_id in (BASELINE, ORACLE)

    @property
    def total_violation(self) -> float:
        """Sum of the positive violations; 0 for a feasible row, inf for a row that has no metrics."""
        if not self.metrics:
            return math.inf
        return sum(max(0.0, v) for v in self.violation.values())


def trial_id(number: int) -> str:
    """The id of a trial in records and file names: its Optuna number, so that both sides speak of the same."""
    return f"{number:04d}"


def adapter_name(evaluation: Evaluation) -> str:
    """<trial_id>-<step>-<mixing>. Raises RayulError for an id that would lead out of the folder."""
    if not re.fullmatch(r"[\w-]+", evaluation.trial_id):
        raise RayulError(f"{evaluation.trial_id!r} is no trial's id", "the records were written by something else")
    return f"{evaluation.trial_id}-{evaluation.step}-{evaluation.mixing:g}"


def adapter_folder(folder: Path, evaluation: Evaluation) -> Path:
    """adapters/<trial_id>-<step>-<mixing>/ of a results folder: a PEFT adapter, or of `update: full` a whole model."""
    return folder / ADAPTERS / adapter_name(evaluation)


def holds_model(folder: Path) -> bool:
    """Whether a folder holds what `save_pretrained` writes: a PEFT adapter, or a whole model."""
    return any((folder / name).is_file() for name in ("adapter_config.json", "config.json"))


_FLOAT_MAPS = ("metrics", "stderr", "violation")


def to_json(evaluation: Evaluation) -> str:
    """One line of strict JSON. NaN and infinities become the strings "nan", "inf", "-inf", never null."""
    return json_line(asdict(evaluation))


def from_json(line: str) -> Evaluation:
    row = json.loads(line)
    for name in _FLOAT_MAPS:
        row[name] = {k: float(v) for k, v in row[name].items()}
    known = {f.name for f in fields(Evaluation)}
    return Evaluation(**{k: v for k, v in row.items() if k in known})


class Journal(JsonLines[Evaluation]):
    """`evaluations.jsonl` of one sweep."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, from_json, to_json, lambda row: row.key)
        self._trials: dict[str, list[Evaluation]] = {}
        for row in self:
            self._trials.setdefault(row.trial_id, []).append(row)

    def append(self, record: Evaluation) -> bool:
        new = super().append(record)
        if new:
            self._trials.setdefault(record.trial_id, []).append(record)
        return new

    def of(self, trial_id: str) -> Sequence[Evaluation]:
        """The rows of one trial, in order."""
        return self._trials.get(trial_id, ())


def read_journal(path: Path) -> list[Evaluation]:
    """All whole rows of a journal, in order; a last line without its newline is ignored."""
    return read_lines(path, from_json)


_PLAIN = ("trial_id", "step", "mixing", "seed", "state", "reason", "feasible", "train_seconds", "device", "numerics")
_NESTED = ("params", "metrics", "stderr", "violation", "rows")


def flatten(evaluation: Evaluation) -> dict[str, Any]:
    """The row as columns: trial_id, step, ..., params.<key>, metrics.<set>.<metric>, violation.<metric>, ..."""
    flat: dict[str, Any] = {name: getattr(evaluation, name) for name in _PLAIN}
    for name in _NESTED:
        flat.update({f"{name}.{k}": v for k, v in getattr(evaluation, name).items()})
    return flat


def to_table(evaluations: Iterable[Evaluation]) -> pa.Table:
    """Flat table, one row per evaluation; a column is null where the row has no such value (a parameter of
    another method, the metrics of a failed row). A parameter whose values differ in type is stored as text."""
    flat = [flatten(e) for e in evaluations]
    names = dict.fromkeys(name for row in flat for name in row)
    names = dict.fromkeys(_PLAIN) | {n: None for group in _NESTED for n in names if n.startswith(f"{group}.")}
    columns: dict[str, pa.Array] = {}
    for name in names:
        values = [row.get(name) for row in flat]
        columns[name] = pa.array(values, type=_column_type(name, values))
        # pa.array keeps NaN as NaN: null means "no such value", NaN means "computed, not a number".
    return pa.table(columns)


def _column_type(name: str, values: list[Any]) -> pa.DataType | None:
    if name.startswith(("metrics.", "stderr.", "violation.")) or name in ("mixing", "train_seconds"):
        return pa.float64()
    if name.startswith("rows.") or name in ("step", "seed"):
        return pa.int64()
    if name == "feasible":
        return pa.bool_()
    if name.startswith("params."):
        kinds = {type(v) for v in values if v is not None}
        if kinds <= {int}:
            return pa.int64()
        if kinds <= {int, float}:
            return pa.float64()
        if kinds <= {bool}:
            return pa.bool_()
        for i, v in enumerate(values):
            values[i] = None if v is None else str(v)
    return pa.string()


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet, whole or not at all."""
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)
