"""The `data` section: where the rows come from. Reading them is `rayul/unlearn/data/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from rayul.spec.problems import did_you_mean, expected, refuse, refuse_all, show
from rayul.spec.section import Section

TESTBED = "testbed"
"""The name of the embedded model and of the embedded data."""

ROW_FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def looks_local(path: str) -> bool:
    """Whether a text means a path of this machine and not an id on the Hub."""
    return path.startswith((".", "/", "~")) or path.endswith(ROW_FILES)


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


class FolderData(Section):
    """The embedded testbed, or a folder with forget.jsonl, retain_train.jsonl, retain_select.jsonl, ... like it."""

    folder: str = Field(examples=[TESTBED])
    """ "testbed", or the folder's path"""

    @field_validator("folder")
    @classmethod
    def _check(cls, folder: str, info: ValidationInfo) -> str:
        if wants_files(info) and folder != TESTBED:
            found = find(folder)
            if found is None:
                known = did_you_mean(folder, [TESTBED])
                raise missing(folder) if looks_local(folder) else refuse(f"no folder {show(folder)}", known)
            if not found.is_dir():
                raise refuse(f"{show(folder)} is a file", "name the sources: {forget: FILE, retain: FILE}")
        return folder


class TofuData(Section):
    """The TOFU benchmark (arXiv 2401.06121): 200 fictional authors with 20 rows each."""

    tofu: RowsPath = Field(examples=["locuslab/TOFU"])
    """The Hub id, or a folder with the data set's files."""
    forget: str = "forget10"
    """forgetNN: the last NN percent of the 200 authors are forgotten."""
    authors: int = Field(default=200, ge=1, le=200)
    """Authors in use: the first 20 are retain-select and retain-report, the last are forgotten, and authors in between
    are for training, from the front, up to this total."""

    @property
    def forgotten_authors(self) -> int:
        return 2 * int(self.forget.removeprefix("forget"))

    @model_validator(mode="after")
    def _check(self) -> TofuData:
        number = self.forget.removeprefix("forget")
        if not (self.forget.startswith("forget") and number.isascii() and number.isdigit() and 1 <= int(number) <= 89):
            hint = "forget01, forget05 and forget10 are published, forget01 to forget89 are understood"
            raise refuse_all([(("forget",), refuse(f"unknown split {show(self.forget)}", hint))])
        least = 20 + self.forgotten_authors + 1
        if self.authors < least:
            text = f"{self.authors} leave none to train on: 20 are kept, the last {self.forgotten_authors} forgotten"
            raise refuse_all([(("authors",), refuse(text, f"at least {least}"))])
        return self


class Source(Section):
    """One table of rows: a file, or a data set on the Hub."""

    path: RowsPath = Field(examples=["forget.jsonl"])
    name: str | None = None
    """The data set's configuration on the Hub."""
    split: str = "train"


def _source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


Rows = Annotated[Source, BeforeValidator(_source)]
Column = Literal[
    "question", "answer", "paraphrased_question", "paraphrased_answer", "perturbed_answer", "group", "text"
]


GROUP_ALIAS = "author"
"""Another name of the column `group`, in files and in `columns`."""


def _columns(value: Any) -> Any:
    if not isinstance(value, dict) or GROUP_ALIAS not in value:
        return value
    if "group" in value:
        raise refuse(f"maps both group and {GROUP_ALIAS}, which mean the same", "keep group")
    return {"group" if name == GROUP_ALIAS else name: column for name, column in value.items()}


class SourceData(Section):
    """Your own rows. A single `retain` is split by group: 50% training, 20% select, 20% certify, 10% report."""

    forget: Rows = Field(examples=["forget.jsonl"])
    retain: Rows | None = None
    retain_train: Rows | None = None
    retain_select: Rows | None = None
    retain_report: Rows | None = None
    general: Rows | None = None
    holdout: Rows | None = None
    columns: Annotated[dict[Column, str], BeforeValidator(_columns)] = Field(default_factory=dict)
    """The file's own name of a column, by ours; what is not listed has our name. A row with a text in place of question
    and answer is a verbatim passage: its first half is the prompt, its second half what the model must not continue."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "retain_control" not in value:
            return value
        if value.get("retain_select") is not None:
            raise refuse("names both retain_select and retain_control, which mean the same", "keep retain_select")
        return {"retain_select" if key == "retain_control" else key: child for key, child in value.items()}

    @model_validator(mode="after")
    def _check_retain(self) -> SourceData:
        parts = {name: getattr(self, name) for name in ("retain_train", "retain_select", "retain_report")}
        absent = [name for name, source in parts.items() if source is None]
        if self.retain is not None and len(absent) < len(parts):
            raise refuse("retain is given together with its parts", f"remove retain, or {', '.join(parts)}")
        if self.retain is None and absent:
            raise refuse(f"{', '.join(absent)} missing", "give retain, which is split by group, or all its three parts")
        return self


def parse_data(value: Any, info: ValidationInfo) -> Any:
    """The section's form by its keys. Raises what that form raises."""
    if isinstance(value, (FolderData, TofuData, SourceData)):
        return value
    if isinstance(value, str):
        value = {"folder": value}
    if not isinstance(value, dict):
        raise expected("testbed, a folder or a mapping", value)
    form = TofuData if "tofu" in value else FolderData if "folder" in value else SourceData
    return form.model_validate(value, context=info.context)


Data = FolderData | TofuData | SourceData
AnyData = Annotated[Data, PlainValidator(parse_data)]

COLUMNS: tuple[str, ...] = get_args(Column)
