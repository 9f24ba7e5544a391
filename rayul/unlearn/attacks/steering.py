"""Attacks that an evaluation tries where the search is steered by what stays forgotten: a short relearning, and
quantisation. Both change what they are given and leave it as it was.

They are cheaper than those of `rayul certify` and `rayul audit`, which use other rows, rates and numbers of steps, so
that what is judged there has not been tuned to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rayul.spec import Spec, Training
from rayul.unlearn.attacks.fine_tune import fine_tune
from rayul.unlearn.attacks.quantise import ROUNDINGS, quantised
from rayul.unlearn.evaluate import measurement
from rayul.unlearn.forward import TokenScores, score
from rayul.unlearn.measured import Groups, Measurement
from rayul.unlearn.task import Task
from rayul.unlearn.tokens import Example

STEPS, LR, BATCH = 5, 2e-3, 8
EVERY = 10
"""Of the forget rows every so-manieth is the attacker's, the first by the trial's seed; the others are judged."""

KINDS = ("int8", "nf4")


class Trained(NamedTuple):
    """A model as it was trained, for attacks. running: for a block, the model; parameters: what was trained of it, and
    gradients reach. unadapted: for a block, a model without adapters, and what is to be added to the weights of
    its linear modules for it to compute the same."""

    running: Callable[[], AbstractContextManager[Any]]
    parameters: Sequence[Tensor]
    unadapted: Callable[[], AbstractContextManager[tuple[Any, Mapping[Any, Tensor]]]]


def under_attack(trained: Trained, task: Task, spec: Spec, seed: int) -> Measurement:
    """What `spec.under_attack` asks for, as sets of the attacks' names."""
    found = Measurement({}, {}, {})
    examples, groups = task.evaluated(["forget"])["forget"], task.groups(["forget"])["forget"]
    for attack, metrics in spec.under_attack.items():
        if attack == "relearned":
            judged, scores = relearned(trained, examples, task.pad, seed, spec.evaluate.batch_size)
            found = found.joined(_measured(attack, scores, groups[judged], metrics, task))
        else:
            with trained.unadapted() as (model, added):
                kinds = []
                for kind in KINDS:
                    with quantised(model, ROUNDINGS[kind], added):
                        kinds.append(score(model, examples, task.pad, spec.evaluate.batch_size))
            found = found.joined(_worse([_measured(attack, one, groups, metrics, task) for one in kinds], spec))
    return found


def relearned(
    trained: Trained, examples: Sequence[Example], pad: int, seed: int, batch_size: int
) -> tuple[list[int], list[TokenScores]]:
    """The judged rows (indices) and their scores after STEPS steps of AdamW on the others."""
    first = seed % min(EVERY, len(examples))
    seen = list(range(first, len(examples), EVERY))
    judged = [i for i in range(len(examples)) if i not in set(seen)] or seen
    before = [p.detach().clone() for p in trained.parameters]
    training = Training(lr=LR, batch_size=BATCH, steps=STEPS)
    try:
        with trained.running() as model:
            for _ in fine_tune(model, [examples[i] for i in seen], pad, training, trained.parameters):
                pass
            return judged, score(model, [examples[i] for i in judged], pad, batch_size)
    finally:
        with torch.no_grad():
            for p, value in zip(trained.parameters, before, strict=True):
                p.copy_(value)
                p.grad = None


def _measured(
    attack: str, scores: Sequence[TokenScores], groups: Groups, metrics: Sequence[str], task: Task
) -> Measurement:
    numbers = np.unique(groups, return_inverse=True)[1]
    return measurement(scores, {attack: numbers}, {attack: metrics}, task.own)


def _worse(kinds: Sequence[Measurement], spec: Spec) -> Measurement:
    """Of each metric the kind that leaves more."""
    worst = kinds[0]
    for one in kinds[1:]:
        for key, measured in one.measured.items():
            metric = spec.evaluate.of(key.partition(".")[2])
            lower_is_better = metric is None or metric.better_on("forget") == "lower"
            if (measured.value > worst.measured[key].value) == lower_is_better:
                worst.measured[key], worst.per_row[key] = measured, one.per_row[key]
    return worst
