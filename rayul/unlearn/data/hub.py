"""Data sets on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rayul.errors import InputError


def load_dataset(path: str, name: str | None, split: str) -> Iterable[Any]:
    import datasets

    try:
        loaded: Iterable[Any] = datasets.load_dataset(path, name, split=split)
    except Exception as error:  # datasets raises a dozen types; all mean "not to be had", and the message says why
        raise InputError(
            f"cannot load data set {path!r} (config {name}, split {split}): {type(error).__name__}: {error}",
            "check the id, the network or HF_TOKEN; or name a local .jsonl or .parquet file",
        ) from error
    return loaded
