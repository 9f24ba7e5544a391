"""`rayul testbed DIR`: the testbed as plain folders, or a target trained on the user's rows."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from rayul.cache import PARTIAL
from rayul.errors import InputError
from rayul.spec import FolderData, TofuData
from rayul.testbed.build import check_memorised, fill
from rayul.testbed.cache import ensure_testbed
from rayul.testbed.processes import Progress
from rayul.testbed.train import TRAINED, Recipe
from rayul.testbed.workplace import made_of, workplace
from rayul.unlearn.data import FILES, Row, Sets, group_numbers, load_sets, read_rows, split_by_group
from rayul.unlearn.data.files import column_names, read_records
from rayul.unlearn.data.overlap import check_apart
from rayul.unlearn.data.row import an_object, row_of
from rayul.words import plural

SPLIT = {"forget": 0.1, "retain_train": 0.45, "retain": 0.18, "retain_certify": 0.18, "retain_report": 0.09}
"""Shares of single files, split by group."""


class Size(NamedTuple):
    """A model for up to this many characters of answers."""

    characters: float
    vocab_size: int
    hidden_size: int
    intermediate_size: int


SIZES = (Size(40_000, 2000, 128, 384), Size(400_000, 4000, 192, 512), Size(math.inf, 8000, 256, 768))
"""Measured: the first with 24,000 characters (500 rows of authors.py), the second with 80,000 and 199,000 (23 and 60
authors of TOFU); all of TOFU, 679,000, takes the third, which was not tried."""


MEMORISED = 0.9

SHOWN = 10
"""Groups that are named in a message."""


def write_testbed(folder: Path, progress: Progress | None = None) -> None:
    """Copy the embedded testbed into `folder`. Raises InputError when the folder is not empty."""
    _check_empty(folder)
    place = ensure_testbed(progress)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.copytree(place, partial, dirs_exist_ok=True)
    partial.rename(folder)


def write_testbed_from_data(
    folder: Path,
    data: Sequence[Path],
    progress: Progress | None = None,
    authors: int | None = None,
    forget: str = "forget10",
    recipe: Recipe | None = None,
    allow_unmemorised: bool = False,
    group: str | None = None,
    forget_groups: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a target and an oracle on `data` into `folder`; returns what testbed.json says.

    `data` is a folder of TOFU's files (`authors` and `forget` as in the spec's data section), a folder laid out like
    the testbed, or files of rows, which are split by group: the column `group`, where it is given. forget_groups: whom
    to forget, by default the first tenth; `say` hears whom. Raises InputError when the folder is not empty and for
    data that cannot be read, and RayulError where the target did not memorise the rows to forget (MEMORISED of their
    extraction strength), unless `allow_unmemorised`: there would be nothing to forget. A build that was interrupted is
    gone on with by the same call.
    """
    _check_empty(folder)
    sets = read_sets(data, authors, forget, group, forget_groups)
    say(to_forget(sets))
    recipe = recipe or recipe_for(sets)
    with workplace(folder.absolute(), made_of(sets, asdict(recipe))) as partial:
        summary = fill(sets, partial, recipe, progress or (lambda message, done: None))
        check_memorised(summary, 0.0 if allow_unmemorised else MEMORISED)
    return summary


def read_sets(
    data: Sequence[Path],
    authors: int | None = None,
    forget: str = "forget10",
    group: str | None = None,
    forget_groups: Sequence[str] = (),
) -> Sets:
    """The sets that `data` means; see `write_testbed_from_data`."""
    if (group is not None or forget_groups) and any(path.is_dir() for path in data):
        raise InputError(
            "--group and --forget-group are for files of rows, and a folder has its groups and its rows to forget",
            "leave them out, or name the files of rows",
        )
    if len(data) == 1 and (data[0] / "full.json").exists():
        try:
            sets = load_sets(TofuData(tofu=str(data[0]), forget=forget, authors=200 if authors is None else authors))
        except ValidationError as error:
            first = error.errors()[0]
            hint = str(first.get("ctx", {}).get("hint", ""))
            raise InputError(f"--{first['loc'][0]}: {first['msg']}", hint) from None
        # TOFU's real_authors and world_facts also stand apart in its sets; `general` holds them both.
        return {key: sets[key] for key in FILES if key in sets}
    if authors is not None:
        raise InputError("--authors counts TOFU's authors, and this is not TOFU", "leave it out, or name TOFU's folder")
    if len(data) == 1 and data[0].is_dir():
        return load_sets(FolderData(folder=str(data[0])))
    for path in data:
        if path.is_dir():
            raise InputError(f"--data {path} is a folder among several paths", "name one folder, or only files")
    rows: list[Row] = [row for path in data for row in (read_rows(path) if group is None else _grouped(path, group))]
    sets = _split(rows, forget_groups)
    empty = [FILES[key] for key in SPLIT if not sets[key]]
    if empty:
        groups = plural(len(set(group_numbers(rows))), "group")
        raise InputError(
            f"--data: {len(rows)} rows of {groups} leave nothing for {', '.join(empty)}",
            f"give more groups, or write {', '.join(FILES.values())} yourself and name their folder",
        )
    check_apart(sets)
    return sets


def _grouped(path: Path, column: str) -> list[Row]:
    """Rows whose group is what this column has."""
    names = column_names(path)
    if column not in names:
        raise InputError(f"{path}: no column {column!r} for --group", f"the columns are {', '.join(names)}")
    records = ((place, an_object(record, place)) for place, record in read_records(path))
    return [row_of({**record, "group": record.get(column)}, place, {}) for place, record in records]


def _split(rows: Sequence[Row], forget_groups: Sequence[str]) -> Sets:
    """By SPLIT; with groups to forget named, their rows, and all others in the proportions of the other sets."""
    if not forget_groups:
        return {key: tuple(part) for key, part in zip(SPLIT, split_by_group(rows, tuple(SPLIT.values())), strict=True)}
    groups = list(dict.fromkeys(row.group for row in rows if row.group))
    for name in forget_groups:
        if name not in groups:
            shown = ", ".join(groups[:SHOWN]) + (", ..." if len(groups) > SHOWN else "")
            raise InputError(
                f"--forget-group {name}: no row is of this group",
                f"the groups are {shown}" if groups else "say with --group which column names the group of a row",
            )
    shares = {key: share / (1 - SPLIT["forget"]) for key, share in SPLIT.items() if key != "forget"}
    others = split_by_group([row for row in rows if row.group not in forget_groups], tuple(shares.values()))
    kept = {key: tuple(part) for key, part in zip(shares, others, strict=True)}
    return {"forget": tuple(row for row in rows if row.group in forget_groups), **kept}


def to_forget(sets: Sets) -> str:
    """Whom the rows to forget are about, in words."""
    names = list(dict.fromkeys(row.group for row in sets["forget"] if row.group))
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"to forget: {plural(len(sets['forget']), 'row')}" + (f" of {shown}" if names else "")


def ungrouped(data: Sequence[Path]) -> str:
    """What is to be known of files of rows that do not say whom they are about; "" of others and of folders."""
    if not data or any(path.is_dir() for path in data) or any(row.group for path in data for row in read_rows(path)):
        return ""
    return (
        "no row names its group, so each stands by itself, and rows about one person may be in several sets: say with "
        "--group COLUMN which column says whom a row is about"
    )


def recipe_for(sets: Sets) -> Recipe:
    """A recipe whose model has room for the answers of `sets`.

    The learning rate falls early and long: at its full height, long answers stay at an extraction strength of about
    0.5 (60 authors of TOFU, epochs 19 to 25), and reach 0.99 within ten epochs of falling from 0.15.
    """
    characters = sum(len(row.answer) for key in TRAINED for row in sets.get(key, ()))
    size = next(size for size in SIZES if characters <= size.characters)
    return Recipe(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        memorised=0.25,
        decay_epochs=10,
        max_epochs=160,
    )


def _check_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty", "name a new folder, or remove this one")
