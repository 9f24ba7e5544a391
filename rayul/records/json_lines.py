"""Files of records, one a line, that only grow: each is on disk before it counts as written."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from rayul.errors import RayulError, ResultsUnwritable

R = TypeVar("R")


class JsonLines(Generic[R]):
    """A file of records, one a line: by key, each on disk (fsync) before `append` returns.

    records: what it holds, as `read_lines` gave it. write: the line of a record. Opening it drops a last line that was
    cut off by a crash (the record was never reported as written).
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
        if path.exists():
            truncate_torn_line(path)

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
                file.write("".join(self.write(record) + "\n" for record in new.values()).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, size)  # a full disk takes half a row; the next row must not continue it
            raise ResultsUnwritable.at(self.path, error.strerror or error) from error
        self.rows |= new
        return list(new.values())

    def __iter__(self) -> Iterator[R]:
        return iter(self.rows.values())

    def __len__(self) -> int:
        return len(self.rows)


def truncate_torn_line(path: Path) -> None:
    """Cut off a last line without its newline: a crash left it, and nobody was told that it was written."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
            os.fsync(file.fileno())


def read_lines(path: Path, read: Callable[[str], R]) -> list[R]:
    """All whole lines of a file, none where it does not exist; RayulError for one that cannot be read, naming file and
    line."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(read(line.decode()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RayulError(
                f"{path}:{number}: not an evaluation: {error}", "restore the line, or delete it to drop that row"
            ) from error
    return rows
