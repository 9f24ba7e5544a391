"""Target and oracle train in processes of their own, side by side or one after the other. Each prints a JSON line per
step or epoch, and a last one with what it reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rayul.errors import RayulError
from rayul.testbed.train import ROLES

Progress = Callable[[str, float | None], None]
"""Called with what is happening and how much of it is done, in [0, 1], or None where that is not known."""

Share = Callable[[dict[str, Any]], float]
"""How much of a training is done, in [0, 1], by one of its lines."""


def train_roles(
    folder: Path, module: str, share: Share, progress: Progress, at_once: bool = True, threads: int = 1
) -> dict[str, Any]:
    """Run `python -m module folder role` for both roles to their end; returns what the last line of each says is done.

    Raises RayulError with the last line of its errors for a process that fails. No process outlives this call.
    """
    roles = list(ROLES)
    results: dict[str, Any] = {}
    follow = _Follower(share, progress)
    for together in [roles] if at_once else [[role] for role in roles]:
        results |= _run(folder, module, together, follow, threads)
    return results


def _run(folder: Path, module: str, roles: Sequence[str], follow: _Follower, threads: int) -> dict[str, Any]:
    reader, writer = os.pipe()
    logs = {role: folder / f"{role}.log" for role in roles}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    # The child must import this very rayul, installed or not.
    package_root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths}
    try:
        for role, log in logs.items():
            with open(log, "wb") as errors:
                processes[role] = subprocess.Popen(
                    [sys.executable, "-m", module, str(folder), role],
                    stdin=subprocess.DEVNULL,
                    stdout=writer,
                    stderr=errors,
                    env=environment,
                )
        os.close(writer)  # so that reading ends when all have ended
        follow.begin(roles)
        with os.fdopen(reader, encoding="utf-8") as lines:
            results = dict(follow(lines))
        for role, process in processes.items():
            if process.wait() != 0 or role not in results:
                said = logs[role].read_text(errors="replace").strip().splitlines() or ["no message"]
                raise RayulError(f"training the {role} of {folder} failed: {said[-1]}")
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
    for log in logs.values():
        log.unlink()
    return results


class _Follower:
    """Turns lines of the processes into progress."""

    def __init__(self, share: Share, progress: Progress) -> None:
        self.share, self.progress = share, progress
        self.done = dict.fromkeys(ROLES, 0.0)
        self.strength = dict.fromkeys(ROLES, 0.0)
        self.silent: set[str] = set()

    def begin(self, roles: Sequence[str]) -> None:
        """Of processes that have just started. Until each has said how far it is, which may be where an earlier run was
        stopped, no share is told: how long they take to load says nothing about how long they train."""
        self.silent = set(roles)
        self.tell(None)

    def __call__(self, lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
        """Yields (role, result) as each ends."""
        for line in lines:
            event = json.loads(line)
            role = event["role"]
            self.silent.discard(role)
            if "done" in event:
                self.done[role] = 1.0
                yield role, event["done"]
            else:
                self.strength[role] = event["es"]
                self.done[role] = max(self.done[role], min(self.share(event), 0.99))
            if not self.silent:
                self.tell(sum(self.done.values()) / len(self.done))

    def tell(self, share: float | None) -> None:
        memorised = ", ".join(f"{name} {strength:.0%}" for name, strength in self.strength.items())
        self.progress(f"training target and oracle, memorised: {memorised}", share)
