"""What commands have in common when they write files and say how far they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rayul.console import PlainConsole
from rayul.errors import RayulError

if TYPE_CHECKING:
    from rich.progress import TaskID


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


class ProgressBar:
    """A bar for work that says how far it is; lines where there is no terminal. Nothing until the first word."""

    def __init__(self, console: PlainConsole) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
        )
        self.task: TaskID | None = None
        self.said = -1

    def update(self, message: str, done: float) -> None:
        """done: share of the work, in [0, 1]. What follows on the end of one work is another."""
        if not self.console.is_terminal:
            if int(done * 10) > self.said:
                self.console.print(f"{message} ({done:.0%})", soft_wrap=True)
                self.said = int(done * 10) if done < 1 else -1
            return
        if self.task is None:
            self.task = self.bar.add_task(message, total=1.0)
            self.bar.start()
        self.bar.update(self.task, description=message, completed=done)
        if done >= 1:
            self.bar.stop()
            self.bar.remove_task(self.task)
            self.task = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
