"""The `data` section: where the rows come from. Reading them is `rayul/unlearn/data/`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo

from rayul.errors import InputError
from rayul.spec.problems import did_you_mean, expected, refuse, refuse_all, show
from rayul.spec.section import Section
from rayul.spec.source import Columns, Rows, RowsPath, Source, find, looks_local, missing, wants_files

TESTBED = "testbed"
"""The name of the embedded model and of the embedded data."""

TESTBED_GROUPS = 20
"""Authors of the testbed in each set that judges what is kept."""


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
    """Authors in use: the last are forgotten, the first judge what is kept, and authors in between are for training,
    from the front, up to this total."""
    split: Literal["default", "published"] = "default"
    """default: of 180 retain authors 10 are retain-report, 30 retain-select and 40 retain-certify, of fewer the same
    shares. published: the first 400 rows judge, as is usual for TOFU: 10 authors each for retain-select and
    retain-report, and none for a certificate."""

    @property
    def forgotten_authors(self) -> int:
        return 2 * int(self.forget.removeprefix("forget"))

    @property
    def judging_authors(self) -> dict[str, int]:
        """Authors by the set that they are in; the first authors of the data set, in this order."""
        if self.split == "published":
            return {"retain": 10, "retain_report": 10}
        share = min(1.0, (self.authors - self.forgotten_authors) / 180)
        # retain_report comes first: only TOFU's first 20 authors have the wrong answers that model_utility needs.
        of_all = {"retain_report": 10, "retain": 30, "retain_certify": 40}
        return {name: max(1, round(share * authors)) for name, authors in of_all.items()}

    @model_validator(mode="after")
    def _check(self) -> TofuData:
        number = self.forget.removeprefix("forget")
        if not (self.forget.startswith("forget") and number.isascii() and number.isdigit() and 1 <= int(number) <= 89):
            hint = "forget01, forget05 and forget10 are published, forget01 to forget89 are understood"
            raise refuse_all([(("forget",), refuse(f"unknown split {show(self.forget)}", hint))])
        judging = sum(self.judging_authors.values())
        if self.authors - self.forgotten_authors <= judging:
            forgotten = self.forgotten_authors
            text = f"{self.authors} leave none to train on: {judging} judge, the last {forgotten} are forgotten"
            least = forgotten + (4 if self.split == "default" else judging + 1)
            raise refuse_all([(("authors",), refuse(text, f"at least {least}"))])
        return self


class Split(Section):
    """Shares of the rows of `retain`; whole groups go to one part."""

    train: float = Field(default=0.5, gt=0, lt=1)
    """retain_train: what the retain term of a loss trains on."""
    select: float = Field(default=0.2, gt=0, lt=1)
    """retain_select: what limits and objectives are measured on."""
    certify: float = Field(default=0.2, ge=0, lt=1)
    """retain_certify: read once, by the certificate. 0 for none, with `certify: false`."""
    report: float = Field(default=0.1, gt=0, lt=1)
    """retain_report: what the final report and the audit measure, and no decision uses."""

    reserve: float = Field(default=0.0, ge=0, lt=1)
    """Kept unread, for the certificates of later requests (`rayul init --after`)."""

    @model_validator(mode="after")
    def _check_sum(self) -> Split:
        total = self.train + self.select + self.certify + self.report + self.reserve
        if abs(total - 1) > 1e-6:
            raise refuse(f"the shares add up to {total:g}", "give all, so that they add up to 1")
        return self


BEFORE_CERTIFY = Split(train=0.6, select=0.2, certify=0, report=0.2)
"""What was the only split before there were certify rows."""


class SourceData(Section):
    """Your own rows. A single `retain` is split by group, as `split` says."""

    forget: Rows = Field(examples=["forget.jsonl"])
    retain: Rows | None = None
    split: Split = Split()
    retain_train: Rows | None = None
    retain_select: Rows | None = None
    retain_certify: Rows | None = None
    retain_report: Rows | None = None
    general: Rows | None = None
    holdout: Rows | None = None
    columns: Columns = Field(default_factory=dict)
    """The files' names of rayul's columns, where a source gives no others; a column not listed has rayul's name.
    A row with a text in place of question and answer is a verbatim passage: its first half is the prompt, its second
    half what the model must not continue."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "retain_control" not in value:
            return value
        if value.get("retain_select") is not None:
            raise refuse("names both retain_select and retain_control, which mean the same", "keep retain_select")
        now = {"retain_select" if key == "retain_control" else key: child for key, child in value.items()}
        return {"split": BEFORE_CERTIFY} | now  # the spec.yaml of earlier results: the same rows in the same sets

    @model_validator(mode="after")
    def _check_retain(self) -> SourceData:
        names = ("retain_train", "retain_select", "retain_certify", "retain_report")
        given = [name for name in names if getattr(self, name) is not None]
        if self.retain is not None and given:
            raise refuse("retain is given together with its parts", f"remove retain, or {', '.join(given)}")
        return self

    @property
    def absent(self) -> list[str]:
        """The parts of the retain rows that are named nowhere, but for the certify rows."""
        names = ("retain_train", "retain_select", "retain_report")
        return [name for name in names if self.retain is None and getattr(self, name) is None]

    @property
    def judges_retain(self) -> bool:
        """Whether there are retain-select rows."""
        return "retain_select" not in self.absent


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
AnyData = Annotated[Data, PlainValidator(parse_data, json_schema_input_type=Data | str)]


def check_chunks(data: Data, limit: int | None) -> None:
    """Raises InputError for a source whose chunks would be longer than a model reads (`limit` tokens; None: it is not
    known), however long its texts are."""
    for name, source in data:
        if isinstance(source, Source) and limit is not None and (source.chunk or 0) > limit:
            raise InputError(
                f"data.{name}.chunk is {source.chunk:,}, and the model has {limit:,} positions",
                f"set {limit} or less, or choose a model with more positions",
            )
