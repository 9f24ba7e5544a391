"""What is wrong with the rows of a spec that may be wrong itself: every file by itself, at the line that names it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rayul.errors import InputError
from rayul.spec import FolderData, Problem
from rayul.spec.named_rows import named_rows


def row_problems(file: Path, overrides: Sequence[str] = ()) -> Iterator[Problem]:
    """The first problem of each file, such as columns that it does not have."""
    named = named_rows(file, overrides)
    if not named:
        return
    from rayul.unlearn.data import read_folder, read_source

    for one in named:
        try:
            if isinstance(one.rows, FolderData):
                read_folder(Path(one.rows.folder).expanduser())
            else:
                read_source(one.rows, one.columns)
        except InputError as error:
            yield Problem(one.place, one.key, error.message, error.hint)
