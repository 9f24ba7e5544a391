"""The rows that a `Source` of a spec names."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rayul.errors import InputError
from rayul.spec import Source
from rayul.unlearn.data.files import has_shards, read_records
from rayul.unlearn.data.hub import load_dataset
from rayul.unlearn.data.row import Row, Window, an_object, cell, row_of
from rayul.words import plural

Records = Sequence[tuple[str, dict[str, Any]]]
"""(place, record) of rows."""


def read_source(source: Source, columns: Mapping[Any, str | None] | None = None) -> list[Row]:
    """The rows of a source: chosen by `where`, shuffled, and limited, in this order. columns: our column names to the
    file's, where the source itself says nothing else.

    Raises InputError that names the place and never the content: for a file that cannot be read, that has no rows, or
    not the columns that `columns` and `where` name; where `where` chooses nothing; and for a row that `row_of` refuses.
    """
    places = ((place, an_object(record, place)) for place, record in _records(source))
    needs_all = bool(source.where or source.unless) or source.shuffle is not None
    records = list(places if needs_all else islice(places, source.limit))
    if not records:
        raise InputError(f"{source.path} has no rows", "name a file with rows")
    _check_columns(source, records)
    records = [(place, record) for place, record in records if _is_asked(record, source)]
    if not records:
        asked = [f"has {column} {_either(wanted)}" for column, wanted in source.where.items()]
        asked += [f"has no {column} {_either(wanted)}" for column, wanted in source.unless.items()]
        raise InputError(
            f"{source.path}: where: no row {' and '.join(asked)}",
            "check the values: they are compared letter by letter",
        )
    if source.shuffle is not None:
        random.Random(source.shuffle).shuffle(records)
    mapping = {**(columns or {}), **source.columns}
    return [_windowed(row_of(record, place, mapping), source, place) for place, record in records[: source.limit]]


def _records(source: Source) -> Iterator[tuple[str, Any]]:
    path = Path(source.path).expanduser()
    if path.is_file() or (path.is_dir() and has_shards(path)):
        return read_records(path, source.split)
    records = load_dataset(source.path, source.name, source.split)
    return ((f"{source.path}[{source.split}]: row {i}", record) for i, record in enumerate(records))


def _check_columns(source: Source, records: Records) -> None:
    found = dict.fromkeys(name for _, record in records for name in record)
    asked = {f"columns.{ours}": theirs for ours, theirs in source.columns.items() if theirs is not None}
    asked |= {f"where.{name}": name for name in source.where} | {f"unless.{name}": name for name in source.unless}
    absent = {
        key: name
        for key, name in asked.items()
        if name not in found and all(cell(record, name) is None for _, record in records)
    }
    if absent:
        there = ", ".join(map(str, found))
        names = " or ".join(map(repr, absent.values()))
        raise InputError(
            f"{source.path}: {', '.join(absent)}: there is no column {names} in {plural(len(records), 'row')}",
            f"the columns are: {there}",
        )


def _is_asked(record: Mapping[str, Any], source: Source) -> bool:
    return all(_holds(record, *one) for one in source.where.items()) and not any(
        _holds(record, *one) for one in source.unless.items()
    )


def _holds(record: Mapping[str, Any], column: str, values: Sequence[Any]) -> bool:
    return record.get(column) is not None and _text(record[column]) in map(_text, values)


def _text(cell: Any) -> str:
    """A cell as tables of text have it: 7, 7.0 (as pandas writes a column with gaps) and "7" are the same, and so are
    true and "True"."""
    text = str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)
    return text.lower() if text in ("True", "False") else text


def _windowed(row: Row, source: Source, place: str) -> Row:
    if source.chunk is None:
        return row
    if not row.text:
        raise InputError(
            f"{place}: chunk is for texts, and this row has a question and an answer",
            "name the column of the text as columns.text, or leave chunk out",
        )
    return replace(row, window=Window(source.chunk, source.stride or source.chunk, source.pack))


def _either(wanted: Sequence[Any]) -> str:
    return " or ".join(map(repr, wanted))
