"""What a step, an evaluation and an answer take on this model, timed on as many rows as there is time for."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch

from rayul.spec import METRICS, Spec
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
"""Of an answer that are generated behind its first to see how long one takes."""


class Evaluated(NamedTuple):
    """seconds: of all rows, with what of the probes takes more than a forward and yet steers. token: of that forward,
    per token. rows: that were timed, of `of`. baseline: what it measured, of the sets that there was time to score
    whole. notes: what is to be known of these numbers."""

    seconds: float
    token: float
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
    token = seconds / sum(len(e.ids) for e in examples)
    further = task.further_metrics(everything=False)
    if further:  # probes that steer by what the model answers
        takes = time_further(model, task, spec, further, token)
        seconds += takes
        if takes <= left:
            said = answered(model, task, size)
            baseline, notes = baseline | said.measured, said.notes
    return Evaluated(seconds, token, found.rows, len(examples), baseline, notes)


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


def time_further(model: Model, task: Task, spec: Spec, further: Mapping[str, Sequence[str]], token: float) -> float:
    """Seconds that these metrics of probes, by set, take beyond a forward: of its answers, and of passes over its rows,
    one for each of their texts. token: seconds of a token in a forward."""
    sets = task.evaluated(further)
    needs = {name: [METRICS[metric].needs for metric in further[name]] for name in sets}
    answers = time_answers(model, task, spec, [name for name in sets if "generate" in needs[name]])
    seconds = 0.0
    for name, examples in sets.items():
        texts = max(len(row.choices or row.perturbed_answer or (row,)) for row in task.sets[name])
        passes = needs[name].count("passes") * texts
        seconds += passes * token * sum(len(e.ids) for e in examples) + len(examples) * answers.get(name, 0.0)
    return seconds


def time_answers(model: Model, task: Task, spec: Spec, names: Collection[str]) -> dict[str, float]:
    """By set the seconds that the greedy answer to one of its questions takes in a batch of evaluate.batch_size: of a
    probe one of max_new_tokens, which is the most, and of other rows one as long as theirs are on average."""
    return {name: _answer(model, task, spec, name, ANSWER / len(names)) for name in names}


def _answer(model: Model, task: Task, spec: Spec, name: str, allowance: float) -> float:
    rows = task.examples[name]
    by_length = sorted(rows, key=lambda e: len(e.ids))
    size = min(spec.evaluate.batch_size, len(rows))

    def run(count: int) -> list[float]:
        prompts = [e.ids[: e.start] for e in _spaced(by_length, count)]
        moments = [time.perf_counter()]
        for length in (1, 1 + TOKENS):
            generate(model, prompts, [length] * count, frozenset(), task.pad, count)
            moments.append(time.perf_counter())
        first, all_ = moments[1] - moments[0], moments[2] - moments[1]
        return [first, max(0.0, all_ - first) / TOKENS]

    first, further = at_size(run, size, allowance, [0.0, 0.0]).numbers
    probe = task.probe_of(name)
    length = sum(e.stop - e.start for e in rows) / len(rows) if probe is None else probe.max_new_tokens
    return (first + further * (length - 1)) / size


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def moment(device: torch.device) -> float:
    """Seconds by a clock for what the device computes, once it has. On one core those of this process, which other work
    on the machine does not delay."""
    wait(device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


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
