"""Ray started on this machine for one command, also where its usual folders cannot be used."""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from rayul.errors import RayulError

_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
_LONGEST = 107
"""Bytes of the path of a socket (sockaddr_un)."""


@contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """Ray on this machine while the block runs. Raises RayulError where it cannot start.

    Its sockets are in /tmp where the path of the usual temporary folder is too long for them (on SLURM it has the name
    of the job), and its token is kept in the environment where the home cannot be written.
    """
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    too_long = len(os.fsencode(usual + _SOCKET)) > _LONGEST
    if not _may_keep_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    with _folder_in_tmp() if too_long else nullcontext() as short:
        _start(usual, _temp_dir=short, **options)
        try:
            yield
        finally:
            ray.shutdown()


def _folder_in_tmp() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="rayul-", dir="/tmp", ignore_cleanup_errors=True)


def _start(usual: str, **options: Any) -> None:
    try:
        with kept_sigterm():
            ray.init(address="local", include_dashboard=False, **options)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RayulError(
            f"Ray cannot start on this machine: {why}",
            f"it needs folders that it may write to: TMPDIR is {usual}, HOME is {Path('~').expanduser()}",
        ) from error


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """Keep this process's own handler of SIGTERM, which `ray.init` replaces: first by one that exits with its number,
    then by one that prints the machine's stack."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as stop:
        if stop.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt from None
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _may_keep_token() -> bool:
    """Whether Ray finds its token, or may write it to the home."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    place = Path("~/.ray/auth_token").expanduser()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):  # a try is surer than permissions, which root does not need
            return True
    except OSError:
        return place.exists() and os.access(place, os.R_OK)
