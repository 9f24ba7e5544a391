"""SIGTERM where Ray starts: it is the notice of a pre-emption, and Ray takes it for itself."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def machines_sigterm_kept() -> Iterator[None]:
    """The same in a thread that is not the main one, where Ray leaves Python's handler alone and takes the machine's,
    which Python lets the main thread set and no other."""
    c, before = ctypes.CDLL(None), ctypes.create_string_buffer(1024)  # a struct sigaction: 152 bytes on Linux
    c.sigaction(signal.SIGTERM, None, before)
    try:
        yield
    finally:
        c.sigaction(signal.SIGTERM, before, None)
