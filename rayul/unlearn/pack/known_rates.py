"""How fast packs train here, and what compiling them gains, measured once for each machine and shape."""

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
from rayul.errors import InputError
from rayul.files import write_json
from rayul.spec import Spec, heaviest
from rayul.unlearn.data import Sets
from rayul.unlearn.pack.compiling import Compiled, measure_compiled
from rayul.unlearn.pack.throughput import Throughput, measure_packs
from rayul.words import first_line


def known_packs(
    spec: Spec, sets: Sets, sizes: Sequence[int], memory: int, *, one_packed: bool = False
) -> list[Throughput]:
    """`measure_packs`, from the cache where the same was measured before: on such a processor or GPU, by this torch,
    of this model, method, adapter and batch, and of as many rows of as many characters."""
    threads = torch.get_num_threads()
    found = remembered_packs(spec, sets, sizes, memory, threads, one_packed=one_packed)
    if found is not None:
        return found
    found = measure_packs(spec, sets, sizes, memory, one_packed=one_packed)
    if found:  # that nothing fitted may be somebody else's doing
        remember_packs(spec, sets, sizes, memory, found, one_packed=one_packed)
    return found


def remember_packs(
    spec: Spec,
    sets: Sets,
    sizes: Sequence[int],
    memory: int,
    found: Sequence[Throughput],
    *,
    one_packed: bool = False,
) -> None:
    """Keep it in the cache, as measured by a process of as many threads as this one has."""
    path = _packs_file(spec, sets, sizes, memory, torch.get_num_threads(), one_packed)
    _keep(path, [list(one) for one in found])


def remembered_packs(
    spec: Spec, sets: Sets, sizes: Sequence[int], memory: int, threads: int, *, one_packed: bool = False
) -> list[Throughput] | None:
    """What `known_packs` has in the cache for a process of so many threads, or None."""
    with suppress(OSError, ValueError, TypeError):  # none, or none that can be read: measure
        lines = json.loads(_packs_file(spec, sets, sizes, memory, threads, one_packed).read_text())
        return [Throughput(int(slots), float(rows), int(held)) for slots, rows, held in map(_positive, lines)]
    return None


def known_compiled(spec: Spec, sets: Sets, slots: int) -> Compiled | str:
    """`measure_compiled`, from the cache likewise; or why it failed, which is remembered where the compiler did."""
    from torch._dynamo.exc import TorchDynamoException

    found: Compiled | str | None = remembered_compiled(spec, sets, slots, torch.get_num_threads())
    if found is not None:
        return found
    try:
        found = measure_compiled(spec, sets, slots)
    except TorchDynamoException as error:
        found = first_line(error)
    except Exception as error:  # the sweep can do without
        return error.message if isinstance(error, InputError) else first_line(error)
    remember_compiled(spec, sets, slots, found)
    return found


def remember_compiled(spec: Spec, sets: Sets, slots: int, found: Compiled | str) -> None:
    """Keep it in the cache likewise."""
    kept = found if isinstance(found, str) else list(found)
    _keep(_compiled_file(spec, sets, slots, torch.get_num_threads()), kept)


def remembered_compiled(spec: Spec, sets: Sets, slots: int, threads: int) -> Compiled | str | None:
    """What `known_compiled` has in the cache likewise, or None."""
    path = _compiled_file(spec, sets, slots, threads)
    with suppress(OSError, ValueError, TypeError):
        kept = json.loads(path.read_text())
        if isinstance(kept, str) and kept:
            return f"{kept} (in an earlier sweep; to try again, delete {path})"
        _, rows, gain, seconds = _positive(kept)
        return Compiled(slots, rows, gain, seconds)
    return None


def _packs_file(spec: Spec, sets: Sets, sizes: Sequence[int], memory: int, threads: int, one_packed: bool) -> Path:
    return _file("packs", spec, sets, [list(sizes), memory >> 28, threads, one_packed])


def _compiled_file(spec: Spec, sets: Sets, slots: int, threads: int) -> Path:
    return _file("compiled-packs", spec, sets, [slots, threads])


def _file(what: str, spec: Spec, sets: Sets, more: Sequence[object]) -> Path:
    trial = spec.at(heaviest(spec))
    sections = ("model", "method", "lora", "training", "control", "evaluate")
    rows = {name: (len(some), sum(len(row.question) + len(row.answer) for row in some)) for name, some in sets.items()}
    config = Path(spec.model.path) / "config.json"  # of a folder: what is in it may have changed
    parts = [
        _device(),
        config.read_text() if config.is_file() else "",
        torch.__version__,
        {name: trial.resolved().get(name) for name in sections},
        rows,
        *more,
    ]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return cache_folder() / what / f"{key}.json"


def _device() -> str:
    """The GPU's name, or the processor's and its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _keep(path: Path, found: object) -> None:
    with suppress(OSError):  # a cache that cannot be written costs the next sweep a measurement
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)


def _positive(numbers: list[float]) -> list[float]:
    if not min(numbers) > 0:
        raise ValueError(f"{numbers} is no measurement")
    return numbers
