"""The lock of a results folder: where it is, and whether a driver holds it, asked without ray."""

from __future__ import annotations

import fcntl
from pathlib import Path


def lock_path(folder: Path) -> Path:
    """Beside the folder, so that it can be taken before there is a folder."""
    return folder.parent / f".{folder.name}.lock"


def is_held(folder: Path) -> bool:
    """Whether a sweep is writing to the folder now, on this machine or, where the file system's locks are shared, on
    another. Looks at the lock that `rayul.sweep.folder.held` takes, for an instant and without writing."""
    try:
        with open(lock_path(folder.absolute()), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # there is no lock, or none can be taken here
    return False
