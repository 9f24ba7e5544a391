"""What a saved update asks of its reader beyond its weights: somebody else may have written it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rayul.errors import InputError


class Damaged(InputError):
    """What was saved cannot be loaded: it is cut off, overwritten, or no model's."""


PATTERN_SECONDS = 10.0
"""That all patterns of an adapter may take on all names of a model: a pattern that is sound takes milliseconds."""

_MATCH = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for form in (pattern, rf"(.*\\.)?({pattern})$", rf"(?:.*?\\.)?{pattern}\\.(\\d+)\\."):
        try:
            matcher = re.compile(form)
        except re.error:  # PEFT says so, where it takes it for a pattern
            continue
        for name in names:
            matcher.fullmatch(name), matcher.match(name)
"""
"""The ways in which PEFT matches them."""


def check_adapter_config(adapter: Path, names: Sequence[str]) -> None:
    """Raises InputError for an adapter_config.json that has more done than an adapter put on the base: layers of the
    base repeated, or the names of its modules matched with a pattern that takes for ever."""
    config = _read(adapter, "adapter_config.json", "adapter")
    if config.get("layer_replication"):
        raise InputError(f"adapter {adapter} repeats layers of its base (layer_replication)", "save it without that")
    patterns = [text for text in _patterns(config) if not re.fullmatch(r"[\w.-]*", text)]
    if not patterns:
        return
    try:
        # A match cannot be ended from outside, a process can.
        subprocess.run(
            [sys.executable, "-I", "-c", _MATCH],
            input=json.dumps([patterns, list(names)]),
            text=True,
            timeout=PATTERN_SECONDS,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"adapter {adapter}: to match {patterns[0][:80]!r} with the names of the base's modules takes more than "
            f"{PATTERN_SECONDS:g} s",
            "name the modules in adapter_config.json one by one",
        ) from None


def _patterns(config: dict[str, Any]) -> Iterator[str]:
    for key in ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern"):
        value = config.get(key)
        for text in [value] if isinstance(value, str) else value if isinstance(value, list | dict) else ():
            if isinstance(text, str):
                yield text


def check_index(model: Path) -> None:
    """Raises InputError where the index of a saved model names a file that is not safetensors (transformers would
    unpickle it), or that is not beside it."""
    name = "model.safetensors.index.json"
    if not (model / name).exists():
        return
    files = _read(model, name, "model").get("weight_map")
    for file in files.values() if isinstance(files, dict) else [files]:
        if not is_beside(file):
            raise Damaged(f"model {model}: {name} names {file!r}, which is no safetensors file beside it", "restore it")


def is_beside(file: object) -> bool:
    """Whether an index names a safetensors file in its own folder."""
    return isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")


def _read(folder: Path, name: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        why: object = "expected an object"
    except (OSError, ValueError, RecursionError) as error:
        why = error
    raise Damaged(f"{what} {folder} cannot be loaded: {name}: {why}", "restore it, or export it again")
