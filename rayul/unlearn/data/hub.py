"""Data sets on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rayul.errors import InputError

LOCAL = (".csv", ".gz", ".json", ".jsonl", ".parquet", ".txt")
"""Endings that no data set's id has."""


def load_dataset(path: str, name: str | None, split: str) -> Iterable[Any]:
    import datasets

    local = Path(path).suffix in LOCAL or path.startswith(("/", "./", "../", "~"))
    if local and not Path(path).expanduser().exists():
        raise InputError(f"no file {path}", "rows that a spec or an export names must stay where they are")
    try:
        loaded: Iterable[Any] = datasets.load_dataset(path, name, split=split)
    except Exception as error:  # datasets raises a dozen types; all mean "not to be had", and the message says why
        raise InputError(
            f"cannot load data set {path!r} (config {name}, split {split}): {type(error).__name__}: {error}",
            "check the id, the network or HF_TOKEN; or name a local .jsonl or .parquet file",
        ) from error
    return loaded
