"""How many trials share a device, and why: the pack of a sweep is chosen once and kept by its resumes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import ray
import torch

from rayul.errors import InputError
from rayul.records.manifest import PackRecord, PackShape
from rayul.spec import Spec
from rayul.sweep.cluster import allocate, device_count, on_cpu
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.losses import fetch
from rayul.sweep.packs.broker import MALLOC
from rayul.unlearn.compiled import require_compiler
from rayul.unlearn.data import Sets
from rayul.unlearn.pack import Shape
from rayul.unlearn.pack.known_rates import known_packs
from rayul.unlearn.pack.throughput import Throughput
from rayul.words import plural

WORTH = 1.1
"""A larger pack must be so much faster: it takes memory, and tells the search less."""

PER_GENERATION = 8
"""`auto` keeps at most 1/8 of the trials in flight where the search learns from each: what runs beside a trial, its
proposal knows nothing of."""


@dataclass(frozen=True)
class Packing:
    """shape: of the pack of every device; None: each trial has a process of its own. why: in words."""

    shape: Shape | None
    why: str

    @property
    def slots(self) -> int:
        """Trials on a device."""
        return self.shape.slots if self.shape else 1


def unpackable(spec: Spec) -> str | None:
    """Why the trials of this sweep cannot share packs, or None."""
    if not spec.resources.packs:
        return "resources.packs is false"
    if spec.update_kind.alone:
        return f"update: {spec.update}: {spec.update_kind.alone}"
    if spec.resources.gpu > 1:
        return "a trial spans several GPUs"
    if spec.training.gradient_checkpointing:
        return "training.gradient_checkpointing computes a layer twice, once without its adapters' pack"
    if spec.model.quantize:
        return "model.quantize: the weights are not those of linear modules"
    if 0 < spec.resources.gpu < 1:
        return f"a trial's device is {spec.resources.gpu:g} of a GPU"
    return None


def choose_packing(spec: Spec, sets: Sets, disk: DriverDisk, before: PackRecord | None) -> Packing:
    """What `resources.trials_per_gpu` says, or, for auto, what is fastest here by a measurement on one device.

    before: of the run that this one resumes: results depend on it to the last bit, so it stays.
    """
    if spec.resources.compile and on_cpu(spec.resources):
        require_compiler()
    if before is not None:
        return Packing(
            Shape(**before.shape.model_dump()) if before.shape else None, "Resuming with the original settings."
        )
    reason, wanted = unpackable(spec), spec.resources.trials_per_gpu
    devices = device_count(spec.resources)
    at_once = min(spec.search.trials, spec.resources.concurrency or spec.search.trials)
    most = math.ceil(at_once / devices)  # a slot that nobody fills is computed all the same
    if reason is not None:
        return Packing(None, f"no packs: {reason}" if wanted != 1 else "")
    if wanted != "auto":
        slots = min(wanted, most)
        return Packing(Shape.of(spec, slots, cpu=on_cpu(spec.resources)) if slots > 1 else None, "")
    if spec.search.traits.learns == "trials":
        most = spec.search.trials // (PER_GENERATION * devices)
    sizes = [slots for slots in (1, 2, 4, 8, 16, 32) if slots <= most]
    if len(sizes) <= 1:
        few = plural(spec.search.trials, "trial")
        return Packing(None, f"With {few}, one runs per device, so that the search can learn between them.")
    try:
        return _fastest(spec, _measured(spec, sets, disk, sizes, devices))
    except InputError as error:  # where trials alone cannot run either, whoever measures the baseline says so
        return Packing(None, f"no packs: {error.message}")


def as_recorded(packing: Packing, dtype: str, threads: int) -> PackRecord:
    """The packing as the manifest has it."""
    shape = PackShape(**packing.shape._asdict()) if packing.shape else None
    return PackRecord(shape=shape, dtype=dtype, threads=threads)


def _fastest(spec: Spec, measured: Sequence[Throughput]) -> Packing:
    if not measured:
        return Packing(None, "One trial runs per device: a pack of one does not fit into its memory.")
    best = measured[0]
    for one in measured[1:]:
        if one.rows >= WORTH * best.rows:
            best = one
    rates = ", ".join(f"{one.slots}: {one.rows:.0f}" for one in measured)
    why = f"rows per second, by number of trials on a device: {rates}"
    shape = Shape.of(spec, best.slots, cpu=on_cpu(spec.resources)) if best.slots > 1 else None
    return Packing(shape, why)


def _measured(spec: Spec, sets: Sets, disk: DriverDisk, sizes: Sequence[int], devices: int) -> list[Throughput]:
    """On one device, the others idle."""
    alone = spec.resources.model_copy(update={"trials_per_gpu": 1})
    place = allocate(alone)
    task = ray.remote(num_cpus=place.cpu, num_gpus=place.gpu, runtime_env={"env_vars": MALLOC})(_measure)
    found: list[Throughput] = fetch(task.remote(spec, ray.put(sets), disk, sizes, devices, place.threads))
    return found


def _measure(
    spec: Spec, sets: Sets, disk: DriverDisk, sizes: Sequence[int], devices: int, threads: int
) -> list[Throughput]:
    torch.set_num_threads(threads)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // devices
    return known_packs(disk.with_models(spec), sets, sizes, memory)
