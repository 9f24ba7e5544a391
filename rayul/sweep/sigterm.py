"""SIGTERM where Ray starts: it is the notice of a pre-emption, and Ray takes it for itself."""

from __future__ import annotations

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
        _take(before)


def restored_sigterm() -> None:
    """Take SIGTERM back from a Ray that another thread has started: only its second handler is in the way then, and it
    is the machine's, of which Python does not know."""
    _take(signal.getsignal(signal.SIGTERM))


def _take(handler: object) -> None:
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]
