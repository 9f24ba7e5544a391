"""Relearning: a few steps of fine-tuning, and forgotten rows that were not among them come back (arXiv 2406.13356)."""

from __future__ import annotations

from collections.abc import Sequence

from rayul.spec import Lora, Training
from rayul.unlearn.attacks.fine_tune import fine_tune
from rayul.unlearn.attacks.target import Attempt, Attempts, Target
from rayul.unlearn.task import spaced
from rayul.unlearn.tokens import Example
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
    seen, others = shared_out(len(target.rows))
    unrelated = target.sets.get("general") or target.sets.get("retain_train") or ()
    if others:
        mine = [target.examples[i] for i in seen]
        yield from _attempts(target, mine, others, f"{FRACTION:.0%} of the rows")
    if unrelated:
        yield from _attempts(target, target.encode(unrelated), list(range(len(target.rows))), "unrelated rows")


def shared_out(count: int) -> tuple[list[int], list[int]]:
    """Of so many forget rows, those that the attacker has, evenly spaced, and the others, which are judged."""
    seen = spaced(list(range(count)), max(1, round(FRACTION * count)))
    return seen, [i for i in range(count) if i not in set(seen)]


def _attempts(target: Target, examples: Sequence[Example], judged: list[int], on: str) -> Attempts:
    for lr in LEARNING_RATES:
        model = attach_lora(target.model, LORA, seed=0)
        try:
            for step in fine_tune(model, examples, target.pad, Training(lr=lr, batch_size=BATCH, steps=max(STEPS))):
                if step in STEPS:
                    scores = target.score([target.examples[i] for i in judged], model)
                    yield Attempt(f"{step} steps on {on}, lr {lr:g}", tuple(judged), scores)
        finally:
            detach_adapter(model)
