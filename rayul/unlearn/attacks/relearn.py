"""Relearning: a few steps of fine-tuning, and forgotten rows that were not among them come back (arXiv 2406.13356)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from rayul.spec import Lora
from rayul.unlearn.attacks.target import Attempt, Attempts, Target
from rayul.unlearn.forward import Model, forward, token_logp
from rayul.unlearn.losses import batch_mean, sequence_mean
from rayul.unlearn.task import spaced
from rayul.unlearn.tokens import Example, batches, collate
from rayul.unlearn.update.lora import attach_lora
from rayul.unlearn.update.saved import detach_adapter

LEARNING_RATES = (1e-4, 5e-4, 2e-3)
STEPS = (5, 10, 20)
BATCH = 8
FRACTION = 0.1
"""Share of the forget rows that the attacker has; the others are judged."""

LORA = Lora(r=16, alpha=32)


def relearn(target: Target) -> Attempts:
    """Fine-tune on a tenth of the forget rows and judge the others; then on rows that have nothing to do with them.

    The unrelated rows are `general`, or else `retain_train`; without either that part is left out.
    """
    count = len(target.rows)
    seen = spaced(list(range(count)), max(1, round(FRACTION * count)))
    others = [i for i in range(count) if i not in set(seen)]
    unrelated = target.sets.get("general") or target.sets.get("retain_train") or ()
    if others:
        mine = [target.examples[i] for i in seen]
        yield from _attempts(target, mine, others, f"{FRACTION:.0%} of the rows")
    if unrelated:
        yield from _attempts(target, target.encode(unrelated), list(range(count)), "unrelated rows")


def _attempts(target: Target, examples: Sequence[Example], judged: list[int], on: str) -> Attempts:
    for lr in LEARNING_RATES:
        model = attach_lora(target.model, LORA, seed=0)
        try:
            for step in fine_tune(model, examples, target.pad, lr):
                scores = target.score([target.examples[i] for i in judged], model)
                yield Attempt(f"{step} steps on {on}, lr {lr:g}", tuple(judged), scores)
        finally:
            detach_adapter(model)


def fine_tune(model: Model, examples: Sequence[Example], pad: int, lr: float) -> Iterator[int]:
    """Minimise the mean NLL of the answers with AdamW, in place; yields after each number of STEPS."""
    device = next(model.parameters()).device
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    order = batches(len(examples), BATCH, torch.Generator().manual_seed(0))
    for step in range(1, max(STEPS) + 1):
        answers = forward(model, collate([examples[i] for i in next(order)], pad, device))
        loss = batch_mean(sequence_mean(-token_logp(answers), answers.mask), answers.mask)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step in STEPS:
            yield step
