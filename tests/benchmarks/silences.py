"""How long commands say nothing: `python tests/benchmarks/silences.py [--plain] -- COMMAND...`.

The command runs in a pseudo-terminal, or with --plain into a pipe. Printed are the longest times without a byte of
output, what stood on the screen then, and how well each "left" that was shown foretold the end.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

LONG = 2.0
"""Seconds: shorter silences are not listed."""

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LEFT = re.compile(r"([^\r\n]*?)(?:(\d+):)?(\d+):(\d\d) elapsed[^\r\n]*?about (?:(\d+):)?(\d+):(\d\d) left")


def run(command: list[str], plain: bool) -> tuple[list[tuple[float, bytes]], int]:
    """What the command printed and when, in seconds from its start; and its exit code."""
    if plain:
        reader, writer = os.pipe()
    else:
        reader, writer = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
    began = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, env=environment)
    os.close(writer)
    found = []
    while True:
        try:
            text = os.read(reader, 65536)
        except OSError:  # how a pseudo-terminal ends
            break
        if not text:
            break
        found.append((time.monotonic() - began, text))
    return [*found, (time.monotonic() - began, b"")], process.wait()


def main() -> None:
    at = sys.argv.index("--")
    plain, command = "--plain" in sys.argv[:at], sys.argv[at + 1 :]
    found, code = run(command, plain)
    if log := os.environ.get("SILENCES_LOG"):
        Path(log).write_bytes(b"".join(b"[%.1f] %s" % one for one in found))
    print(f"{' '.join(command)}: exit {code} after {found[-1][0]:.1f} s")
    before, last = 0.0, ""
    gaps = []
    for when, text in found:
        gaps.append((when - before, before, last))
        before = when
        shown = [line.strip() for line in re.split(r"[\r\n]", CODES.sub("", text.decode(errors="replace")))]
        last = next((line for line in reversed(shown) if line), last)
    for length, since, line in sorted(gaps, reverse=True)[:5]:
        if length >= LONG:
            print(f"  silent for {length:.1f} s from {since:.1f} s on, after: {line[:100]!r}")
    print(f"  longest silence {max(gaps)[0]:.1f} s")


if __name__ == "__main__":
    main()
