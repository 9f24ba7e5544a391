"""How long commands say nothing: `python tests/benchmarks/silences.py [--plain] [--left] -- COMMAND...`.

The command runs in a pseudo-terminal, or with --plain into a pipe; SILENCES_LOG names a file for what it prints. Shown
are the longest times without a byte of output and what stood on the screen then, and with --left how well "about ...
left" foretold the end of each bar.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator

LONG = 2.0
"""Seconds: shorter silences are not listed."""

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TIMES = re.compile(r"(\d[\d:]*) elapsed(?:, | \| )about (\d[\d:]*) left")


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
    with open(os.environ.get("SILENCES_LOG", os.devnull), "wb", buffering=0) as log:
        while text := _read(reader):
            found.append((time.monotonic() - began, text))
            log.write(b"[%.1f] %s" % found[-1])
    code = process.wait()
    return [*found, (time.monotonic() - began, b"")], code


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 65536)
    except OSError:  # how a pseudo-terminal ends
        return b""


def main() -> None:
    at = sys.argv.index("--")
    plain, command = "--plain" in sys.argv[:at], sys.argv[at + 1 :]
    found, code = run(command, plain)
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
    if "--left" in sys.argv[:at]:
        for line in foretold(found):
            print(line)


def foretold(found: list[tuple[float, bytes]]) -> Iterator[str]:
    """Of each bar, the ratio of the time left that it showed to the time that it took, at tenths of its whole time."""
    bars: list[list[tuple[float, float, float]]] = [[]]
    for when, text in found:
        for elapsed, left in TIMES.findall(CODES.sub("", text.decode(errors="replace"))):
            one = (when, _seconds(elapsed), _seconds(left))
            if bars[-1] and one[1] < bars[-1][-1][1]:
                bars.append([])
            bars[-1].append(one)
    for bar in filter(None, bars):
        whole = bar[-1][1] + bar[-1][2]
        tenths: dict[int, str] = {}
        for _, elapsed, left in bar:
            if whole > elapsed:
                tenths.setdefault(int(10 * elapsed / whole), f"{left / (whole - elapsed):.2f}")
        said = ", ".join(f"{10 * tenth}%: {ratio}" for tenth, ratio in tenths.items())
        yield f"  a bar of about {whole:.0f} s; time left shown / time it took at {said}"


def _seconds(clock: str) -> float:
    parts = [int(part) for part in clock.split(":")]
    return float(sum(part * 60**i for i, part in enumerate(reversed(parts))))


if __name__ == "__main__":
    main()
