"""Files of rows: JSON lines, a JSON array, CSV or TSV in UTF-8, each also compressed with gzip, or Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from rayul.errors import InputError
from rayul.spec import COLUMNS
from rayul.unlearn.data.row import Row, Sets, an_object, row_of

FILES = {
    "forget": "forget.jsonl",
    "retain_train": "retain_train.jsonl",
    "retain": "retain_select.jsonl",
    "retain_certify": "retain_certify.jsonl",
    "retain_report": "retain_report.jsonl",
    "general": "general.jsonl",
    "holdout": "holdout.jsonl",
}
"""The layout of a data folder; the first three files must be there."""

RESERVE_FILE = "reserve.jsonl"
"""In a data folder: rows that are in no set, for the certificates of later requests."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}

PACKED = {
    b"\x1f\x8b": ("compressed with gzip", "give it a name that ends in .gz"),
    b"BZh": ("compressed with bzip2", "unpack it with bunzip2"),
    b"\xfd7zXZ": ("compressed with xz", "unpack it with unxz"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it with unzstd"),
    b"PK\x03\x04": ("a zip archive, as spreadsheets (.xlsx) are", "unpack it, or save the table as CSV"),
    b"PAR1": ("a Parquet file", "give it a name that ends in .parquet"),
}
"""How files begin that are no text: what they are, and the way out."""

SPLITS = {"train", "test", "validation", "valid", "val", "dev"}
"""What files of one split are usually called."""

EARLIER = {"retain": "retain_control.jsonl"}
"""File names of folders of earlier versions."""


def read_folder(folder: Path) -> Sets:
    """Sets of a folder laid out as FILES."""
    places = {key: _place(folder, key) for key in FILES}
    missing = [FILES[key] for key in list(FILES)[:3] if not places[key].exists()]
    if missing:
        raise InputError(
            f"data folder {folder} has no {', '.join(missing)}",
            f"a data folder holds {', '.join(FILES.values())}; or name single files as data.forget, data.retain",
        )
    return {key: tuple(read_rows(place)) for key, place in places.items() if place.exists()}


def _place(folder: Path, key: str) -> Path:
    place, earlier = folder / FILES[key], folder / EARLIER.get(key, FILES[key])
    return earlier if earlier.exists() and not place.exists() else place


def read_rows(path: Path, columns: Mapping[Any, str | None] | None = None) -> list[Row]:
    """Rows of a JSON-lines, JSON, CSV, TSV or Parquet file. `columns` maps our column names to the file's.

    Raises InputError naming file and line.
    """
    return [row_of(record, place, columns or {}) for place, record in read_records(path)]


def column_names(path: Path) -> list[str]:
    """The file's own names of its columns, as its first row has them. Raises InputError naming file and line."""
    place, first = next(iter(read_records(path)), (f"{path}", {}))
    return [str(name) for name in an_object(first, place)]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON lines with TOFU's column names; empty optional columns are left out."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            names = ("text", "group") if row.text else COLUMNS
            values = asdict(row)
            if row.choices:
                values["question"] = row.stem
            if row.history:
                turns = (*row.history, ("user", row.question), ("assistant", row.answer))
                values["messages"] = [{"role": role, "content": text} for role, text in turns]
                values["question"] = values["answer"] = ""
            file.write(json.dumps({k: values[k] for k in names if values.get(k)}, ensure_ascii=False) + "\n")


def read_records(path: Path, split: str = "train") -> Iterator[tuple[str, Any]]:
    """(place, record) of every row of a file, or of a folder's Parquet shards. split: the shards to read where their
    names say one."""
    if path.is_dir() and has_shards(path):
        return chain.from_iterable(map(_parquet_rows, _shards(path, split)))
    if not path.is_file():
        raise InputError(f"{path}: no such file", "check the path; relative paths start at the working directory")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix == ".parquet":
        return _parquet_rows(path)
    text = _decoded(path)
    if suffix in DELIMITERS:
        return _delimited(path, text, DELIMITERS[suffix])
    return _json_array(path, text) if text.lstrip().startswith("[") and suffix == ".json" else _lines(path, text)


def has_shards(folder: Path) -> bool:
    """Whether a folder holds Parquet files, which `read_records` then reads."""
    return any(folder.glob("*.parquet"))


def _shards(folder: Path, split: str) -> list[Path]:
    """The Parquet files of a folder, in the order of their names: those of the split, or where no name begins with the
    name of a split, all."""
    shards: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        shards.setdefault(re.sub(r"-\d+-of-\d+$", "", path.stem), []).append(path)
    if split in shards:
        return shards[split]
    if split != "train" or shards.keys() & SPLITS:
        raise InputError(
            f"{folder}: no shards of the split {split!r}: the names begin with {', '.join(shards)}",
            "name the split, or the one file",
        )
    return [path for paths in shards.values() for path in paths]


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix.lower() != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be unpacked with gzip: {error}", "compress it again") from None


def _decoded(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises InputError that names the likely encoding of any
    other: replaced letters would be trained on and scored without a word."""
    data = _unpacked(path)
    for beginning, (kind, way_out) in PACKED.items():
        if data.startswith(beginning):
            raise InputError(f"{path}: {kind}, not rows as text", way_out)
    # Most text has a zero in every second byte of UTF-16 without a mark, and three in every four of UTF-32.
    zeros = data[:100].count(0) / 100
    if data.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")) or zeros > 0.6:
        raise InputError(f"{path}: encoded as UTF-32, not UTF-8", _convert(path, "utf-32"))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or zeros > 0.2:
        raise InputError(f"{path}: encoded as UTF-16, not UTF-8", _convert(path, "utf-16"))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        raise InputError(
            f"{path}:{line}: not UTF-8 (byte 0x{byte:02x}); the file is likely Latin-1 or Windows-1252",
            _convert(path, "cp1252"),
        ) from None


def _convert(path: Path, encoding: str) -> str:
    return f"convert it: iconv -f {encoding} -t utf-8 {path} > {path.stem}-utf8{path.suffix}"


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield f"{path}:{number}", _json(line.strip(), f"{path}:{number}")


def _json_array(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    rows = _json(text, str(path))
    return ((f"{path}: row {i}", record) for i, record in enumerate(rows, 1))


def _json(text: str, place: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_once([name for name, _ in pairs], place)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, a list in a list in a ...
        # The text of a row may be private: name the place, never the content.
        what = "too large"
        if isinstance(error, json.JSONDecodeError):
            place = place if error.lineno == 1 else f"{place}:{error.lineno}"
            what = f"{error.msg.removesuffix(' starting at')} at column {error.colno}"
        raise InputError(
            f"{place}: not JSON: {what}", 'one JSON object per line: {"question": ..., "answer": ...}'
        ) from None


def _check_once(names: Sequence[str], place: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{place}: has {twice[0]!r} twice", "keep one of the two")


def _delimited(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, Any]]:
    """Rows of a table whose first line names the columns (one that it leaves blank, such as pandas' index, is called
    after its number); an empty cell is a missing value."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name if name.strip() else f"column {i}" for i, name in enumerate(reader.fieldnames or (), 1)]
        reader.fieldnames = names or None
        _check_once(names, f"{path}:1")
        if len(names) == 1 and (other := next((mark for mark in ";\t|," if mark in names[0]), None)):
            raise InputError(
                f"{path}:1: one column, {names[0]!r}: the cells seem to be separated by {other!r}",
                f"save it with {delimiter!r} between the cells" + (", or as .tsv" if other == "\t" else ""),
            )
        for record in reader:
            place = f"{path}:{reader.line_num}"
            if None in record or None in record.values():
                raise InputError(
                    f"{place}: more or fewer cells than the first line has columns ({len(reader.fieldnames or ())})",
                    'put a cell that holds a delimiter or a line break in double quotes: "..."',
                )
            yield place, {name: value or None for name, value in record.items()}
    except csv.Error as error:
        hint = "quote cells as RFC 4180 does, or write JSON lines, whose texts may have any length"
        raise InputError(f"{path}:{reader.line_num}: {error}", hint) from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}", "write it again") from None
    return ((f"{path}: row {i}", record) for i, record in enumerate(records))
