"""How much memory this process has, and had at its most: of the GPU that it computes on, else of the machine."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int:
    """Bytes, since the process began or `reset_peak` was called."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held_memory(device: torch.device) -> int:
    """Bytes, now. Where the system does not tell, the most that they were."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return peak_memory(device)


def reset_peak(device: torch.device) -> None:
    """Have peaks count from here. On Linux alone for a process's own memory: elsewhere they count from its start."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # not Linux, or a container without it
            Path("/proc/self/clear_refs").write_text("5")


def all_memory(device: torch.device) -> int:
    """Bytes that there are."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
