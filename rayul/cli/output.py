"""What commands have in common when they write files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayul.errors import RayulError


def takes_files(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


def is_driven(folder: str, place: Path) -> bool:
    """Whether a sweep writes to the results now. place: where they are on this machine, `folder` itself or its copy."""
    from rayul.records.storage import is_url, owned
    from rayul.sweep.lock import is_held

    return is_held(place) or (is_url(folder) and owned(folder))


@contextmanager
def writing(place: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RayulError(f"cannot write {error.filename or place}: {error.strerror or error}", way_out) from error
