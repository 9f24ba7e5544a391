"""A folder for what Ray and Tune write while a driver runs: for this user's eyes only, and gone when the driver is."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "rayul-run-"
SETTLED = 60.0
"""Seconds after which a folder without a lock is a dead driver's: a new one is locked at once."""

LONGEST = 37
"""Characters of the folder's path: Ray's sockets lie below it, and a socket's path has 107 at most."""


@contextmanager
def run_folder() -> Iterator[Path]:
    """A new folder with mode 0700 in $RAY_TMPDIR, or where temporary files are; removed after the block. What drivers
    of this user that were killed have left is removed first."""
    place = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    if len(f"{place}/{PREFIX}12345678") > LONGEST:
        place = Path("/tmp")  # noqa: S108 (mkdtemp makes a private folder there, of a new name)
    _remove_dead(place)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        for _ in range(10):  # processes that Ray has just killed may still write
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.2)
        os.close(lock)


def _remove_dead(place: Path) -> None:
    """Folders of drivers that were killed: a lock ends with its process."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()
            is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
            if not is_own or time.time() - status.st_ctime < SETTLED:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
