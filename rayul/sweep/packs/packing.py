"""How many trials share a device, and why: the pack of a sweep is chosen once and kept by its resumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from rayul.errors import InputError
from rayul.records.manifest import PackRecord, PackShape
from rayul.spec import Spec
from rayul.sweep.cluster import device_count, on_cpu
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.packs.allowance import (
    SHARE,
    compiling_seconds,
    is_float32,
    one_is_packed,
    packs_are_tested,
    training_seconds,
)
from rayul.sweep.packs.bench import WORTH, Bench, fastest_compiled
from rayul.unlearn import products
from rayul.unlearn.compiled import missing_compiler, require_compiler
from rayul.unlearn.data import Sets
from rayul.unlearn.pack import Shape
from rayul.unlearn.pack.throughput import Throughput
from rayul.words import plural

UNMEASURED_CORE, UNMEASURED_GPU = 2, 4
"""Trials of a device at most where nothing was measured. On a core packs of 2 trained 1.4 to 1.7 times as many rows as
one trial at a time, and packs of 4 only 2% to 8% more than that; each trial in flight has a client that takes 1.2 s of
CPU to start (results/peer), and its proposal knows nothing of the others: whole sweeps of 16 trials took 0.89 times the
CPU seconds of packs of 4. On an H200 packs of 4 trained 3.5 to 4.3 times as many steps as a process, and packs of 2
half of that (results/packs)."""

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
    """What `resources.trials_per_gpu` and `compile` say; for auto what is fastest here, by measurements on one device
    that cost a small part of the sweep.

    before: of the run that this one resumes: results depend on it to the last bit, so it stays.
    """
    if spec.resources.compile is True and on_cpu(spec.resources):
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
        if slots == 1:
            return Packing(None, "")
        chosen = Packing(_shape(spec, slots), "")
        if spec.resources.compile != "auto":
            return chosen
        return _compiled_if_worth(Bench(spec, sets, disk, devices), chosen, [slots], None)
    learning = spec.search.traits.learns == "trials"
    if learning:
        most = spec.search.trials // (PER_GENERATION * devices)
    sizes = [slots for slots in (1, 2, 4, 8, 16, 32) if slots <= most]
    if len(sizes) <= 1:
        few = plural(spec.search.trials, "trial")
        why = f"With {few}, one runs per device, so that the search can learn between them."
        return _one(spec, why if learning else "")
    bench = Bench(spec, sets, disk, devices)
    try:
        rates = bench.rates(sizes)
    except InputError as error:  # where trials alone cannot run either, whoever measures the baseline says so
        return Packing(None, f"no packs: {error.message}")
    if rates is None:
        most = UNMEASURED_CORE if on_cpu(spec.resources) else UNMEASURED_GPU
        slots = max(size for size in sizes if size <= most) if packs_are_tested(spec) else 1
        why = f"{plural(slots, 'trial')} per device, unmeasured: training is too short for a measurement to pay."
        return Packing(_shape(spec, slots) if slots > 1 else None, why)
    return _compiled_if_worth(bench, _fastest(spec, rates), sizes, rates)


def as_recorded(packing: Packing, dtype: str, threads: int) -> PackRecord:
    """The packing as the manifest has it."""
    shape = PackShape(**packing.shape._asdict()) if packing.shape else None
    return PackRecord(shape=shape, dtype=dtype, threads=threads)


def _one(spec: Spec, why: str) -> Packing:
    """One trial per device: on cores in a pack that it has for itself."""
    return Packing(_shape(spec, 1) if one_is_packed(spec) else None, why)


def _shape(spec: Spec, slots: int) -> Shape:
    return Shape.of(spec, slots, cpu=on_cpu(spec.resources))


def _fastest(spec: Spec, measured: Sequence[Throughput]) -> Packing:
    if not measured:
        return Packing(None, "One trial runs per device: a pack of one does not fit into its memory.")
    best = measured[0]
    for one in measured[1:]:
        if one.rows >= WORTH * best.rows:
            best = one
    rates = ", ".join(f"{one.slots}: {one.rows:.0f}" for one in measured)
    why = f"rows per second, by number of trials on a device: {rates}"
    return Packing(_shape(spec, best.slots), why) if best.slots > 1 else _one(spec, why)


def _compiled_if_worth(
    bench: Bench, plain: Packing, sizes: Sequence[int], rates: Sequence[Throughput] | None
) -> Packing:
    """The pack, or, with `resources.compile: auto`, the same or a larger one compiled, where that is worth its seconds.

    rates: of packs that are not compiled, the first of them what the sweep must not be slower than; None where nothing
    was measured.
    """
    spec, devices = bench.spec, bench.devices
    if spec.resources.compile != "auto" or plain.shape is None:
        return plain
    rate, cpu = rates[0].rows if rates else bench.rate, on_cpu(spec.resources)
    if rate is None:
        return plain
    larger = [size for size in sizes if size >= plain.slots][: 1 if cpu else None]
    costs = accumulate(compiling_seconds(spec, rate, size) for size in larger)
    allowed = SHARE * training_seconds(spec, rate, devices)
    larger = [size for size, cost in zip(larger, costs, strict=True) if cost <= allowed]
    if not larger:
        return plain
    found = _uncompilable(spec, cpu=cpu) or bench.compiled(larger)
    if isinstance(found, str):
        return Packing(plain.shape, _joined(plain.why, f"not compiled: {found}"))
    best = fastest_compiled(found)
    rate = best.rows * best.gain
    said = f"compiled, {best.slots}: {rate:.0f} after {best.seconds:.0f} s"
    before = training_seconds(spec, found[0].rows, devices)
    if before < WORTH * (training_seconds(spec, rate, devices) + best.seconds):
        return Packing(plain.shape, _joined(plain.why, f"{said}, which does not pay"))
    return Packing(_shape(spec, best.slots)._replace(compiled=True), _joined(plain.why, said))


def _uncompilable(spec: Spec, *, cpu: bool) -> str | None:
    """Why compiling is not even measured here, or None."""
    if reasons := spec.uncompilable:
        return reasons[0][1]
    if cpu and is_float32(spec.model) and products.by_onednn():  # 0.63 to 0.75 times the rate (results/packs)
        return "on this processor oneDNN multiplies faster than what is compiled"
    return missing_compiler() if cpu else None


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))
