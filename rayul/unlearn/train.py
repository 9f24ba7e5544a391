"""The training loop of one trial: batches -> loss -> controls -> step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rayul.errors import RayulError
from rayul.spec import Spec
from rayul.unlearn.cadence import Watch, evaluation_steps
from rayul.unlearn.controls import controlled
from rayul.unlearn.forward import Answers, forward, token_logp
from rayul.unlearn.gradients import Memory
from rayul.unlearn.gradients.alone import leave_gradient
from rayul.unlearn.gradients.contract import FORGET_NLL, LOSS, RETAIN_NLL
from rayul.unlearn.gradients.hidden import Room, latent_layers, numbered, perturbed
from rayul.unlearn.losses import Side, terms_of
from rayul.unlearn.model import gradient_checkpointing
from rayul.unlearn.optimisers import learning_rate, optimisers
from rayul.unlearn.order import needs, row_order
from rayul.unlearn.projection import projecting_head
from rayul.unlearn.task import Task
from rayul.unlearn.terms import total
from rayul.unlearn.tokens import collate
from rayul.unlearn.update import Update


class Diverged(RayulError):
    """A loss, a gradient or a metric is not a finite number any more."""


def train(
    update: Update,
    task: Task,
    spec: Spec,
    seed: int,
    terms: dict[str, float] | None = None,
    watch: Watch | None = None,
) -> Iterator[int]:
    """Train in place; yields each evaluation step, with the update as it is there.

    terms: is filled with the values of the loss's terms at the last step. watch: hears what the steps read. `spec` has
    no search distribution left. The seed fixes the order of the rows. Raises Diverged when the loss or the gradient is
    not finite.
    """
    training, parameters = spec.training, update.parameters
    steppers = optimisers(training, parameters)
    order = row_order(task, spec, seed)
    direction = steering_direction(task, spec, seed)
    memory: Memory = {}
    projecting_head(update.model)  # known before a rule adds to hidden states: it is tried on another batch
    stops = evaluation_steps(spec)
    yield 0
    for step in range(1, training.steps + 1):
        forget, retain = next(order)
        progress = (step - 1) / training.steps
        accumulate = partial(accumulate_gradient, update, task, spec, forget, retain, direction, progress, watch)
        room = partial(Room.of, task, spec, forget)
        with gradient_checkpointing(update.model, training.gradient_checkpointing):
            found = leave_gradient(parameters, spec.method, memory, step, accumulate, room)
        # Gradient ascent has no floor: clipping keeps one step's size, and its norm shows a gradient that is no number.
        norm = torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm or math.inf)
        loss = sum(found.values())
        if not (math.isfinite(loss) and bool(norm.isfinite())):
            raise Diverged(f"step {step}: loss {loss}, gradient norm {norm.item()}", "lower training.lr")
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = learning_rate(training, step)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        if spec.control.ball is not None:
            update.project_into_ball(spec.control.ball, spec.control.ball_norm)
        if terms is not None:
            terms.clear()
            terms.update(found)
        if step in stops:
            yield step


def micro_batches(
    forget: Sequence[int], retain: Sequence[int], size: int | None
) -> list[tuple[Sequence[int], Sequence[int]]]:
    """The rows of a step in parts of at most `size` rows of each set (None: one part), as even as can be."""
    parts = math.ceil(max(len(forget), len(retain)) / (size or max(len(forget), len(retain))))
    parts = min(parts, len(forget), len(retain) or len(forget))
    return [(_part(forget, i, parts), _part(retain, i, parts)) for i in range(parts)]


def accumulate_gradient(
    update: Update,
    task: Task,
    spec: Spec,
    forget: Sequence[int],
    retain: Sequence[int],
    direction: Tensor | None = None,
    progress: float = 0.0,
    watch: Watch | None = None,
    of: str = LOSS,
    held: Tensor | None = None,
) -> dict[str, float]:
    """Add to `.grad` the gradient of the method's loss on these rows, or of what else a gradient rule asks for; returns
    the values of its terms. progress: share of the trial's steps that are done. watch: of `train`. held: of `Ask`.

    With training.micro_batch_size the batch is split, each part weighted by its number of rows: the same gradient,
    unless a cap masks whole sequences (then each part is a mean over its own remaining sequences).
    """
    found: dict[str, float] = {}
    begin = 0
    for f, r in micro_batches(forget, retain, spec.training.micro_batch_size):
        side = partial(_side, update, task, spec, direction=direction, progress=progress, watch=watch)
        own = None if held is None else held[begin : begin + len(f)]
        begin += len(f)
        forget_side = side("forget", f, of != FORGET_NLL, held=own)
        retain_side = side("retain_train", r, False) if r else None
        idk_side = side("idk", f, False) if needs(spec, "idk") else None
        share = len(r) / len(retain) if of == RETAIN_NLL else len(f) / len(forget)
        terms = terms_of(spec.method, of, forget_side, retain_side, idk_side)
        for name, value in terms.items():
            found[name] = found.get(name, 0.0) + float(value.detach()) * share
        if terms:
            (total(terms) * share).backward()
    return found


def _side(
    update: Update,
    task: Task,
    spec: Spec,
    name: str,
    indices: Sequence[int],
    limited: bool,
    direction: Tensor | None,
    progress: float,
    watch: Watch | None = None,
    held: Tensor | None = None,
) -> Side:
    """The batch of these examples as losses see it. limited: whether the controls act on it. held: as in `Ask`, of
    these rows."""
    batch = collate([task.training[name][i] for i in indices], task.pad, task.device)
    layers = hidden_layers(update.model.config, spec)

    def answers() -> Answers:
        added: dict[int, Tensor] = {}
        if held is not None:
            numbers = latent_layers(update.model, spec)
            added = dict(zip(numbers, held[:, : batch.ids.shape[1]].unbind(2), strict=True))
        with perturbed(update.model, added):
            plain = forward(update.model, batch, layers)
        if watch is not None and watch.on:
            logp = token_logp(plain)
            plain = plain._replace(logp=logp)
            watch.note(logp, before(plain.mask), plain.mask)
        return controlled(plain, spec.control) if limited else plain

    def before(mask: Tensor) -> Tensor:
        return task.reference_logp(name, indices, batch.answer[:, -mask.shape[1] :], update.reference)

    def reference() -> Answers:
        with torch.no_grad(), update.reference() as before:
            plain = forward(before, batch, layers)
        if not limited or spec.control.temperature == 1.0:
            return plain
        return plain.with_logits(plain.logits / spec.control.temperature)

    def reference_logp(mask: Tensor) -> Tensor:
        if limited and spec.control.temperature != 1.0:  # the cache is at temperature 1
            return torch.where(mask, token_logp(reference()), 0.0)
        return torch.where(mask, before(mask), 0.0)

    return Side(answers, reference, reference_logp, direction, lambda: (batch.ids, batch.answer), progress)


def _part(items: Sequence[int], i: int, parts: int) -> Sequence[int]:
    return items[i * len(items) // parts : (i + 1) * len(items) // parts]


def hidden_layers(config: Any, spec: Spec) -> tuple[int, ...]:
    """The numbers of blocks after which a method reads hidden states, none where it reads none; null is the middle.
    InputError beyond the last."""
    if not needs(spec, "hidden"):
        return ()
    name = "layer" if spec.method.parameters.get("layers") is None else "layers"
    return numbered(config, name, spec.method.parameters[name])


def steering_direction(task: Task, spec: Spec, seed: int) -> Tensor | None:
    """A random direction [D] of unit length in [0, 1]^D, for methods that steer hidden states."""
    if not needs(spec, "hidden"):
        return None
    uniform = torch.rand(task.base.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    direction: Tensor = uniform / uniform.norm()
    return direction.to(task.device)
