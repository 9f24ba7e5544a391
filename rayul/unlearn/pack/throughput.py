"""How fast packs of several sizes train on this device, measured."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from rayul.spec import Spec, heaviest
from rayul.unlearn.data import Sets
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack.pack import Pack
from rayul.unlearn.pack.packable import Shape
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.trial import is_out_of_memory

TURNS = 3
ENOUGH = 0.8
"""Share of a device's memory that a pack may take by this measurement: evaluations come on top."""


class Throughput(NamedTuple):
    """slots: K. rows: forget rows a second, of all its trials. memory: the peak in bytes, of the device or, on CPU, of
    this process, and with what was measured before in it."""

    slots: int
    rows: float
    memory: int


def measure_packs(spec: Spec, sets: Sets, sizes: Sequence[int], memory: int) -> list[Throughput]:
    """Of packs of these sizes, smallest first, at the most expensive settings of the space, none compiled (each size
    would take its minute). Ends early, with none at all if need be, where the next size would not fit into `memory`
    bytes (on a GPU its own memory counts)."""
    task = load_task(spec, sets)
    trial = spec.at(heaviest(spec))
    if task.device.type == "cuda":
        memory = torch.cuda.get_device_properties(task.device).total_memory
    found: list[Throughput] = []
    for slots in sizes:
        if found and found[-1].memory * slots / found[-1].slots > ENOUGH * memory:
            break
        try:
            found.append(_measured(task, spec, trial, slots))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
    return found


def _measured(task: Task, spec: Spec, trial: Spec, slots: int) -> Throughput:
    pack = Pack(task, spec, Shape.of(spec, slots, cpu=task.device.type == "cpu")._replace(compiled=False))
    for seed in range(slots):
        pack.join(TrialJob(str(seed), trial, seed, {}, {}))
    pack.step(pack.slots)  # reference values, caches
    _wait(task)
    begin = time.perf_counter()
    for _ in range(TURNS):
        pack.step(pack.slots)
    _wait(task)
    seconds = time.perf_counter() - begin
    if task.device.type == "cuda":
        memory = torch.cuda.max_memory_reserved(task.device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Throughput(slots, TURNS * slots * pack.shape.rows / seconds, memory)


def _wait(task: Task) -> None:
    if task.device.type == "cuda":
        torch.cuda.synchronize(task.device)
