"""How a sweep made text of its rows, noted beside its adapters for whoever scores one of them later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rayul.errors import RayulError
from rayul.spec import Model

NOTE = "rayul.json"
"""Of an adapter: how it was made and scored."""

_KEY = "text"


def text_note(model: Model) -> dict[str, Any]:
    """The part of a note that says how rows became text. model: as it ran, with its date."""
    return {_KEY: model.text}


def noted_text(folder: Path) -> dict[str, Any]:
    """The settings of the section `model` that a sweep noted beside an adapter or an exported model; {} without a note.
    Raises RayulError for a note that is broken."""
    path = folder / NOTE
    try:
        if not path.is_file():  # a pipe or a device would be read for ever
            return {}
        noted = json.loads(path.read_text(encoding="utf-8")).get(_KEY, {})
        return {name: noted[name] for name in Model.TEXT if name in noted}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RayulError(
            f"{path} cannot be read: {' '.join(str(error).split())}", "delete it, and say how rows become text"
        ) from error
