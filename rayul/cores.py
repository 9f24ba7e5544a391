"""Cores that a process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Fewer than the machine has under taskset, SLURM or a cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS
