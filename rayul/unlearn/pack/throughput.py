"""How fast packs of several sizes train on this device, measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rayul.spec import Spec, heaviest
from rayul.unlearn.data import Sets
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack.pack import Pack
from rayul.unlearn.pack.packable import Shape
from rayul.unlearn.peak import all_memory, peak_memory
from rayul.unlearn.stopwatch import few_rows, moment
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.train import train
from rayul.unlearn.trial import is_out_of_memory
from rayul.unlearn.update import attach

TURNS = 5
"""Of which the fastest counts: other work on the machine only makes one slower."""
SECONDS = 15.0
"""That may be spent: where a turn takes long it is the only one, and a larger pack that would take longer is left out.
Rows that fill a device for so long by themselves gain little by company."""
ENOUGH = 0.8
"""Share of a device's memory that a pack may take by this measurement: evaluations come on top."""


class Throughput(NamedTuple):
    """slots: K. rows: forget rows a second, of all its trials. memory: the peak in bytes, of the device or, on CPU, of
    this process, and with what was measured before in it."""

    slots: int
    rows: float
    memory: int


def measure_packs(
    spec: Spec, sets: Sets, sizes: Sequence[int], memory: int, *, one_packed: bool = False
) -> list[Throughput]:
    """Of packs of these sizes, smallest first, at the most expensive settings of the space, none compiled (each size
    would take its minute); 1 is a trial in a process of its own, or, with one_packed, a pack of one. Ends early, with
    none at all if need be, where the next size would not fit into `memory` bytes (on a GPU its own memory counts), or
    take too long."""
    trial = spec.at(heaviest(spec))
    task = few_rows(load_task(spec, sets), sets, trial, trial.training.batch_size)
    if task.device.type == "cuda":
        memory = all_memory(task.device)
    on_cpu = task.device.type == "cpu"
    found: list[Throughput] = []
    begin = time.perf_counter()
    for slots in sizes:
        if found and found[-1].memory * slots / found[-1].slots > ENOUGH * memory:
            break
        spent = time.perf_counter() - begin
        if found and spent + rows_of_a_turn(Shape.of(spec, slots, cpu=on_cpu), trial) / found[-1].rows > SECONDS:
            break
        try:
            found.append(_alone(task, trial) if slots == 1 and not one_packed else _measured(task, spec, trial, slots))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
    return found


def _alone(task: Task, trial: Spec) -> Throughput:
    """Of a trial in a process of its own, which is no pack of one: PEFT computes it."""
    longer = trial.training.model_copy(update={"steps": 1 + TURNS, "evaluate_every": 1, "layered": None})
    update = attach(task, trial, seed=0)
    moments: list[float] = []
    try:
        for _ in train(update, task, trial.model_copy(update={"training": longer}), seed=0):
            moments.append(moment(task.device))
            if len(moments) == 3 and TURNS * (moments[2] - moments[1]) > SECONDS / 2:
                break
    finally:
        update.detach()
    seconds = min(after - before for before, after in pairwise(moments[1:]))  # the first fills caches
    return Throughput(1, trial.training.batch_size / seconds, peak_memory(task.device))


def _measured(task: Task, spec: Spec, trial: Spec, slots: int) -> Throughput:
    pack = Pack(task, spec, Shape.of(spec, slots, cpu=task.device.type == "cpu")._replace(compiled=False))
    for seed in range(slots):
        pack.join(TrialJob(str(seed), trial, seed, {}, {}))
    seconds = _turn(pack)  # with reference values and caches
    if TURNS * seconds < SECONDS / 2:
        seconds = min(_turn(pack) for _ in range(TURNS))
    return Throughput(slots, rows_of_a_turn(pack.shape, trial) / seconds, peak_memory(task.device))


def rows_of_a_turn(shape: Shape, trial: Spec) -> int:
    """Forget rows of all slots: in groups a turn is of whole micro-batches, else of as many rows as a place has."""
    part = trial.training.micro_batch_size or trial.training.batch_size
    return int(shape.slots * (part if shape.group else min(part, shape.rows)))


def _turn(pack: Pack) -> float:
    """Seconds of a turn of all slots."""
    begin = moment(pack.task.device)
    pack.step(pack.slots)
    return moment(pack.task.device) - begin
