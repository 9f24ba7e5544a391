"""The training loop of one trial: batches -> loss -> controls -> step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from rayul.errors import InputError, RayulError
from rayul.spec import Spec
from rayul.unlearn.controls import controlled
from rayul.unlearn.forward import Answers, forward, token_logp
from rayul.unlearn.losses import Side, loss_of, mean_nll
from rayul.unlearn.model import gradient_checkpointing
from rayul.unlearn.task import Task
from rayul.unlearn.tokens import batches, collate
from rayul.unlearn.update import Update


class Diverged(RayulError):
    """A loss, a gradient or a metric is not a finite number any more."""


def evaluation_steps(steps: int, every: int | str) -> list[int]:
    """Steps at which a trial is evaluated, 0 and the last included.

    every: an interval, or "geometric": 1, 2, 3, 4, 6, 8, 11, 16, ... (factor sqrt 2), since gradient ascent can
    collapse between two evenly spaced evaluations.
    """
    if every == "geometric":
        points = {round(2 ** (i / 2)) for i in range(2 * max(1, steps).bit_length())}
    else:
        points = set(range(0, steps, int(every)))
    return sorted({0, steps} | {p for p in points if p < steps})


def train(update: Update, task: Task, spec: Spec, seed: int) -> Iterator[int]:
    """Train in place; yields each evaluation step, with the update as it is there.

    `spec` has no search distribution left. The seed fixes the order of the rows. Raises Diverged when the loss or the
    gradient is not finite.
    """
    training, parameters = spec.training, update.parameters
    optimizer = torch.optim.AdamW(parameters, lr=training.lr, weight_decay=training.weight_decay)
    order = row_order(task, spec, seed)
    rule = GradientSurgery(spec.method.parameters["gru_gamma"]) if spec.method.parameters["gru"] else None
    direction = steering_direction(task, spec, seed)
    stops = evaluation_steps(training.steps, training.evaluate_every)
    yield 0
    for step in range(1, training.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, step)
        forget, retain = next(order)
        with gradient_checkpointing(update.model, training.gradient_checkpointing):
            loss = accumulate_gradient(update, task, spec, forget, retain, direction, rule)
        # Gradient ascent has no floor: clipping keeps one step's size, and its norm shows a gradient that is no number.
        norm = torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm or math.inf)
        if not (math.isfinite(loss) and bool(norm.isfinite())):
            raise Diverged(f"step {step}: loss {loss}, gradient norm {norm.item()}", "lower training.lr")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if spec.control.ball is not None:
            update.project_into_ball(spec.control.ball, spec.control.ball_norm)
        if step in stops:
            yield step


def row_order(task: Task, spec: Spec, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Forget and retain rows of each step (no retain rows for a method that reads none), fixed by the seed."""
    size = spec.training.batch_size
    forget_order = batches(len(task.examples["forget"]), size, torch.Generator().manual_seed(seed))
    retain_count = len(task.examples.get("retain_train", ()))
    retain_order: Iterator[list[int]] = repeat([])
    if retain_count and needs(spec, "retain"):
        # The generator reads the low 32 bits of a seed only: + 2**32 would draw the forget order once more.
        retain_order = batches(retain_count, size, torch.Generator().manual_seed(seed + 2**31))
    return zip(forget_order, retain_order, strict=True)


def learning_rate(spec: Spec, step: int) -> float:
    """Linear warm-up, then constant; `step` counts from 1."""
    return spec.training.lr * min(1.0, step / max(1, spec.training.warmup_steps))


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
    rule: GradientSurgery | None = None,
) -> float:
    """Leave in `.grad` the gradient of the method's loss on these rows; returns the loss.

    With training.micro_batch_size the batch is split, each part weighted by its number of rows: the same gradient,
    unless a cap masks whole sequences (then each part is a mean over its own remaining sequences).
    """
    loss_function, keywords = loss_of(spec.method), loss_keywords(spec)
    total = 0.0
    parts = micro_batches(forget, retain, spec.training.micro_batch_size)
    for f, r in parts:
        forget_side = _side(update, task, spec, "forget", f, direction)
        retain_side = _side(update, task, spec, "retain_train", r) if r else None
        idk_side = _side(update, task, spec, "idk", f) if needs(spec, "idk") else None
        loss = loss_function(forget_side, retain_side, idk_side, **keywords) * (len(f) / len(forget))
        total += float(loss.detach())
        loss.backward()
    if rule is not None:
        unlearning = [p.grad for p in update.parameters]
        for p in update.parameters:
            p.grad = None
        for _, r in parts:
            (mean_nll(_side(update, task, spec, "retain_train", r)) * (len(r) / len(retain))).backward()
        rule(update.parameters, unlearning)
    return total


class GradientSurgery:
    """GRU (arXiv 2503.09117): where the unlearning gradient g_u works against the retain gradient g_r, <g_u, g_r> < 0,
    project it: g_u - <g_u, g_r> / ||g_r||^2 g_r. g_r is a moving average: gamma * new + (1 - gamma) * old, as in the
    authors' code."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.retain: list[Tensor] | None = None

    def __call__(self, parameters: Sequence[Tensor], unlearning: Sequence[Tensor | None]) -> None:
        """`parameters` carry the retain gradient; leaves the projected unlearning gradient in them."""
        fresh = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        old = self.retain
        self.retain = (
            fresh if old is None else [self.gamma * n + (1 - self.gamma) * o for o, n in zip(old, fresh, strict=True)]
        )
        wanted = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, unlearning, strict=True)]
        inner = sum(float((u * r).sum()) for u, r in zip(wanted, self.retain, strict=True))
        square = sum(float((r * r).sum()) for r in self.retain)
        back = inner / square if inner < 0 and square > 0 else 0.0
        for p, u, r in zip(parameters, wanted, self.retain, strict=True):
            p.grad = u - back * r


def _side(
    update: Update, task: Task, spec: Spec, name: str, indices: Sequence[int], direction: Tensor | None = None
) -> Side:
    """The batch of these examples as losses see it; the controls act on the forget set only."""
    batch = collate([task.examples[name][i] for i in indices], task.pad, task.device)
    layer = hidden_layer(update.model.config, spec) if needs(spec, "hidden") else None
    limited = name == "forget"

    def answers() -> Answers:
        plain = forward(update.model, batch, layer)
        return controlled(plain, spec.control) if limited else plain

    def reference() -> Answers:
        with torch.no_grad(), update.reference() as before:
            plain = forward(before, batch, layer)
        return plain.with_logits(plain.logits / spec.control.temperature) if limited else plain

    def reference_logp(mask: Tensor) -> Tensor:
        if limited and spec.control.temperature != 1.0:  # the cache is at temperature 1
            return torch.where(mask, token_logp(reference()), 0.0)
        answer = batch.answer[:, -mask.shape[1] :]
        return torch.where(mask, task.reference_logp(name, indices, answer, update.reference), 0.0)

    return Side(answers, reference, reference_logp, direction)


def loss_keywords(spec: Spec) -> dict[str, Any]:
    """The method's parameters as its loss takes them."""
    return {key: value for key, value in spec.method.parameters.items() if key not in ("gru", "gru_gamma")}


def needs(spec: Spec, what: str) -> bool:
    """Whether the method reads "retain" rows, "idk" rows, "hidden" states."""
    return what in spec.method.of(spec.method.name).needs or (what == "retain" and spec.method.parameters["gru"])


def _part(items: Sequence[int], i: int, parts: int) -> Sequence[int]:
    return items[i * len(items) // parts : (i + 1) * len(items) // parts]


def hidden_layer(config: Any, spec: Spec) -> int:
    """The number of blocks after which a method reads hidden states; null is the middle. InputError beyond the last."""
    layer, blocks = spec.method.parameters["layer"], config.num_hidden_layers
    if layer is None:
        return int(max(1, blocks // 2))
    if layer > blocks:
        raise InputError(
            f"method.layer {layer}: the model has {blocks} blocks", "name one of them, or null for the middle"
        )
    return int(layer)


def steering_direction(task: Task, spec: Spec, seed: int) -> Tensor | None:
    """A random direction [D] of unit length in [0, 1]^D, for methods that steer hidden states."""
    if not needs(spec, "hidden"):
        return None
    uniform = torch.rand(task.base.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    direction: Tensor = uniform / uniform.norm()
    return direction.to(task.device)
