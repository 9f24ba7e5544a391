"""A page used in headless chromium: a script is run in it, and what it leaves on <html> comes back."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium is installed (Debian: apt-get install chromium)"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --virtual-time-budget=20000 --dump-dom"
)


def browse(page: Path, script: str, tmp_path: Path, width: int = 1400) -> tuple[dict[str, str], str]:
    """The data-* attributes of <html> after the script has run, and the DOM."""
    copy = tmp_path / "used.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", script + "</body>"), encoding="utf-8")
    run = subprocess.run(
        [
            str(CHROMIUM),
            *FLAGS.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},1000",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    root = re.search(r"<html[^>]*>", run.stdout)
    assert root is not None, run.stderr[-2000:]
    return dict(re.findall(r'data-(\w+)="([^"]*)"', root[0])), run.stdout
