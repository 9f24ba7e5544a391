"""Fine-tuning as an attacker does it: the mean NLL of answers, minimised in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rayul.spec import Training
from rayul.unlearn.forward import Model, forward, token_logp
from rayul.unlearn.losses import batch_mean, sequence_mean
from rayul.unlearn.optimisers import learning_rate, optimisers
from rayul.unlearn.tokens import Example, batches, collate


def fine_tune(
    model: Model, examples: Sequence[Example], pad: int, training: Training, parameters: Sequence[Tensor] | None = None
) -> Iterator[int]:
    """Train these parameters, by default those of `model` that require gradients; yields after each step, counted
    from 1.

    training: its lr, optimizer, schedule, steps, batch_size, weight_decay and max_grad_norm count.
    """
    device = next(model.parameters()).device
    if parameters is None:
        parameters = [p for p in model.parameters() if p.requires_grad]
    steppers = optimisers(training, parameters)
    order = batches(len(examples), training.batch_size, torch.Generator().manual_seed(0))
    for step in range(1, training.steps + 1):
        answers = forward(model, collate([examples[i] for i in next(order)], pad, device))
        loss = batch_mean(sequence_mean(-token_logp(answers), answers.mask), answers.mask)
        loss.backward()
        if training.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = learning_rate(training, step)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        yield step
