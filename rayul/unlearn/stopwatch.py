"""What a step, an evaluation and an answer take on this model, timed on as many rows as there is time for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch

from rayul.spec import Spec
from rayul.unlearn.answered import answered
from rayul.unlearn.data import Row, Sets
from rayul.unlearn.evaluate import measurement
from rayul.unlearn.extrapolate import at_size
from rayul.unlearn.forward import Model, score
from rayul.unlearn.generation import generate
from rayul.unlearn.measured import Measured
from rayul.unlearn.peak import peak_memory, reset_peak
from rayul.unlearn.task import Task
from rayul.unlearn.train import train
from rayul.unlearn.update import Update

T = TypeVar("T")

STEP, EVALUATION, BASELINE, ANSWER = 10.0, 6.0, 6.0, 4.0
"""Seconds that may be spent on each."""

TOKENS = 8
"""Of an answer that are generated to see how long one takes."""


class Evaluated(NamedTuple):
    """seconds: of all rows. rows: that were timed, of `of`. baseline: what it measured, of the sets that there was time
    to score whole. notes: what is to be known of these numbers."""

    seconds: float
    rows: int
    of: int
    baseline: dict[str, Measured]
    notes: tuple[str, ...] = ()


def time_evaluation(model: Model, task: Task, spec: Spec) -> Evaluated:
    """An evaluation of an untrained update, which changes nothing: the baseline's."""
    size, metrics = spec.evaluate.batch_size, spec.evaluate.metrics
    # Where all that steers is generated there is nothing to time: the forget rows stand for it.
    asked = task.forward_metrics(metrics) or task.forward_metrics(metrics, ["forget"])
    sets, groups = task.evaluated(asked), task.groups(asked)
    examples = [e for rows in sets.values() for e in rows]
    by_length = sorted(examples, key=lambda e: len(e.ids))
    baseline: dict[str, Measured] = {}
    notes: tuple[str, ...] = ()

    def run(count: int) -> list[float]:
        chosen = examples if count == len(examples) else _spaced(by_length, count)
        begin = time.perf_counter()
        scores = score(model, chosen, task.pad, size)
        seconds = time.perf_counter() - begin
        if count == len(examples):
            baseline.update(measurement(scores, groups, asked, task.own).measured)
        return [seconds]

    found = at_size(run, len(examples), EVALUATION, [0.0])
    (seconds,) = found.numbers
    left = BASELINE
    for name in () if baseline else asked:
        share = seconds * len(sets[name]) / len(examples)
        if share <= left:
            scores = score(model, sets[name], task.pad, size)
            baseline |= measurement(scores, {name: groups[name]}, asked, task.own).measured
            left -= share
    generating = sum(len(task.sets[name]) for name in task.further_metrics(everything=False))
    if generating:  # probes that steer by what the model answers
        takes = generating * time_answer(model, task, spec)
        seconds += takes
        if takes <= left:
            said = answered(model, task, size)
            baseline, notes = baseline | said.measured, said.notes
    return Evaluated(seconds, found.rows, len(examples), baseline, notes)


class Stepped(NamedTuple):
    """seconds: of a step. rows: of its forget rows that were timed, of `of`. memory: a process's peak, in bytes."""

    seconds: float
    rows: int
    of: int
    memory: int


def time_step(update: Update, task: Task, spec: Spec, sets: Sets) -> Stepped:
    """The second step of a training on the rows of a step alone: the first fills caches, and scores its rows by the
    model before unlearning, which a trial does once for all rows."""
    of = min(int(spec.training.batch_size), task.own_rows["forget"])
    before = peak_memory(task.device)

    def run(count: int) -> list[float]:
        plain = {"steps": 2, "evaluate_every": 1, "batch_size": count, "layered": None, "augment": None}
        small = spec.model_copy(update={"training": spec.training.model_copy(update=plain)})
        own = few_rows(task, sets, small, count)
        reset_peak(task.device)
        moments = []
        for _ in train(update, own, small, seed=0):
            wait(task.device)
            moments.append(time.perf_counter())
        return [moments[2] - moments[1], float(peak_memory(task.device))]

    reset_peak(task.device)
    found = at_size(run, of, STEP, [0.0, float(peak_memory(task.device))])
    seconds, memory = found.numbers
    return Stepped(seconds, found.rows, of, max(before, int(memory)))


def time_answer(model: Model, task: Task, spec: Spec) -> float:
    """Seconds that the greedy answer to a question takes in a batch of evaluate.batch_size, one of the length of the
    retain rows' answers on average."""
    rows = task.examples["retain"] if task.examples.get("retain") else task.examples["forget"]
    by_length = sorted(rows, key=lambda e: len(e.ids))
    length = sum(e.stop - e.start for e in rows) / len(rows)
    size = min(spec.evaluate.batch_size, len(rows))

    def run(count: int) -> list[float]:
        prompts = [e.ids[: e.start] for e in _spaced(by_length, count)]
        begin = time.perf_counter()
        generate(model, prompts, [TOKENS] * count, frozenset(), task.pad, count)
        return [time.perf_counter() - begin]

    (seconds,) = at_size(run, size, ANSWER, [0.0]).numbers
    return seconds / size * length / TOKENS


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def few_rows(task: Task, sets: Sets, spec: Spec, count: int) -> Task:
    """The task with at most `count` rows of each set that is trained on, of all lengths; of packed rows with all."""
    few: dict[str, Sequence[Row]] = {}
    for name in ("forget", "retain_train"):
        lengths: Mapping[int, int] = {i: len(e.ids) for i, e in enumerate(task.examples.get(name, ()))}
        if any(row.chunk and row.chunk.room for row in sets.get(name, ())):
            few[name] = sets[name]  # of which several are a row
            continue
        few[name] = [sets[name][i] for i in _spaced(sorted(lengths, key=lengths.__getitem__), count)]
    sets = {name: tuple(rows) for name, rows in few.items() if rows}
    return Task(task.base, task.tokenizer, sets, task.template, spec.evaluate.max_rows, task.own)


def _spaced(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items from the middles of as many equal parts."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
