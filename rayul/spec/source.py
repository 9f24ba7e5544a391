"""`Source`: one table of rows (a file, a folder or a data set on the Hub), and which of its rows to take. The section
`data` and everything else that names rows uses it. `rayul.unlearn.data.read_source` reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from rayul.spec.forms import form
from rayul.spec.problems import expected, refuse, refuse_all, show
from rayul.spec.section import Section

TEXT_FILES = (".jsonl", ".json", ".csv", ".tsv")
ROW_FILES = (*TEXT_FILES, *(f"{ending}.gz" for ending in TEXT_FILES), ".parquet")
"""How the names of files of rows end."""

Column = Literal[
    "question",
    "answer",
    "paraphrased_question",
    "paraphrased_answer",
    "perturbed_answer",
    "group",
    "text",
    "choices",
    "subject",
    "messages",
    "examples",
]
COLUMNS: tuple[str, ...] = get_args(Column)

ONLY_MAPPED = ("examples",)
"""Columns that are read where `columns` names them: files have others of that name."""

GROUP_ALIAS = "author"
"""Another name of the column `group`, in files and in `columns`."""


_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""`name` or `owner/name`."""


def looks_local(path: str) -> bool:
    """Whether a text means a path of this machine and not an id on the Hub (or a URL)."""
    if path.startswith((".", "/", "~")) or path.lower().endswith(ROW_FILES):
        return True
    return "://" not in path and _HUB_ID.fullmatch(path) is None


def find(path: str) -> Path | None:
    """The file or folder, `~` expanded; None where there is none, for whatever reason."""
    try:
        found = Path(path).expanduser()
        return found if found.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, nobody's home, a zero byte
        return None


def wants_files(info: ValidationInfo) -> bool:
    """Whether this validation looks at the disk: when a spec is loaded, not when a trial fills in its values."""
    return bool(info.context and info.context.get("check_files"))


def missing(path: str) -> PydanticCustomError:
    return refuse(f"{show(path)} does not exist", f"paths start at the current folder, {Path.cwd()}")


def _check_path(path: str, info: ValidationInfo) -> str:
    if not path:
        raise refuse("is empty", "write a path or a Hub id")
    if wants_files(info) and looks_local(path):
        found = find(path)
        if found is None:
            raise missing(path)
        if found.is_file() and not found.stat().st_size:
            raise refuse(f"{show(path)} is an empty file", "it has to hold one row at least")
    return path


RowsPath = Annotated[str, AfterValidator(_check_path)]


def _columns(value: Any) -> Any:
    if not isinstance(value, dict) or GROUP_ALIAS not in value:
        return value
    if "group" in value:
        raise refuse(f"maps both group and {GROUP_ALIAS}, which mean the same", "keep group")
    return {"group" if name == GROUP_ALIAS else name: column for name, column in value.items()}


_COLUMNS = form(
    type="object", propertyNames={"enum": [*COLUMNS, GROUP_ALIAS]}, additionalProperties={"type": ["string", "null"]}
)
Columns = Annotated[dict[Column, str | None], BeforeValidator(_columns), _COLUMNS]
"""The file's name of a column, by rayul's; null for a column that is not to be read. With dots: a part of a column."""

Cell = str | int | float | bool


def _cells(value: Any) -> tuple[Cell, ...]:
    """What a column may hold: one value, or a list of them."""
    cells = value if isinstance(value, list | tuple) else [value]
    if not cells:
        raise refuse("is empty", "give the values that the column may hold, or remove the key")
    for cell in cells:
        if not isinstance(cell, Cell):
            raise expected("a text, a number, true or false, or a list of these", cell)
    return tuple(cells)


_CELL = {"type": ["string", "integer", "number", "boolean"]}
_CELLS = form(anyOf=[_CELL, {"type": "array", "items": _CELL, "minItems": 1}])


class Source(Section):
    """One table of rows, and which of them. A plain text is its `path`.

    The order is: `where` and `unless` pick rows, `shuffle` puts them in another order, `limit` takes the first of them.
    """

    path: RowsPath = Field(examples=["forget.jsonl"])
    """A file (.jsonl, .json, .csv, .tsv, each also .gz, or .parquet), a folder of Parquet shards, or a data set on the
    Hub."""
    name: str | None = None
    """The data set's configuration on the Hub."""
    split: str = "train"
    """Split of a data set on the Hub, or of a folder whose shards are named by split (train-00000-of-00002.parquet)."""
    columns: Columns = Field(default_factory=dict)
    """The file's names of rayul's columns, in place of those in `data.columns`; null reads no such column."""
    where: dict[str, Annotated[tuple[Cell, ...], PlainValidator(_cells), _CELLS]] = Field(
        default_factory=dict, examples=["{subject: biology}"]
    )
    """Takes the rows whose columns (by the file's own names) hold this value, or one of a list of values."""
    unless: dict[str, Annotated[tuple[Cell, ...], PlainValidator(_cells), _CELLS]] = Field(default_factory=dict)
    """Leaves out the rows that hold one of these values in any of these columns."""
    shuffle: int | None = Field(default=None, ge=0)
    """Seed of a random order of the rows, the same each time; null keeps the file's order."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of rows."""
    chunk: int | None = Field(default=None, ge=8)
    """Cuts texts into rows of this many tokens, each document by itself, and trains on all tokens; metrics ask for the
    second half of a chunk after its first. null trains on and measures the second half of each text as it is."""
    stride: int | None = Field(default=None, ge=1)
    """Tokens from the beginning of a chunk to that of the next; null for chunks that do not overlap."""
    pack: bool = False
    """Fills the rows of training with several short chunks, each of which attends to itself alone: for `forget` and
    `retain_train`. What is measured stays chunk by chunk."""

    @model_validator(mode="after")
    def _check_window(self) -> Source:
        if self.pack and self.chunk is None:
            raise refuse_all([(("pack",), refuse("has no meaning without chunk", "add chunk, the tokens of each"))])
        if self.stride is not None and self.chunk is None:
            raise refuse_all([(("stride",), refuse("has no meaning without chunk", "add chunk, the tokens of each"))])
        if self.stride is not None and self.chunk is not None and self.stride > self.chunk:
            text = f"{self.stride} is more than chunk, {self.chunk}: the text between two chunks would be left out"
            raise refuse_all([(("stride",), refuse(text, "at most chunk"))])
        return self


def _source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


Rows = Annotated[Source, BeforeValidator(_source, json_schema_input_type=Source | str)]
"""A source in a spec: a mapping, or its path alone."""
