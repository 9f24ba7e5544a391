"""Packs measured on one device before a sweep begins, as far as the sweep is long enough for that to pay."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch

from rayul.spec import Spec
from rayul.sweep.cluster import allocate
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.losses import fetch
from rayul.sweep.packs.allowance import PACKS, SHARE, estimated_rate, one_is_packed, training_seconds
from rayul.sweep.packs.broker import MALLOC
from rayul.unlearn.data import Sets
from rayul.unlearn.pack.compiling import Compiled
from rayul.unlearn.pack.known_rates import known_compiled, known_packs, remembered_compiled, remembered_packs
from rayul.unlearn.pack.throughput import Throughput

WORTH = 1.1
"""A larger pack must be so much faster: it takes memory, and tells the search less. So must a compiled one, with the
seconds of compiling it: rates that are measured once, beside other work, are a few percent off."""


class Bench:
    """One device, the others idle."""

    def __init__(self, spec: Spec, sets: Sets, disk: DriverDisk, devices: int) -> None:
        self.spec, self.sets, self.disk, self.devices = spec, sets, disk, devices
        self.place = allocate(spec.resources.model_copy(update={"trials_per_gpu": 1}))
        self.memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // devices
        self.rate = estimated_rate(spec, sets, on_gpu=self.place.gpu > 0, threads=self.place.threads)
        """Rows a second of one trial at a time, by the model's size; None where that is not known."""
        self.one_packed = one_is_packed(spec)

    def rates(self, sizes: Sequence[int]) -> list[Throughput] | None:
        """Measured now or before; None where they are not known and the sweep is too short to measure them. The cores
        of this machine need no process to look them up."""
        known = None
        if self._here:
            known = remembered_packs(
                self.spec, self.sets, sizes, self.memory, self.place.threads, one_packed=self.one_packed
            )
        if known is not None:
            return known
        if self.rate is not None and SHARE * training_seconds(self.spec, self.rate, self.devices) < PACKS:
            return None
        measured: list[Throughput] = self._run(_measure, sizes, self.memory, self.one_packed)
        return measured

    def compiled(self, sizes: Sequence[int]) -> list[Compiled] | str:
        """Of these sizes, as far as each gains on the one before; or why it cannot be."""
        known = None
        if self._here:
            known = remembered_compiled(self.spec, self.sets, sizes[0], self.place.threads)
        if isinstance(known, str):
            return known
        if known is not None and len(sizes) == 1:
            return [known]
        measured: list[Compiled] | str = self._run(_measure_compiled, sizes)
        return measured

    @property
    def _here(self) -> bool:
        """Whether the device is of this process's machine, and has the same name here as there."""
        return self.place.gpu == 0 and self.disk.server is None

    def _run(self, function: Callable[..., Any], *more: object) -> Any:
        env = {"env_vars": MALLOC}
        task = ray.remote(num_cpus=self.place.cpu, num_gpus=self.place.gpu, runtime_env=env)(function)
        return fetch(task.remote(self.spec, ray.put(self.sets), self.disk, self.place.threads, *more))


def fastest_compiled(measured: Sequence[Compiled]) -> Compiled:
    best = measured[0]
    for one in measured[1:]:
        if one.rows * one.gain >= WORTH * best.rows * best.gain:
            best = one
    return best


def _measure(
    spec: Spec, sets: Sets, disk: DriverDisk, threads: int, sizes: Sequence[int], memory: int, one_packed: bool
) -> Any:
    torch.set_num_threads(threads)
    return known_packs(disk.with_models(spec), sets, sizes, memory, one_packed=one_packed)


def _measure_compiled(spec: Spec, sets: Sets, disk: DriverDisk, threads: int, sizes: Sequence[int]) -> Any:
    torch.set_num_threads(threads)
    found: list[Compiled] = []
    for slots in sizes:
        one = known_compiled(disk.with_models(spec), sets, slots)
        if isinstance(one, str):
            return found or one
        found.append(one)
        if fastest_compiled(found) is not one:
            break
    return found
