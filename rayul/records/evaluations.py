"""The evaluation: the metrics of one trial at one step and one mixing coefficient, as a line of JSON and as a row of a
table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter
from pydantic_core import from_json as parsed

from rayul.errors import RayulError
from rayul.files import json_line, whole_file
from rayul.records.endings import COMPLETED, RUNNING, Ending
from rayul.records.schema import Count, Flag, Int64, Lists, Numbers, Params, Seconds, Share, TrialId
from rayul.spec import METRICS

BASELINE, ORACLE = "baseline", "oracle"
"""Trial ids of the two reference rows; every other row belongs to a trial of the search."""

SPEC, JOURNAL, STUDY, ADAPTERS = "spec.yaml", "evaluations.jsonl", "study.journal", "adapters"
"""Names in a results folder: what a sweep asked for, its rows, Optuna's study, and the adapters of its front."""

CHECKPOINTS = "checkpoints"
"""Folder of the states of running trials, in the results folder; gone when the sweep ends."""

UNSTEADY = "the violation does not grow steadily with the mixing"
"""The note of a calibrated evaluation where a larger mixing may keep the criteria, too."""

Key = tuple[str, int, float]


@dataclass(frozen=True)
class Evaluation:
    """One row of the record.

    trial_id: "0007", the Optuna trial's number; or BASELINE or ORACLE.
    step: optimiser steps taken (0 is the model before unlearning).
    mixing: coefficient a in [0, 1] of (1-a)*baseline + a*unlearned.
    params: the searched hyper-parameters by dotted key, e.g. {"training.lr": 1e-3}.
    metrics, stderr: by "<set>.<metric>", e.g. {"forget.es": 0.41}; rows, groups: their numbers by set. Standard errors
    are clustered by group (`rayul/records/groups.py`).
    group_sums: by metric of an objective or a criterion that is a mean over rows its sum over the rows of each group;
    group_rows: by set the number of rows of each group, in the same order. With more than 40 groups they are pooled.
    Empty at step 0, whose metrics are the baseline's.
    terms: by name the terms of the loss that the last step before it took, each with its weight, and what else the
        gradient rule read ("forget", "retain", "orth", ...); the same at every mixing.
    violation: by metric of a criterion; <= 0 keeps the criterion. feasible: every violation <= 0.
    train_seconds: seconds of training and evaluation of the trial until this row, those that others had with it in a
        pack not counted.
    device: what it ran on. numerics: what else affects bitwise reproducibility: the pack's shape, dtype, threads.
    notes: what is to be known of how it came about, a sentence each (UNSTEADY is one).
    """

    trial_id: TrialId
    step: Count
    mixing: Share = 1.0
    seed: Int64 = 0
    params: Params = field(default_factory=dict)
    metrics: Numbers = field(default_factory=dict)
    stderr: Numbers = field(default_factory=dict)
    rows: dict[str, Count] = field(default_factory=dict)
    groups: dict[str, Count] = field(default_factory=dict)
    group_sums: Lists = field(default_factory=dict)
    group_rows: dict[str, tuple[Count, ...]] = field(default_factory=dict)
    terms: Numbers = field(default_factory=dict)
    violation: Numbers = field(default_factory=dict)
    feasible: Flag = True
    train_seconds: Seconds = 0.0
    device: str = ""
    numerics: str = ""
    notes: tuple[str, ...] = ()

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

    def ended(self, state: str, rule: str = "", reason: str = "") -> Ending:
        """The ending of its trial, as of this evaluation."""
        return Ending(self.trial_id, state, rule, reason, self.seed, self.params, self.train_seconds)


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


def to_json(record: Evaluation | Ending) -> str:
    """One line of strict JSON. NaN and infinities become the strings "nan", "inf", "-inf", never null."""
    return json_line(asdict(record))


def from_json(line: str | bytes) -> Evaluation:
    """The evaluation of one line of JSON; fields of a later version are left out. Raises ValueError for a line that
    cannot be one."""
    return evaluation_from(parsed(line))


def evaluation_from(row: Mapping[str, Any]) -> Evaluation:
    """`from_json` of a line that is read already."""
    if missing := _REQUIRED - row.keys():
        raise ValueError(f"{min(missing)} is missing")
    if row.get("state") in (RUNNING, COMPLETED) and row.get("reason"):
        row = {**row, "notes": (row["reason"],)}  # earlier versions wrote a note so, where no rule and no failure ended
    e = _EVALUATION.validate_python(row)
    for key, value in e.metrics.items():
        if math.isinf(value) and _is_bounded(key):
            raise ValueError(f"metrics.{key} is {value}, outside [0, 1]")
    for key, sums in e.group_sums.items():
        rows = e.group_rows.get(key.partition(".")[0], ())
        if len(sums) != len(rows) or 0 in rows:
            raise ValueError(f"group_sums.{key} has {len(sums)} groups, and their numbers of rows are {list(rows)[:5]}")
    return e


def _is_bounded(key: str) -> bool:
    metric = METRICS.get(key.partition(".")[2])
    return metric is not None and metric.bounded


_EVALUATION = TypeAdapter(Evaluation)
_REQUIRED = {"trial_id", "step", "params", "metrics", "stderr", "violation"}


_PLAIN = ("trial_id", "step", "mixing", "seed", "feasible", "train_seconds", "device", "numerics")
_NESTED = ("params", "metrics", "stderr", "violation", "terms", "rows", "groups", "group_sums", "group_rows")


def flatten(evaluation: Evaluation) -> dict[str, Any]:
    """The row as columns: trial_id, step, ..., notes, params.<key>, metrics.<set>.<metric>, violation.<metric>,
    terms.<name>, ...; group_sums and group_rows are lists."""
    flat: dict[str, Any] = {name: getattr(evaluation, name) for name in _PLAIN}
    flat["notes"] = "; ".join(evaluation.notes)
    for name in _NESTED:
        flat.update({f"{name}.{k}": v for k, v in getattr(evaluation, name).items()})
    return flat


def to_table(evaluations: Iterable[Evaluation]) -> pa.Table:
    """Flat table, one row per evaluation; a column is null where the row has no such value (a parameter of
    another method, the metrics of a failed row). A parameter whose values differ in type is stored as text."""
    flat = [flatten(e) for e in evaluations]
    names = dict.fromkeys(name for row in flat for name in row)
    names = dict.fromkeys((*_PLAIN, "notes")) | {
        n: None for group in _NESTED for n in names if n.startswith(f"{group}.")
    }
    columns: dict[str, pa.Array] = {}
    for name in names:
        values = [row.get(name) for row in flat]
        columns[name] = pa.array(values, type=_column_type(name, values))
        # pa.array keeps NaN as NaN: null means "no such value", NaN means "computed, not a number".
    return pa.table(columns)


def _column_type(name: str, values: list[Any]) -> pa.DataType | None:
    if name.startswith(("metrics.", "stderr.", "violation.", "terms.")) or name in ("mixing", "train_seconds"):
        return pa.float64()
    if name.startswith("group_sums."):
        return pa.list_(pa.float64())
    if name.startswith("group_rows."):
        return pa.list_(pa.int64())
    if name.startswith(("rows.", "groups.")) or name in ("step", "seed"):
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
