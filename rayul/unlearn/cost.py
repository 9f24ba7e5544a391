"""What a trial costs here: three steps and two evaluations, measured. The one part of a plan that needs torch."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rayul.errors import RayulError
from rayul.spec import Spec
from rayul.unlearn.data import Row, Sets
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.measured import Measured
from rayul.unlearn.pack.parameters import pack_targets
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.template import AnyTemplate
from rayul.unlearn.tokens import Example, encode_rows
from rayul.unlearn.train import evaluation_steps, train
from rayul.unlearn.trial import device_name
from rayul.unlearn.update import attach
from rayul.unlearn.update.modules import Modules, adapted_modules, untouched_weights

STEPS = 3

SHOWN = 4
"""Tokens on each side of a boundary."""


class Cost(NamedTuple):
    """Of one trial that has its device, or its cores, to itself. Seconds and bytes.

    load: reading model and rows, once a process. start: a fresh update. steps, evaluations: of a whole trial.
    memory: its peak, the model included. device_memory: of the GPU, or the machine. base: the weights before
    unlearning. trained: the weights that train. saved: one saved point of the front. baseline: metrics before
    unlearning, by "<set>.<metric>". adapted, untouched: modules with an adapter, and weight matrices without one, where
    adapters are trained.
    """

    device: str
    load: float
    start: float
    step: float
    evaluation: float
    steps: int
    evaluations: int
    memory: int
    device_memory: int
    base: int
    trained: int
    saved: int
    baseline: dict[str, Measured]
    adapted: Sequence[Modules] = ()
    untouched: Sequence[Modules] = ()


def measure_cost(spec: Spec, sets: Sets, packed: bool = False) -> Cost:
    """Probe a spec without a search (`spec.at(params)`). Raises RayulError where a trial does not fit into memory, and
    InputError for a model that cannot be adapted as the spec asks. packed: in packs, as trials will be."""
    try:
        return _measure(spec, sets, packed)
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise RayulError(
            "a trial does not fit into memory at the largest settings of the space",
            "lower training.batch_size or lora.r, set training.micro_batch_size, or model.dtype: bfloat16"
            if spec.update_kind.adapter
            else "lower training.batch_size, set training.micro_batch_size, or train an adapter (update: lora)",
        ) from None


def _measure(spec: Spec, sets: Sets, packed: bool) -> Cost:
    begin = time.perf_counter()
    task = load_task(spec, sets)
    load = time.perf_counter() - begin
    if packed:
        pack_targets(task.base, spec.lora)
    begin = time.perf_counter()
    update = attach(task, spec, seed=0)
    start = time.perf_counter() - begin
    # A fresh update changes nothing: this is the baseline, and it warms the device up.
    baseline = evaluate(update.model, task, spec.evaluate.metrics, spec.evaluate.batch_size).measured
    short = spec.training.model_copy(update={"steps": STEPS, "evaluate_every": 1})
    moments = []
    for _ in train(update, task, spec.model_copy(update={"training": short}), seed=0):
        _wait(task)
        moments.append(time.perf_counter())
    begin = time.perf_counter()
    evaluate(update.model, task, spec.evaluate.metrics, spec.evaluate.batch_size)
    evaluation = time.perf_counter() - begin
    # The first step also scores the reference and fills caches: a trial of many steps hardly sees it.
    step = median(b - a for a, b in pairwise(moments[1:]))
    trained = _bytes(update.parameters)
    adapter = spec.update_kind.adapter
    saved = trained if adapter else _bytes(update.model.parameters())
    memory, device_memory = _memory(task)
    adapted = adapted_modules(update.model) if adapter else []
    untouched = untouched_weights(update.model) if adapter else []
    update.detach()
    stops = evaluation_steps(spec.training.steps, spec.training.evaluate_every)
    return Cost(
        device=device_name(task.device),
        load=load,
        start=start,
        step=step,
        evaluation=evaluation,
        steps=spec.training.steps,
        evaluations=len(stops) - 1,  # step 0 takes the baseline's values
        memory=memory,
        device_memory=device_memory,
        base=_bytes(task.base.parameters()),
        trained=trained,
        saved=saved,
        baseline=baseline,
        adapted=adapted,
        untouched=untouched,
    )


def rendered(tokenizer: Any, template: AnyTemplate, rows: Any) -> list[str]:
    """What the model sees of rows: their tokens as text again, special tokens included."""
    examples: list[Example] = encode_rows(tokenizer, template, rows)
    return [str(tokenizer.decode(list(e.ids))) for e in examples]


def boundary(tokenizer: Any, template: AnyTemplate, row: Row) -> str:
    """The tokens at both ends of a row's answer, as the tokenizer writes them: "Answer : | ĠAda Ġwas ... . | <eos>"."""
    ids, start, stop, _ = encode_rows(tokenizer, template, [row])[0]
    answer = [ids[start:stop]] if stop - start <= 2 * SHOWN else [ids[start : start + SHOWN], ids[stop - SHOWN : stop]]
    before, after = ids[max(0, start - SHOWN) : start], ids[stop : stop + SHOWN]
    words = [" ".join(map(repr, tokenizer.convert_ids_to_tokens(list(part)))) for part in (before, *answer, after)]
    return f"{words[0]} | {' ... '.join(words[1:-1])} | {words[-1]}"


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _wait(task: Task) -> None:
    if task.device.type == "cuda":
        torch.cuda.synchronize(task.device)


def _memory(task: Task) -> tuple[int, int]:
    """(peak of this process, all there is): of the GPU where the model is on one, else of the machine."""
    if task.device.type == "cuda":
        return torch.cuda.max_memory_reserved(task.device), torch.cuda.get_device_properties(task.device).total_memory
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
