"""A page of the documentation as a program: its blocks of code, run one after the other in a folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Code(NamedTuple):
    """A fenced block, or a command of rayul within a line (language "inline")."""

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Of a shell block, without continuations: this documentation has one command a line, or several with &&."""
        return [part.strip() for line in self.text.splitlines() for part in line.split("&&") if part.strip()]


def code(page: str) -> list[Code]:
    """All code of a page, in its order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```|`(rayul [a-z]+ [^`]*)`", text, re.DOTALL | re.MULTILINE)
    return [Code("inline", m[3]) if m[3] else Code(m[1], m[2]) for m in found]


def run(script: str, place: Path, language: str = "bash", timeout: int = 1500) -> str:
    """Run it in `place`, with `rayul` being this checkout's; its output. AssertionError with all of it if it fails."""
    programs = place / ".bin"
    programs.mkdir(exist_ok=True)
    (programs / "rayul").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rayul "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    paths = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)])}
    shell = ["bash", "-eo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*shell, script],
        cwd=place,
        env=os.environ | paths | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout
