"""Files as all of rayul writes them: whole or not at all, strict JSON, YAML in one line."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """An empty new file beside `path` to write to, which takes its place when the block ends without an error, so that
    no reader and no crash meets half a file. Raises OSError where nothing can be written.

    Its name cannot be guessed and it is made anew (O_EXCL, O_NOFOLLOW): a folder that somebody else filled cannot have
    laid a link there that would lead the text to another file. A link at `path` itself is replaced, not followed.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` to fill, which takes its place when the block ends without an error. By then all of
    its files are on disk."""
    temporary = folder.with_name(f"{folder.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        share_folder(temporary, folder_mode())
        sync_files(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    _sync_folder(folder.parent)


def folder_mode() -> int:
    """The mode that a folder gets here, by this process's umask."""
    umask = os.umask(0o077)  # it can be read only by setting it
    os.umask(umask)
    return 0o777 & ~umask


def share_folder(folder: Path, mode: int) -> None:
    """Give a folder this mode, and all that is in it: libraries write weights for their owner alone, whoever may read
    the rest."""
    folder.chmod(mode)
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def sync_files(folder: Path) -> None:
    """Everything in a folder on disk, names included. Raises OSError where a disk turns out to be full only now."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    """The names in a folder on disk; a file system that cannot do that for folders is left alone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_plain(path: Path) -> BinaryIO:
    """Open a file that somebody else may have laid there, to be read. Raises OSError for a link, and for a device or a
    pipe, which would be waited for or read for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    return open(descriptor, "rb")


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (see `plain`), an indented line for each value, whole or not at all."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def json_line(value: Any) -> str:
    """One line of strict JSON (see `plain`)."""
    return json.dumps(plain(value), allow_nan=False)


def plain(value: Any) -> Any:
    """Data for strict JSON: NaN and infinities become the strings "nan", "inf", "-inf", never null; tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    return [plain(child) for child in value] if isinstance(value, (tuple, list)) else value
