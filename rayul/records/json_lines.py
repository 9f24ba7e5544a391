"""Files of records, one a line, that only grow: each is on disk before it counts as written, and checked when read.

A line ends in its own number and the CRC-32 of all that stands before: `..., "line": 7, "crc32": "1f8a0c2e"}`. So one
that was changed, lost, doubled or moved is noticed. Lines of earlier versions have neither; they stand before the
others and are checked by their schema alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar
from zlib import crc32

from rayul.errors import RayulError, ResultsUnwritable
from rayul.records.schema import why

R = TypeVar("R")

REPAIR = "`rayul repair` on the results folder sets aside what is broken; --resume then runs again what was lost"
"""The way out of a record that cannot be read."""

_SEAL = re.compile(rb', "line": ([0-9]{1,18}), "crc32": "([0-9a-f]{8})"\}')


class JsonLines(Generic[R]):
    """A file of records, one a line: by key, each on disk (fsync) before `append` returns.

    records: what it holds, as `read_lines` gave it. write: the line of a record, a JSON object. Opening it drops a last
    line that was cut off by a crash (the record was never reported as written).
    """

    def __init__(
        self,
        path: Path,
        records: Iterable[R],
        write: Callable[[R], str],
        key: Callable[[R], Hashable],
    ) -> None:
        self.path, self.write, self.key = path, write, key
        self.rows: dict[Any, R] = {}
        for record in records:
            self.rows.setdefault(key(record), record)
        self.lines = truncate_torn_line(path) if path.exists() else 0

    def append(self, *records: R) -> list[R]:
        """Write records in one go; returns the new ones: one whose key is already there is not written."""
        new: dict[Hashable, R] = {}
        for record in records:
            if self.key(record) not in self.rows:
                new.setdefault(self.key(record), record)
        if not new:
            return []
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "ab") as file:
                file.write(b"".join(sealed(self.write(row), n) for n, row in enumerate(new.values(), self.lines + 1)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, size)  # a full disk takes half a row; the next row must not continue it
            raise ResultsUnwritable.at(self.path, error.strerror or error) from error
        self.rows |= new
        self.lines += len(new)
        return list(new.values())

    def __iter__(self) -> Iterator[R]:
        return iter(self.rows.values())

    def __len__(self) -> int:
        return len(self.rows)


def truncate_torn_line(path: Path) -> int:
    """Cut off a last line without its newline: a crash left it, and nobody was told that it was written. Returns the
    number of whole lines."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
            os.fsync(file.fileno())
    return data.count(b"\n")


def sealed(text: str, number: int) -> bytes:
    """The line of a JSON object, with its number and checksum."""
    body = f'{text[:-1]}, "line": {number}'.encode()
    return b'%s, "crc32": "%08x"}\n' % (body, crc32(body))


def unsealed(line: bytes) -> bytes:
    """The JSON object that was sealed; the line of an earlier version as it is."""
    at = line.rfind(b', "line": ')
    return line[:at] + b"}" if _SEAL.fullmatch(line, max(at, 0)) else line


class Line(NamedTuple, Generic[R]):
    """One line of a file. at: where it stands, from 1. number: as it was sealed with, None of an earlier version's.
    record: what it holds, None where it is broken. fault: what is wrong, "" where nothing is; a whole record may stand
    in the wrong place."""

    at: int
    text: bytes
    number: int | None
    record: R | None
    fault: str


def checked_lines(path: Path, read: Callable[[bytes], R], keys: Callable[[R], Iterable[Hashable]]) -> Iterator[Line[R]]:
    """The whole lines of a file, none where it does not exist. keys: what no two lines may have in common."""
    first: dict[Hashable, int] = {}
    sealing = False
    for at, text in enumerate(path.read_bytes().split(b"\n")[:-1] if path.exists() else (), 1):
        number, fault = _opened(text)
        record = None
        if not fault:
            try:
                record = read(text)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                fault = f"not an evaluation: {why(error)}"
        if record is not None:
            known = [first.setdefault(key, at) for key in keys(record)]
            if min(known) < at:
                fault = f"a second record of the same as line {min(known)}"
            elif number is None and sealing:
                record, fault = None, "it has no checksum, though lines before it have one"
            elif number not in (None, at):
                fault = f"it was written as line {number}: lines were lost, doubled or moved"
        sealing = sealing or number is not None
        yield Line(at, text, number, record, fault)


def read_lines(path: Path, read: Callable[[bytes], R], keys: Callable[[R], Iterable[Hashable]]) -> list[R]:
    """What the whole lines of a file hold (see `checked_lines`); RayulError for the first line that is not as it was
    written, naming file and line."""
    records = []
    for line in checked_lines(path, read, keys):
        if line.fault or line.record is None:
            raise RayulError(f"{path}:{line.at}: {line.fault}", REPAIR)
        records.append(line.record)
    return records


def _opened(text: bytes) -> tuple[int | None, str]:
    """A line's number, None of an earlier version's; and what is wrong with its checksum."""
    seal = _SEAL.fullmatch(text, max(text.rfind(b', "line": '), 0))
    if seal is None:
        return None, "its checksum is damaged" if b'"crc32"' in text else ""
    if crc32(memoryview(text)[: seal.end(1)]) != int(seal[2], 16):
        return None, "it is not as it was written: its checksum differs"
    return int(seal[1]), ""
