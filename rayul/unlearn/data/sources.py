"""Every set that the `data` section of a spec names, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayul.errors import InputError
from rayul.spec import Data, FolderData, Source, SourceData, TofuData
from rayul.unlearn.data.files import read_folder, read_rows
from rayul.unlearn.data.hub import load_dataset
from rayul.unlearn.data.overlap import check_apart
from rayul.unlearn.data.row import Row, Sets, row_of
from rayul.unlearn.data.split import split_by_group
from rayul.unlearn.data.tofu import tofu_sets


def load_sets(data: Data) -> Sets:
    """Read every set that `data` names.

    Raises InputError for a missing or empty file, one that is not UTF-8, a line that is not JSON, a row without an
    answer, and for rows that stand in two sets.
    """
    match data:
        case TofuData():
            sets = tofu_sets(data)
        case FolderData():
            sets = read_folder(Path(data.folder).expanduser())
        case SourceData():
            sets = _sources(data)
    for key in ("forget", "retain"):
        if not sets.get(key):
            raise InputError(f"the {key} set has no rows", f"name a file with rows as data.{key}")
    check_apart(sets)
    return sets


def _sources(data: SourceData) -> Sets:
    sets: Sets = {}
    for key in ("forget", "retain_train", "retain_select", "retain_report", "general", "holdout"):
        source = getattr(data, key)
        if source is not None:
            sets["retain" if key == "retain_select" else key] = tuple(_read_source(source, data.columns))
    if data.retain is not None:
        rows = _read_source(data.retain, data.columns)
        parts = split_by_group(rows, (0.6, 0.2, 0.2))
        if not all(parts):
            count = len({row.group or row for row in rows})
            raise InputError(
                f"data.retain: {len(rows)} rows of {count} author{'s' * (count != 1)} cannot be split into training, "
                "control and report rows",
                "name data.retain_train, data.retain_select and data.retain_report yourself",
            )
        for key, rows in zip(("retain_train", "retain", "retain_report"), parts, strict=True):
            sets.setdefault(key, tuple(rows))
    return sets


def _read_source(source: Source, columns: Mapping[Any, str]) -> list[Row]:
    path = Path(source.path).expanduser()
    if path.is_file():
        return read_rows(path, columns)
    records = load_dataset(source.path, source.name, source.split)
    return [row_of(record, f"{source.path}[{source.split}]: row {i}", columns) for i, record in enumerate(records)]
