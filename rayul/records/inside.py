"""A results folder that somebody else may have filled: it holds files of its own, of bounded size, and no links."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rayul.errors import RayulError
from rayul.records.certificate import CERTIFICATE, CERTIFIED
from rayul.records.evaluations import ADAPTERS, CHECKPOINTS, JOURNAL, SPEC, STUDY

RECORD_BYTES = 2 * 2**30
"""More than a record, a table or a report ever has (1,500 bytes an evaluation: a million of them). Weights, in the
folders under adapters/, may be larger."""

RECORDS = (SPEC, JOURNAL, STUDY, CERTIFICATE, "run.json")

DEEPER = (ADAPTERS, CERTIFIED, CHECKPOINTS, "audit", "figures", "tensorboard")
"""Folders of a results folder that are read or written, too."""

NAMES = re.compile(
    r"""
    (spec\.yaml | run\.json | certificate\.json | evaluations\.jsonl | study\.journal | report\.html | compare\.html
      | (evaluations|trials|pareto)\.parquet | pareto\.(csv|json)
      | figures/[\w-]+\.(pdf|png|svg)
      | audit/(audit\.json | evaluations\.jsonl | verdict\.json | (finalists|attacks|robustness)\.parquet)
      | (certified | (audit/)?adapters)
        /\w[\w.+-]*/([\w.+-]*\.(json|safetensors|model|txt|jinja) | README\.md | merges\.txt)
      | \w[\w-]*\.jsonl\.rejected | certificate\.json\.rejected(-[0-9]+)?
    )
    """,
    re.VERBOSE,
)
"""What a sweep keeps in its folder, by path: nothing else is fetched from a URL."""


def is_sweeps(name: str) -> bool:
    """Whether a path relative to a results folder is one that a sweep writes; False for absolute ones, `..`, `.tmp`."""
    return NAMES.fullmatch(name) is not None and ".." not in name


def check_inside(folder: Path) -> None:
    """Raises RayulError for a link, a device or a pipe in a results folder, and for a record that is a folder or too
    large: a link would have another file read in its place, or written over, and a device be read for ever. So does a
    folder that is a file, or that may not be read."""
    try:
        entries = list(_entries(folder))
    except OSError as error:
        raise RayulError(
            f"{error.filename} cannot be read: {error.strerror}", "name the results folder of a sweep (DIR/NAME)"
        ) from error
    for path, status in entries:
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            kind = "a link" if stat.S_ISLNK(status.st_mode) else "not a plain file"
            raise RayulError(
                f"{path} is {kind}", "a results folder holds its files itself: copy the file, or remove it"
            )
        if path.parent == folder and path.name in RECORDS and stat.S_ISDIR(status.st_mode):
            raise RayulError(f"{path} is a folder, where a file belongs", "remove it")
        if path.parent == folder and status.st_size > RECORD_BYTES:
            raise RayulError(
                f"{path} has {status.st_size / 2**30:.1f} GiB: no record of a sweep is that large", "remove it"
            )


def _entries(folder: Path, everything: bool = False) -> Iterator[tuple[Path, os.stat_result]]:
    with suppress(FileNotFoundError), os.scandir(folder) as found:  # a running sweep removes adapters
        for entry in found:
            with suppress(FileNotFoundError):
                yield Path(entry.path), entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False) and (everything or entry.name in DEEPER):
                yield from _entries(Path(entry.path), everything=True)
