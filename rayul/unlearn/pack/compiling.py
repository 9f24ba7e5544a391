"""What compiling a pack gains on this device, and how long it takes, measured."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

from rayul.spec import Spec, heaviest
from rayul.unlearn.cadence import evaluation_steps
from rayul.unlearn.data import Sets
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack.pack import Pack
from rayul.unlearn.pack.packable import Shape
from rayul.unlearn.pack.throughput import rows_of_a_turn
from rayul.unlearn.stopwatch import moment
from rayul.unlearn.task import Task, load_task

ROUNDS, SECONDS = 3, 15.0
"""In which a pack that is compiled and one that is not take turns: the rate of a machine that others use drifts. After
so many seconds no further one begins."""


class Compiled(NamedTuple):
    """slots: K. rows: forget rows a second of all trials, not compiled. gain: how many times as fast a whole trial is
    compiled, its evaluations included. seconds: that compiling took."""

    slots: int
    rows: float
    gain: float
    seconds: float


def measure_compiled(spec: Spec, sets: Sets, slots: int) -> Compiled:
    """Of a pack of this size, at the most expensive settings of the space and on all rows: what is compiled is then
    what the sweep will run, and torch has it on the disk. Raises InputError for a model that cannot be compiled, and
    what torch raises where it fails."""
    trial = spec.at(heaviest(spec))
    task = load_task(spec, sets)
    shape = Shape.of(spec, slots, cpu=task.device.type == "cpu")
    plain, compiled = (_filled(task, spec, trial, shape._replace(compiled=on)) for on in (False, True))
    _spent(plain, trial)  # with reference values and caches
    begin = time.perf_counter()  # another process compiles
    _spent(compiled, trial)
    first = time.perf_counter() - begin
    rounds: list[tuple[tuple[float, float], tuple[float, float]]] = []
    begin = time.perf_counter()
    while len(rounds) < ROUNDS and (not rounds or time.perf_counter() - begin < SECONDS):
        rounds.append((_spent(plain, trial), _spent(compiled, trial)))
    rows = rows_of_a_turn(shape, trial)
    weights = (trial.training.batch_size * trial.training.steps * slots / rows, _evaluations(trial) * slots)
    whole = [[sum(w * s for w, s in zip(weights, one, strict=True)) for one in pair] for pair in rounds]
    return Compiled(
        slots,
        rows / statistics.median(one[0] for one, _ in rounds),
        statistics.median(before / after for before, after in whole),
        max(0.0, first - statistics.median(sum(one) for _, one in rounds)),
    )


def _filled(task: Task, spec: Spec, trial: Spec, shape: Shape) -> Pack:
    pack = Pack(task, spec, shape)
    for seed in range(shape.slots):
        pack.join(TrialJob(str(seed), trial, seed, {}, {}))
    return pack


def _spent(pack: Pack, trial: Spec) -> tuple[float, float]:
    """Seconds of a turn of all slots, and of scoring one adapter on all rows."""
    begin = moment(pack.task.device)
    pack.step(pack.slots)
    stepped = moment(pack.task.device)
    list(pack.evaluator.score(pack.parameters.values[[0]], [trial.lora.alpha / trial.lora.r]))
    return stepped - begin, moment(pack.task.device) - stepped


def _evaluations(trial: Spec) -> int:
    """Of a trial that runs to its end, behind step 0."""
    return len(evaluation_steps(trial)) - 1
