"""How what was forgotten comes back, step by step, to somebody who has the weights and fine-tunes them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rayul.spec import Attack, Training
from rayul.unlearn.attacks.fine_tune import fine_tune
from rayul.unlearn.attacks.relearn import BATCH, LORA, shared_out
from rayul.unlearn.attacks.target import Target
from rayul.unlearn.data import Sets
from rayul.unlearn.forward import Model, TokenScores
from rayul.unlearn.probe import Missing
from rayul.unlearn.tokens import Example
from rayul.unlearn.update.lora import attach_lora
from rayul.unlearn.update.saved import detach_adapter, lerped

WAY_BACK = tuple(range(10, 101, 10))
"""Percent of the way from the weights under attack to those before unlearning."""


class FineTuning(NamedTuple):
    """One way of fine-tuning, of what `rayul.spec.Attack` lists."""

    rows: str
    trains: str
    optimizer: str
    schedule: str
    lr: float

    @property
    def words(self) -> str:
        trained = "LoRA" if self.trains == "lora" else "all weights"
        return f"{self.rows} rows, {trained}, {self.optimizer}, {self.schedule}, lr {self.lr:g}"


def cells(wanted: Attack) -> list[FineTuning]:
    """Every combination that is asked for."""
    return [
        FineTuning(rows, trains, optimizer, schedule, lr)
        for rows in wanted.rows
        for trains in wanted.trains
        for optimizer in wanted.optimizers
        for schedule in wanted.schedules
        for lr in getattr(wanted.lr, trains)
    ]


class Look(NamedTuple):
    """What is seen after `at`: steps of fine-tuning, or percent of the way back. scores: of the forget rows that are
    judged, in their order."""

    at: int
    scores: list[TokenScores]


def fine_tuned(target: Target, cell: FineTuning, budget: int, every: int) -> tuple[list[int], Iterator[Look]]:
    """The forget rows that are judged (indices), and what the fine-tuned model scores on them, before the first step
    (at 0) and every so many steps. Raises Missing where there are no rows of the cell's kind."""
    count = len(target.rows)
    examples, judged = _attackers_rows(target, cell.rows), list(range(count))
    if cell.rows == "own":
        judged = shared_out(count)[1]
    if not judged:
        raise Missing("one forget row leaves none to judge beside it")
    return judged, _looks(target, cell, examples, judged, budget, every)


def _looks(
    target: Target, cell: FineTuning, examples: Sequence[Example], judged: list[int], budget: int, every: int
) -> Iterator[Look]:
    settings = {"lr": cell.lr, "optimizer": cell.optimizer, "schedule": cell.schedule}
    training = Training.model_validate({**settings, "batch_size": BATCH, "steps": budget})
    asked = [target.examples[i] for i in judged]
    yield Look(0, [target.before[i] for i in judged])
    with _trainable(target, cell.trains) as model:
        for step in fine_tune(model, examples, target.pad, training):
            if step % every == 0 or step == budget:
                yield Look(step, target.score(asked, model))


SETS = {"own": "forget", "related": "retain_train", "unrelated": "general"}
"""Whose rows the attacker trains on, by what `rayul.spec.Attack` calls them."""


def has_rows(sets: Sets, kind: str) -> bool:
    return bool(sets.get(SETS[kind]))


def _attackers_rows(target: Target, kind: str) -> list[Example]:
    if kind == "own":
        return [target.examples[i] for i in shared_out(len(target.rows))[0]]
    name = SETS[kind]
    if not has_rows(target.sets, kind):
        raise Missing(f"there are no {name} rows to train on")
    return target.encode(target.sets[name])


@contextmanager
def _trainable(target: Target, trains: str) -> Iterator[Any]:
    """The model with what is trained of it, for the block; the target's own weights are not touched."""
    if trains == "full":
        yield copy.deepcopy(target.model).requires_grad_(True)
        return
    model = attach_lora(target.model, LORA, seed=0)
    try:
        yield model
    finally:
        detach_adapter(model)


def interpolated(target: Target, base: Model) -> Iterator[Look]:
    """All forget rows, on the straight way back to the weights of `base`, which were before unlearning."""
    for percent in WAY_BACK:
        with lerped(target.model, base, 1 - percent / 100):
            yield Look(percent, target.score(target.examples))
