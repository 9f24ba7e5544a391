"""Where this machine keeps what can be made or fetched again: testbeds, models, work folders of remote results."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$RAYUL_CACHE, or rayul/ in the user's cache folder."""
    chosen = os.environ.get("RAYUL_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(chosen).expanduser() if chosen else user / "rayul"
