"""How fast packs of several sizes train here, measured once for each machine and shape."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from rayul.cache import cache_folder
from rayul.files import write_json
from rayul.spec import Spec, heaviest
from rayul.unlearn.data import Sets
from rayul.unlearn.pack.throughput import Throughput, measure_packs


def known_packs(spec: Spec, sets: Sets, sizes: Sequence[int], memory: int) -> list[Throughput]:
    """`measure_packs`, from the cache where the same was measured before: on such a processor or GPU, by this torch,
    of this model, method, adapter and batch, and of as many rows of as many characters."""
    path = cache_folder() / "packs" / f"{_key(spec, sets, sizes, memory)}.json"
    with suppress(OSError, ValueError, TypeError):  # none, or none that can be read: measure
        return [_read(one) for one in json.loads(path.read_text())]
    found = measure_packs(spec, sets, sizes, memory)
    if found:  # that nothing fitted may be somebody else's doing
        with suppress(OSError):  # a cache that cannot be written costs the next sweep a measurement
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, [list(one) for one in found])
    return found


def _key(spec: Spec, sets: Sets, sizes: Sequence[int], memory: int) -> str:
    trial = spec.at(heaviest(spec))
    sections = ("model", "method", "lora", "training", "control", "evaluate")
    rows = {name: (len(some), sum(len(row.question) + len(row.answer) for row in some)) for name, some in sets.items()}
    config = Path(spec.model.path) / "config.json"  # of a folder: what is in it may have changed
    parts = [
        _device(),
        config.read_text() if config.is_file() else "",
        torch.get_num_threads(),
        memory >> 28,
        torch.__version__,
        list(sizes),
        {name: trial.resolved().get(name) for name in sections},
        rows,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _device() -> str:
    """The GPU's name, or the processor's and its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _read(one: list[float]) -> Throughput:
    slots, rows, memory = one
    if not min(one) > 0:
        raise ValueError(f"{one} is no measurement")
    return Throughput(int(slots), float(rows), int(memory))
