"""Where this machine keeps what can be made or fetched again: testbeds, models, work folders of remote results."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

PARTIAL = ".partial"
"""Suffix of a folder that is still being made."""


def cache_folder() -> Path:
    """$RAYUL_CACHE, or rayul/ in the user's cache folder."""
    chosen = os.environ.get("RAYUL_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(chosen).expanduser() if chosen else user / "rayul"


def made_once(folder: Path, make: Callable[[], None], waiting: Callable[[], None]) -> Path:
    """The folder, made where it is missing. Safe when several processes call it at once: one makes it, the others wait.

    make: writes to a sibling, named after the folder and with the suffix PARTIAL, and renames it when it is complete;
    siblings that a killed process left are removed before. waiting: called where another process is at it.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        if not folder.exists():
            # The lock is held, so anything unfinished here is what a killed process left.
            for left_over in folder.parent.glob(f"{folder.name}.*{PARTIAL}"):
                shutil.rmtree(left_over, ignore_errors=True)
            make()
    finally:
        lock.release()
    return folder
