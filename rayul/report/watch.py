"""The report of a results folder as it is now, made again from the records when they have changed."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from rayul.errors import InputError, RayulError
from rayul.records import JOURNAL, SPEC
from rayul.records.inside import RECORDS
from rayul.records.storage import Storage, is_url, local
from rayul.report.audit_section import read_section
from rayul.report.page import report_page
from rayul.report.status import Status, read_status
from rayul.words import duration


@dataclass(frozen=True)
class View:
    """version: differs whenever the page does. line: the state in one line. page: HTML."""

    version: str
    line: str
    page: str


class Watched:
    """A results folder, or the URL of one, that is looked at again and again; it need not exist yet.

    held: whether a driver writes to the folder now. every: seconds between two looks at the least. share: of its time
    that may go into looks, since the sweep may need the same cores. Nothing is written to the folder. Raises
    InputError for a file, and for a URL that cannot be used.
    """

    def __init__(
        self,
        place: str,
        held: Callable[[Path], bool],
        *,
        every: float = 5.0,
        share: float = 0.1,
        samples: int | None = None,
    ) -> None:
        if is_url(place):
            Storage(place)
        elif Path(place).is_file():
            raise InputError(f"{place} is a file", "give the folder of one sweep, as `rayul sweep` printed it")
        self.place, self.held, self.every, self.samples = place, held, every, samples
        self.share = share
        self.name = Path(place.partition("?")[0]).name or place
        self._lock = threading.Lock()
        self._seen: object = None
        self._view: View | None = None
        self._next = 0.0

    def view(self) -> View:
        """What there is to see now, or was less than `every` seconds ago."""
        with self._lock:  # one page is made at a time, and serves all who asked
            if self._view is None or time.monotonic() >= self._next:
                began = time.monotonic()
                self._view = self._look()
                ended = time.monotonic()
                self._next = ended + max(self.every, (ended - began) * (1 / self.share - 1))
            return self._view

    def _look(self) -> View:
        try:
            with local(self.place) as folder:
                held = self.held(folder)
                seen = (held, _stamps(folder))
                if self._view is None or seen != self._seen:
                    self._seen, self._view = seen, self._made(folder, held)
                return self._view
        except (RayulError, OSError) as error:  # not there yet, damaged, or changed meanwhile: look again next time
            self._seen = None
            return _message(f"{self.name}: no report yet", str(error))

    def _made(self, folder: Path, held: bool) -> View:
        if not all((folder / name).is_file() for name in (SPEC, JOURNAL)):
            if held:
                return _message(f"{self.name}: starting", "The reference models are being measured.")
            return _message(f"{self.name}: waiting for a sweep", f"There is no sweep in {folder} yet.")
        status = read_status(folder, held)
        page = report_page(status.results, status.summary.with_samples(self.samples), read_section(status.results))
        return _view(_line(status), page)


def _line(status: Status) -> str:
    left = f", about {duration(status.seconds_left)} left" if status.seconds_left is not None else ""
    counts = f"{status.ended} of {status.total} trials ended{left}"
    return f"{status.results.name}: {status.phase}. {counts}. As of {datetime.now().astimezone():%H:%M:%S}."


def _view(line: str, page: str) -> View:
    return View(sha256(f"{line}\n{page}".encode()).hexdigest()[:16], line, page)


def _message(title: str, text: str) -> View:
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        "<style>body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem } pre { white-space: pre-wrap }</style>"
        f"<title>{html.escape(title)}</title></head><body><main><h1>{html.escape(title)}</h1>"
        f"<pre>{html.escape(text)}</pre></main></body></html>"
    )
    return _view(title, page)


def _stamps(folder: Path) -> tuple[object, ...]:
    """Of everything that the page is made from: size and time of change."""
    others = [path for pattern in ("adapters/*", "certified/*", "audit/*") for path in folder.glob(pattern)]
    found = []
    for path in (*(folder / name for name in RECORDS), *sorted(others)):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        found.append((path.name, status.st_size, status.st_mtime_ns))
    return tuple(found)
