"""What a trial costs here, measured in well under a minute whatever the size of the model. The one part of a plan that
needs torch."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rayul.errors import RayulError
from rayul.spec import Spec, certify_of, sets_to_certify
from rayul.unlearn.cadence import evaluation_steps
from rayul.unlearn.data import Row, Sets
from rayul.unlearn.fits import reworded
from rayul.unlearn.forward import Model
from rayul.unlearn.measured import Measured
from rayul.unlearn.order import needs
from rayul.unlearn.pack.parameters import pack_targets
from rayul.unlearn.peak import all_memory, held_memory, peak_memory
from rayul.unlearn.stopwatch import time_answers, time_evaluation, time_further, time_step
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.template import AnyTemplate
from rayul.unlearn.tokens import Example, encode_rows
from rayul.unlearn.trial import REPORTED, device_name
from rayul.unlearn.update import attach
from rayul.unlearn.update.modules import Modules, adapted_modules, untouched_weights

SHOWN = 4
"""Tokens on each side of a boundary."""


class Cost(NamedTuple):
    """Of one trial that has its device, or its cores, to itself. Seconds and bytes.

    load: reading model and rows, once a process, and scoring the training rows where the method compares with the model
    before unlearning. start: a fresh update. steps, evaluations: of a whole trial. memory: its peak, the model
    included. held: what of that is there once the model is loaded, which the trials of a pack share. device_memory: of
    the GPU, or the machine. base: the weights before unlearning. trained: the weights that train. saved: one saved
    point of the front. baseline: metrics before unlearning, by "<set>.<metric>", of the sets that there was time to
    measure. notes: what is to be known of these. adapted, untouched: modules with an adapter, and weight matrices
    without one, where adapters are trained.

    final: what is measured of a model at the end, the report rows included, with the answers of evaluate.final.
    certify: measuring the certify rows once. timed: rows of a step and of an evaluation that were run, each with the
    number that there are: where it is smaller, the rest is extrapolated.
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
    final: float = 0.0
    certify: float = 0.0
    timed: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))
    held: int = 0
    notes: tuple[str, ...] = ()


def measure_cost(spec: Spec, sets: Sets, packed: bool = False) -> Cost:
    """What `measuring` finds."""
    probe = measuring(spec, sets, packed)
    while True:
        try:
            next(probe)
        except StopIteration as end:
            cost: Cost = end.value
            return cost


def measuring(spec: Spec, sets: Sets, packed: bool = False) -> Generator[str, None, Cost]:
    """Probe a spec without a search (`spec.at(params)`); yields what is being done. packed: in packs, as trials are.

    Raises RayulError where a trial does not fit into memory, and InputError for a model that cannot be adapted as the
    spec asks.
    """
    try:
        return (yield from _measuring(spec, sets, packed))
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise RayulError(
            "a trial does not fit into memory at the largest settings of the space",
            "lower training.batch_size or lora.r, set training.micro_batch_size, or model.dtype: bfloat16"
            if spec.update_kind.adapter
            else "lower training.batch_size, set training.micro_batch_size, or train an adapter (update: lora)",
        ) from None


def _measuring(spec: Spec, sets: Sets, packed: bool) -> Generator[str, None, Cost]:
    yield "loading the model"
    begin = time.perf_counter()
    task = load_task(spec, sets)
    load, held = time.perf_counter() - begin, held_memory(task.device)
    if packed:
        pack_targets(task.base, spec.lora)
    begin = time.perf_counter()
    update = attach(task, spec, seed=0)
    start = time.perf_counter() - begin
    yield "timing an evaluation"
    evaluated = time_evaluation(update.model, task, spec)
    yield "timing an answer"
    final, certify = _time_endings(update.model, task, spec, evaluated.token)
    yield "timing a step"
    stepped = time_step(update, task, spec, sets)
    trained = _bytes(update.parameters)
    adapter = spec.update_kind.adapter
    saved = trained if adapter else _bytes(update.model.parameters())
    adapted = adapted_modules(update.model) if adapter else []
    untouched = untouched_weights(update.model) if adapter else []
    update.detach()
    stops = evaluation_steps(spec)
    return Cost(
        device=device_name(task.device),
        load=load + (evaluated.token * sum(map(_tokens, task.training.values())) if needs(spec, "reference") else 0.0),
        start=start,
        step=stepped.seconds,
        evaluation=evaluated.seconds,
        steps=spec.training.steps,
        evaluations=len(stops) - 1,  # step 0 takes the baseline's values
        memory=max(stepped.memory, peak_memory(task.device)),
        device_memory=all_memory(task.device),
        base=_bytes(task.base.parameters()),
        trained=trained,
        saved=saved,
        baseline=evaluated.baseline,
        notes=evaluated.notes,
        adapted=adapted,
        untouched=untouched,
        final=final,
        certify=certify,
        timed=((stepped.rows, stepped.of), (evaluated.rows, evaluated.of)),
        held=held,
    )


def _time_endings(model: Model, task: Task, spec: Spec, token: float) -> tuple[float, float]:
    """`final` and `certify` of a cost. token: seconds of a token in a forward."""
    asked = [metric for name in spec.evaluate.final if (metric := spec.evaluate.of(name)) is not None]
    of_data = {name: task.examples[name] for name in REPORTED if asked and task.examples.get(name)}
    scored = [*task.evaluated(task.forward_metrics(spec.evaluate.reported, REPORTED)).values(), *of_data.values()]
    if any(metric.column or metric.needs in ("passes", "oracle") for metric in asked):
        scored += [reworded(task.tokenizer, task.template, task.sets[name]) for name in of_data]
    final = token * sum(map(_tokens, scored))
    final += time_further(model, task, spec, task.further_metrics(everything=True, names=REPORTED), token)
    if any(metric.needs == "generate" for metric in asked):
        answers = time_answers(model, task, spec, of_data)
        final += sum(len(examples) * answers[name] for name, examples in of_data.items())

    rows_of = {name: certify_of(name) for name in sets_to_certify(spec)}
    certify = token * sum(map(_tokens, task.evaluated(rows_of.values()).values()))
    steering = task.further_metrics(everything=False)
    further = {rows_of[name]: metrics for name, metrics in steering.items() if name in rows_of}
    return final, certify + time_further(model, task, spec, further, token)


def _tokens(examples: Iterable[Example]) -> int:
    return sum(len(e.ids) for e in examples)


def rendered(tokenizer: Any, template: AnyTemplate, rows: Any) -> list[str]:
    """What the model sees of rows: their tokens as text again, special tokens included."""
    examples: list[Example] = encode_rows(tokenizer, template, rows)
    return [str(tokenizer.decode(list(e.ids))) for e in examples]


def boundary(tokenizer: Any, template: AnyTemplate, row: Row) -> str:
    """The tokens at both ends of a row's answer, as the tokenizer writes them: "Answer : | ĠAda Ġwas ... . | <eos>"."""
    ids, start, stop, *_ = encode_rows(tokenizer, template, [row])[0]
    answer = [ids[start:stop]] if stop - start <= 2 * SHOWN else [ids[start : start + SHOWN], ids[stop - SHOWN : stop]]
    before, after = ids[max(0, start - SHOWN) : start], ids[stop : stop + SHOWN]
    words = [" ".join(map(repr, tokenizer.convert_ids_to_tokens(list(part)))) for part in (before, *answer, after)]
    return f"{words[0]} | {' ... '.join(words[1:-1])} | {words[-1]}"


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
