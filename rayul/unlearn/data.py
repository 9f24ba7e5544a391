"""Rows and the sets they stand in: what to forget, what to keep, what to judge by.

| set | used by |
| --- | --- |
| forget | the unlearning loss; forget metrics |
| retain_train | the retain term of a loss |
| retain | criteria and objectives ("retain-control") |
| retain_report | the final report only |
| general | utility outside the subject of the data |
| holdout | rows that no model was trained on (membership inference) |
| real_authors, world_facts | TOFU's two parts of general, apart, for its model utility |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayul.errors import InputError
from rayul.spec import COLUMNS, Data, FolderData, Source, SourceData, TofuData

Sets = dict[str, tuple["Row", ...]]

FILES = {
    "forget": "forget.jsonl",
    "retain_train": "retain_train.jsonl",
    "retain": "retain_control.jsonl",
    "retain_report": "retain_report.jsonl",
    "general": "general.jsonl",
    "holdout": "holdout.jsonl",
}
"""The layout of a data folder; the first three files must be there."""


@dataclass(frozen=True)
class Row:
    """One question and its answer. `perturbed_answer`: wrong answers in the words of the paraphrased one (TOFU).
    `author` groups the rows that belong together, for splits and bootstrap ("" = on its own). `text`: a passage that
    question and answer are the two halves of, to be continued verbatim, without a template (MUSE, arXiv 2407.06460)."""

    question: str
    answer: str
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    perturbed_answer: tuple[str, ...] = ()
    author: str = ""
    text: str = ""


def load_sets(data: Data) -> Sets:
    """Read every set that `data` names.

    Raises InputError for a missing or empty file, a line that is not JSON, a row without an answer, and for
    forget rows that also stand in a retain set.
    """
    match data:
        case TofuData():
            sets = _tofu(data)
        case FolderData():
            sets = read_folder(Path(data.folder).expanduser())
        case SourceData():
            sets = _sources(data)
    _check(sets)
    return sets


# --- reading -----------------------------------------------------------------------------------------------------


def read_folder(folder: Path) -> Sets:
    """Sets of a folder laid out as FILES."""
    missing = [name for name in list(FILES.values())[:3] if not (folder / name).exists()]
    if missing:
        raise InputError(
            f"data folder {folder} has no {', '.join(missing)}",
            f"a data folder holds {', '.join(FILES.values())}; or name single files as data.forget, data.retain",
        )
    return {key: tuple(read_rows(folder / name)) for key, name in FILES.items() if (folder / name).exists()}


def read_rows(path: Path, columns: Mapping[Any, str] | None = None) -> list[Row]:
    """Rows of a JSON-lines or Parquet file. `columns` maps our column names to the file's.

    Raises InputError naming file and line.
    """
    return [_row(record, place, columns or {}) for place, record in _records(path)]


def column_names(path: Path) -> list[str]:
    """The file's own names of its columns, as its first row has them. Raises InputError naming file and line."""
    place, first = next(iter(_records(path)), (f"{path}", {}))
    if not isinstance(first, dict):
        raise InputError(f"{place}: a {type(first).__name__}, not an object", "one JSON object a line")
    return [str(name) for name in first]


def _records(path: Path) -> Iterable[tuple[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file", "check the path; relative paths start at the working directory")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    return _json_lines(path)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON lines with TOFU's column names; empty optional columns are left out."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            names = ("text", "author") if row.text else COLUMNS
            values = {name: getattr(row, name) for name in names}
            file.write(json.dumps({k: v for k, v in values.items() if v}, ensure_ascii=False) + "\n")


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}", "write it again") from None
    return ((f"{path}: row {i}", record) for i, record in enumerate(records))


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, a list in a list in a ...
                # The text of a row may be private: name the place, never the content.
                what = (
                    f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too large"
                )
                raise InputError(
                    f"{path}:{number}: not JSON: {what}", 'one JSON object a line: {"question": ..., "answer": ...}'
                ) from None


def _row(record: Any, place: str, columns: Mapping[Any, str]) -> Row:
    if not isinstance(record, dict):
        raise InputError(f"{place}: a {type(record).__name__}, not an object", "one JSON object a line")
    values = {name: record.get(columns.get(name, name)) for name in COLUMNS}
    if isinstance(values["text"], str) and not values["question"] and not values["answer"]:
        return _passage(values["text"], str(values["author"] or ""), place)
    for name in ("question", "answer"):
        text = values[name]
        if not isinstance(text, str) or not text.strip():
            found = ", ".join(map(str, record)) or "nothing"
            raise InputError(
                f"{place}: no {columns.get(name, name)!r}: it must be a text that is not empty",
                f"the columns are: {found}; map yours with data.columns.{name}",
            )
    perturbed = values["perturbed_answer"] or ()
    perturbed = tuple(map(str, perturbed)) if isinstance(perturbed, list | tuple) else (str(perturbed),)
    texts = {name: str(values[name] or "") for name in COLUMNS if name not in ("perturbed_answer", "text")}
    return Row(**texts, perturbed_answer=perturbed)


def _passage(text: str, author: str, place: str) -> Row:
    """A passage as prompt and continuation, cut at the blank nearest to its middle."""
    blanks = [match.start() for match in re.finditer(r"(?<=\S)\s+(?=\S)", text)]
    if not blanks:
        raise InputError(f"{place}: a text of one word has nothing to continue", "remove the row")
    cut = min(blanks, key=lambda at: abs(at - len(text) / 2))
    return Row(text[:cut], text[cut:], author=author, text=text)


# --- one's own files and Hub data sets ---------------------------------------------------------------------------


def _sources(data: SourceData) -> Sets:
    sets: Sets = {}
    for key in ("forget", "retain_train", "retain_control", "retain_report", "general", "holdout"):
        source = getattr(data, key)
        if source is not None:
            sets["retain" if key == "retain_control" else key] = tuple(_read_source(source, data.columns))
    if data.retain is not None:
        rows = _read_source(data.retain, data.columns)
        parts = split_by_author(rows, (0.6, 0.2, 0.2))
        if not all(parts):
            count = len({row.author or row for row in rows})
            raise InputError(
                f"data.retain: {len(rows)} rows of {count} author{'s' * (count != 1)} cannot be split into training, "
                "control and report rows",
                "name data.retain_train, data.retain_control and data.retain_report yourself",
            )
        for key, rows in zip(("retain_train", "retain", "retain_report"), parts, strict=True):
            sets.setdefault(key, tuple(rows))
    return sets


def _read_source(source: Source, columns: Mapping[Any, str]) -> list[Row]:
    path = Path(source.path).expanduser()
    if path.is_file():
        return read_rows(path, columns)
    records = _load_dataset(source.path, source.name, source.split)
    return [_row(record, f"{source.path}[{source.split}]: row {i}", columns) for i, record in enumerate(records)]


def _load_dataset(path: str, name: str | None, split: str) -> Iterable[Any]:
    import datasets

    try:
        loaded: Iterable[Any] = datasets.load_dataset(path, name, split=split)
    except Exception as error:  # datasets raises a dozen types; all mean "not to be had", and the message says why
        raise InputError(
            f"cannot load data set {path!r} (config {name}, split {split}): {type(error).__name__}: {error}",
            "check the id, the network or HF_TOKEN; or name a local .jsonl or .parquet file",
        ) from error
    return loaded


def split_by_author(rows: Sequence[Row], fractions: Sequence[float]) -> list[list[Row]]:
    """Split rows in their order into consecutive parts; all rows of an author stay in one part."""
    groups: dict[str, list[Row]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.author or f"row {i}", []).append(row)
    parts: list[list[Row]] = [[] for _ in fractions]
    bounds = [sum(fractions[: i + 1]) * len(rows) for i in range(len(fractions))]
    done, part = 0, 0
    for group in groups.values():
        # A group goes where its middle falls, so that no part is starved by one large author.
        while part < len(fractions) - 1 and done + len(group) / 2 > bounds[part]:
            part += 1
        parts[part] += group
        done += len(group)
    return parts


# --- TOFU (arXiv 2401.06121) -------------------------------------------------------------------------------------

ROWS_PER_AUTHOR = 20
CONTROL_AUTHORS = 20
"""TOFU's `retain_perturbed` is the first 400 rows: the first 20 authors judge the retention, nobody trains on them."""

LOCAL_ONLY = ("holdout10",)
"""Files that the data set on the Hub does not have."""


def _tofu(data: TofuData) -> Sets:
    """TOFU from the Hub or from a folder of its files, cut to `authors` of its 200.

    The forget set is the last authors, as in TOFU's own splits; the first 20 authors are retain (10) and
    retain_report (10); the authors after them, up to the total, are retain_train.
    """
    place, forget_authors = data.tofu, data.forgotten_authors
    full = _tofu_file(place, "full")
    train_authors = data.authors - CONTROL_AUTHORS - forget_authors
    named = [_with_author(row, i // ROWS_PER_AUTHOR) for i, row in enumerate(full)]
    control = CONTROL_AUTHORS * ROWS_PER_AUTHOR
    perturbed = {row.question: row for row in _tofu_file(place, "retain_perturbed", optional=True)}
    # forget05_perturbed is a slice of forget10_perturbed, and so on: the largest split has them all.
    perturbed |= {row.question: row for row in _tofu_file(place, "forget10_perturbed", optional=True)}
    if not any(row.question in perturbed for row in named[len(named) - forget_authors * ROWS_PER_AUTHOR :]):
        perturbed |= {row.question: row for row in _tofu_file(place, "forget01_perturbed", optional=True)}
    judged = [_merged(row, perturbed.get(row.question)) for row in named[:control]]
    facts = {
        name: tuple(_tofu_file(place, f"{name}_perturbed", optional=True)) for name in ("real_authors", "world_facts")
    }
    sets = {
        "forget": tuple(
            _merged(row, perturbed.get(row.question)) for row in named[-forget_authors * ROWS_PER_AUTHOR :]
        ),
        "retain_train": tuple(named[control : control + train_authors * ROWS_PER_AUTHOR]),
        "retain": tuple(judged[: control // 2]),
        "retain_report": tuple(judged[control // 2 :]),
        "general": tuple(row for rows in facts.values() for row in rows),
        "holdout": tuple(_tofu_file(place, "holdout10", optional=True)),
    } | facts
    return {key: rows for key, rows in sets.items() if rows}


def _tofu_file(place: str, name: str, optional: bool = False) -> list[Row]:
    folder = Path(place).expanduser()
    if folder.is_dir():
        path = folder / f"{name}.json"
        if optional and not path.exists():
            return []
        return read_rows(path)
    if name in LOCAL_ONLY:
        return []
    return [_row(r, f"{place}/{name}: row {i}", {}) for i, r in enumerate(_load_dataset(place, name, "train"))]


def _with_author(row: Row, author: int) -> Row:
    return Row(row.question, row.answer, author=f"author {author:03d}")


def _merged(row: Row, other: Row | None) -> Row:
    if other is None:
        return row
    return Row(
        row.question,
        row.answer,
        other.paraphrased_question,
        other.paraphrased_answer,
        other.perturbed_answer,
        row.author,
    )


# --- checks ------------------------------------------------------------------------------------------------------


def _check(sets: Sets) -> None:
    for key in ("forget", "retain"):
        if not sets.get(key):
            raise InputError(f"the {key} set has no rows", f"name a file with rows as data.{key}")
    forget = {(row.question, row.answer): i for i, row in enumerate(sets["forget"], 1)}
    both = [
        f"forget row {forget[row.question, row.answer]} = {key} row {i}"
        for key in ("retain_train", "retain", "retain_report")
        for i, row in enumerate(sets.get(key, ()), 1)
        if (row.question, row.answer) in forget
    ]
    if both:
        raise InputError(
            f"{len(both)} rows to forget also stand in a set to retain: {'; '.join(both[:3])}",
            "a row cannot be both: remove it from the retain file",
        )
