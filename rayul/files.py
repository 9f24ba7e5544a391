"""Files as all of rayul writes them: whole or not at all, strict JSON, YAML in one line."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new path beside `path` to write to, which takes its place when the block ends without an error: a reader, or
    a crash, never meets half a file. Flushed to disk first. Raises OSError where nothing can be written."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` to fill, which takes its place when the block ends without an error."""
    temporary = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with whole_file(path) as temporary, open(temporary, "x", encoding="utf-8") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (see `plain`), an indented line for each value, whole or not at all."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def json_line(value: Any) -> str:
    """One line of strict JSON (see `plain`)."""
    return json.dumps(plain(value), allow_nan=False)


def plain(value: Any) -> Any:
    """Data for strict JSON: NaN and infinities become the strings "nan", "inf", "-inf", never null; tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    return [plain(child) for child in value] if isinstance(value, (tuple, list)) else value
