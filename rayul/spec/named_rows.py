"""The files of rows that a spec names and that can be read, however wrong the rest of it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from rayul.spec.data import TESTBED, FolderData
from rayul.spec.load import read_document, spec_text
from rayul.spec.probes import SIDES
from rayul.spec.problems import Loc, SpecError, dotted
from rayul.spec.source import Columns, Rows, Source, find

OF_DATA = (
    "forget",
    "retain",
    "retain_train",
    "retain_select",
    "retain_certify",
    "retain_report",
    "general",
    "holdout",
)
"""The keys of `data` that name a source."""

OF_PROBES = (*SIDES, "holdout")

_FOLDER, _SOURCE, _COLUMNS = TypeAdapter(FolderData), TypeAdapter(Rows), TypeAdapter(Columns)


class NamedRows(NamedTuple):
    """place: the line of the spec, "file:line". key: dotted. rows: a folder laid out as data, or one source. columns:
    as `data.columns` has them."""

    place: str
    key: str
    rows: FolderData | Source
    columns: Mapping[Any, str | None]


def named_rows(path: str | Path, overrides: Sequence[str] = ()) -> list[NamedRows]:
    """What of `data` and of the probes is right by itself and lies on this machine; nothing of a text that cannot be
    read."""
    try:
        document = read_document(spec_text(path), overrides, str(path))
    except SpecError:
        return []
    data, probes = (_mapping(document.data.get(section)) for section in ("data", "probes"))
    columns = _valid(_COLUMNS, data.get("columns") or {})
    folder = _valid(_FOLDER, {"folder": data.get("folder")})
    named: dict[Loc, Any] = {}
    if folder is not None and folder.folder != TESTBED:
        named["data", "folder"] = (folder, {})
    for key in OF_DATA if columns is not None else ():  # without the mapping every column would be called missing
        named["data", key] = (_valid(_SOURCE, data.get(key)), columns)
    for name, probe in probes.items():
        for side in OF_PROBES:
            named["probes", name, side] = (_valid(_SOURCE, _mapping(probe).get(side)), {})
    return [
        NamedRows(document.place(loc), dotted(loc), rows, mapping)
        for loc, (rows, mapping) in named.items()
        if isinstance(rows, FolderData) or (rows is not None and find(rows.path) is not None)
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _valid(kind: TypeAdapter[Any], value: Any) -> Any:
    try:
        return kind.validate_python(value, context={"check_files": True})
    except ValidationError:
        return None
