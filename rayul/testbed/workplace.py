"""A folder that is being built: whole under its name or not there, and gone on with after a kill."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rayul.errors import InputError
from rayul.files import folder_mode, share_folder, sync_files, write_text
from rayul.unlearn.data import Sets

MADE_OF = ".made-of"
"""In an unfinished folder: a hash of all that decides what is built there."""

_LOCK = ".lock"


def made_of(sets: Sets, recipe: dict[str, Any]) -> str:
    """A hash of rows, recipe and versions: with the same, a build goes on where another stopped."""
    rows = {key: [repr(row) for row in part] for key, part in sets.items()}
    text = json.dumps([rows, recipe, version("torch"), version("transformers")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def workplace(folder: Path, hashed: str) -> Iterator[Path]:
    """For the block, `FOLDER.partial` to build in; it takes the name of `folder` when the block ends without an error.

    Otherwise it stays, and the next call goes on with what is in it. hashed: `made_of` what is built there; what is of
    another is removed first.
    Raises InputError where another process builds there, or where a folder of that name is not ours.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    lock = FileLock(partial / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"another process is building {folder}", "wait for it, or name another folder") from None
    try:
        _settle(partial, hashed)
        yield partial
        (partial / MADE_OF).unlink()
        (partial / _LOCK).unlink()
        share_folder(partial, folder_mode())
        sync_files(partial)
        if folder.exists():
            folder.rmdir()  # it was empty, or it was refused before
        partial.rename(folder)
    finally:
        lock.release()


def _settle(partial: Path, hashed: str) -> None:
    """Empty what was left by a build of something else."""
    mark = partial / MADE_OF
    left = [path for path in partial.iterdir() if path.name != _LOCK]
    if not mark.is_file() and left:
        raise InputError(f"{partial} exists, and no build left it", "remove it, or name another folder")
    if mark.is_file() and mark.read_text(encoding="utf-8") != hashed:
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_text(mark, hashed)
