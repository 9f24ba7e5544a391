"""Every set that the `data` section of a spec names, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rayul.errors import InputError
from rayul.spec import RESERVE, Data, FolderData, ProbeRows, SourceData, Split, TofuData
from rayul.unlearn.data.files import RESERVE_FILE, read_folder, read_rows
from rayul.unlearn.data.overlap import check_apart, check_probes_apart
from rayul.unlearn.data.probes import probe_sets
from rayul.unlearn.data.row import Row, Sets, group_numbers
from rayul.unlearn.data.source import read_source
from rayul.unlearn.data.split import split_by_group
from rayul.unlearn.data.tofu import tofu_sets
from rayul.words import plural

PARTS = {
    "retain_train": "retain_train",
    "retain": "retain_select",
    "retain_certify": "retain_certify",
    "retain_report": "retain_report",
}
"""The sets that `data.retain` is split into, by their names in the `data` section."""


_NO_PROBES: Mapping[str, ProbeRows] = MappingProxyType({})


def load_sets(data: Data, probes: Mapping[str, ProbeRows] = _NO_PROBES) -> Sets:
    """Read every set that `data` names, and those of the probes.

    Raises InputError for a missing or empty file, one that is not UTF-8, a line that is not JSON, a row without an
    answer, and for rows that stand in two sets. Retain rows may be missing where there are probes.
    """
    match data:
        case TofuData():
            sets = tofu_sets(data)
        case FolderData():
            sets = read_folder(Path(data.folder).expanduser())
        case SourceData():
            sets = _sources(data)
    needed = ("forget",) if probes else ("forget", "retain")
    for key in dict.fromkeys((*needed, *sets)):
        if not sets.get(key):
            raise InputError(f"the {key} set has no rows", f"name a file with rows as data.{PARTS.get(key, key)}")
    for key, rows in sets.items():
        if any(row.examples for row in rows):
            raise InputError(
                f"data: the {key} rows have examples, which stand before the questions of probes only",
                "leave columns.examples out",
            )
    check_apart(sets)
    probed = probe_sets(probes)
    check_probes_apart(sets, probed)
    _check_packed(sets | probed)
    return sets | probed


def _check_packed(sets: Sets) -> None:
    for name, rows in sets.items():
        if name not in ("forget", "retain_train") and any(row.window and row.window.pack for row in rows):
            raise InputError(
                f"pack: texts share rows of training, and {name} rows are not trained on",
                "leave pack out; of the retain rows, data.retain_train may have it where its parts are named",
            )


def _sources(data: SourceData) -> Sets:
    sets: Sets = {}
    for key in ("forget", *PARTS, "general", "holdout"):
        source = getattr(data, PARTS.get(key, key))
        if source is not None:
            sets[key] = tuple(read_source(source, data.columns))
    if data.retain is not None:
        parts = _parts(read_source(data.retain, data.columns), data.split, data.retain.shuffle)
        sets |= {key: rows for key, rows in parts.items() if key != RESERVE}
    group = data.columns.get("group")
    if group is not None and not any(row.group for rows in sets.values() for row in rows):
        raise InputError(
            f"data.columns.group: no row of any file has a value in the column {group!r}",
            "correct the name, or leave it out: every row then counts as independent",
        )
    return sets


def reserved(data: Data) -> tuple[Row, ...]:
    """Rows that no set has, kept for the certificates of later requests: a share of data.retain, or a file of a data
    folder."""
    if isinstance(data, FolderData):
        place = Path(data.folder).expanduser() / RESERVE_FILE
        return tuple(read_rows(place)) if place.is_file() else ()
    if not isinstance(data, SourceData) or data.retain is None or not data.split.reserve:
        return ()
    return _parts(read_source(data.retain, data.columns), data.split, data.retain.shuffle)[RESERVE]


def _parts(rows: list[Row], split: Split, seed: int | None) -> Sets:
    """The parts of data.retain. With a seed, and where some are certify rows, groups are dealt in a random order (the
    same for the same groups): a certificate speaks of groups like those that it read, and a file may be sorted."""
    of_each = zip(
        (*PARTS, RESERVE), (split.train, split.select, split.certify, split.report, split.reserve), strict=True
    )
    shares = {key: share for key, share in of_each if share}
    shuffled = seed is not None or "retain_certify" in shares
    parts = split_by_group(rows, list(shares.values()), shuffled, "" if seed is None else str(seed))
    if not all(parts):
        count = plural(len(set(group_numbers(rows))), "group")
        raise InputError(
            f"data.retain: {plural(len(rows), 'row')} of {count} cannot be split into {len(shares)} parts",
            f"give more groups, or name {', '.join(f'data.{PARTS[key]}' for key in shares if key in PARTS)} yourself",
        )
    return {key: tuple(part) for key, part in zip(shares, parts, strict=True)}
