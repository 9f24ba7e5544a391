"""What has to be kept after a certified export: the rows that were forgotten, by which later requests are checked."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rayul.records.request import BEFORE
from rayul.spec import TESTBED, Data, FolderData, TofuData
from rayul.spec.source import find


class ToKeep(NamedTuple):
    """key: of the spec, which names the rows. places: their files, with full paths, or the data set's id on the Hub.
    measured_by: what measures them again at the next request, as the beginning of a sentence."""

    key: str
    places: tuple[str, ...]
    measured_by: str


def to_keep(data: Data) -> ToKeep | None:
    """None for rows that can be had again: the testbed's, and TOFU from the Hub."""
    after = "`rayul init --after`"
    match data:
        case FolderData():
            if data.folder == TESTBED:
                return None
            files = [Path(data.folder).expanduser() / name for name in ("forget.jsonl", BEFORE)]
            return ToKeep("data.folder", tuple(str(file.absolute()) for file in files if file.is_file()), after)
        case TofuData():
            place = find(data.tofu)
            return None if place is None else ToKeep("data.tofu", (str(place.absolute()),), after)
    place = find(data.forget.path)
    # The folder of a next request holds whole rows, and no chunks of documents.
    by = after if data.forget.chunk is None else "A probe in the next spec"
    return ToKeep("data.forget", (data.forget.path if place is None else str(place.absolute()),), by)


def keep_line(kept: ToKeep) -> str:
    """For the terminal, which may name paths of this machine."""
    return (
        "To check at a later request whether the rows forgotten here have come back, keep them, unchanged: "
        f"{', '.join(kept.places)} ({kept.key} in the spec). {kept.measured_by} measures them again, and cannot "
        "without them."
    )
