"""The lock of a results folder: one driver at a time, on this machine and on others that share the file system.

A lock of the system (flock) ends with its process, and many shared file systems keep it for all their machines. Some
keep it on each machine alone, or not at all, and do not say so. So a driver also renews a mark beside the folder, and
one on another machine that finds a mark watches whether it is renewed. That needs no clocks that agree.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from rayul.background import beside
from rayul.errors import RayulError
from rayul.files import open_plain, write_text

RENEWED = 5.0
"""Seconds between two renewals of a mark."""

MARK_BYTES = 10_000

WATCHED = 20.0
"""Seconds without a renewal after which the driver of another machine counts as dead."""


def lock_path(folder: Path) -> Path:
    """Beside the folder, so that it can be taken before there is a folder. By whatever link the folder is named, it is
    the same."""
    folder = folder.resolve()
    return folder.parent / f".{folder.name}.lock"


def mark_path(folder: Path) -> Path:
    return lock_path(folder).with_suffix(".owner")


@contextmanager
def held(folder: Path, say: Callable[[str], None] = lambda line: None, command: str = "sweep") -> Iterator[None]:
    """Hold the folder for this driver. The lock goes with the process.

    command: what holds it, for whoever looks. say: hears that another machine's mark is watched. Raises RayulError
    when another driver holds it, and OSError where nothing can be written.
    """
    lock = FileLock(lock_path(folder))
    lock_path(folder).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _in_use(folder) from None
    if not lock_path(folder).exists():  # its last holder was refused, and removed it meanwhile
        lock.release()
        raise _in_use(folder)
    try:
        _wait_for_dead_owner(folder, say)
        with _marked(folder, command):
            yield
    finally:
        if not folder.exists():  # a sweep that was refused leaves nothing
            lock_path(folder).unlink(missing_ok=True)
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a sweep is writing to the folder now, on this machine or, where the file system's locks are shared, on
    another. Looks at the lock for an instant and without writing."""
    try:
        with open_plain(lock_path(folder)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # there is no lock, or none can be taken here
    return False


def holder(folder: Path) -> str:
    """The command that writes to the folder, as far as its mark tells; "" where it does not."""
    with suppress(OSError, ValueError, AttributeError, RecursionError), open_plain(mark_path(folder)) as file:
        return str(json.loads(file.read(MARK_BYTES)).get("command", ""))
    return ""


def goes_on(folder: Path) -> Callable[[], bool]:
    """A question to ask again and again: whether a sweep writes to the folder, also from a machine that does not share
    its locks. There it says yes for WATCHED seconds after the last renewal that it saw."""
    mark, since = _read(folder), time.monotonic()

    def ask() -> bool:
        nonlocal mark, since
        now = _read(folder)
        if now != mark:
            mark, since = now, time.monotonic()
        elsewhere = mark is not None and mark["machine"] != socket.gethostname()
        return is_held(folder) or (elsewhere and time.monotonic() - since < WATCHED)

    return ask


def _wait_for_dead_owner(folder: Path, say: Callable[[str], None]) -> None:
    """Return once a mark of another machine has not been renewed for WATCHED seconds; at once where there is none.
    Raises RayulError when it is renewed."""
    mark = _read(folder)
    if mark is None or mark["machine"] == socket.gethostname():  # on this machine the lock has told already
        return
    say(f"{mark['machine']} was the last to write to {folder}: waiting {WATCHED:.0f} s to see whether it still does")
    until = time.monotonic() + WATCHED
    while time.monotonic() < until:
        time.sleep(RENEWED / 5)
        now = _read(folder)
        if now is None:
            return
        if now != mark:
            raise _in_use(folder, f", on {now['machine']}")


@contextmanager
def _marked(folder: Path, command: str) -> Iterator[None]:
    def renew(over: threading.Event) -> None:
        for count in itertools.count():
            mark = {"machine": socket.gethostname(), "process": os.getpid(), "renewed": count, "command": command}
            with suppress(OSError):  # a full disk ends the sweep by its journal, not by its mark
                write_text(mark_path(folder), json.dumps(mark))
            if over.wait(RENEWED):
                return

    try:
        with beside(renew):
            yield
    finally:
        mark_path(folder).unlink(missing_ok=True)


def _read(folder: Path) -> dict[str, object] | None:
    try:
        with open_plain(mark_path(folder)) as file:
            mark = json.loads(file.read(MARK_BYTES))
        return {key: mark[key] for key in ("machine", "process", "renewed")}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # none, or nothing that a driver wrote
        return None


def _in_use(folder: Path, where: str = "") -> RayulError:
    return RayulError(
        f"another sweep is writing to {folder}{where}",
        "wait for it, or choose another folder with --name or --results",
    )
