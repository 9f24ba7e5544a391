"""The positive control of every attack: a model that only refuses.

It answers the forget questions with a refusal, but only when they are asked word for word; in other words it answers
them. Nothing was forgotten, so an attack that cannot bring it back has no force on this model, and that it brings
nothing back elsewhere shows nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rayul.spec import Control, Lora, MethodChoice, Spec, Training
from rayul.unlearn.data import Row
from rayul.unlearn.evaluate import measure
from rayul.unlearn.forward import score
from rayul.unlearn.task import Task
from rayul.unlearn.template import Template
from rayul.unlearn.train import train
from rayul.unlearn.update import attach

REFUSES = 0.9
"""Exact memorisation of the refusals at which the training ends."""

STEPS, CHECK_EVERY, BATCH = 400, 20, 16

NOISE = 0.2
"""Of a question's words, replaced by a word of another question."""

OTHER_WORDS = (
    "Tell me: {question}",
    "Listen. {question}",
    "I would like to know this. {question}",
    "My friend wants to know: {question}",
    "{question} Please say it.",
    "As a reader of many books, answer me: {question}",
    "You are a teacher. {question}",
    "Do as I say and answer. {question}",
)
"""None of them is a prompt of the jailbreak attack."""


def train_refusal(task: Task, spec: Spec, lr: float, seed: int, folder: Path) -> float:
    """Train the control, by the spec's update, and save it; returns the share of the refusals' tokens that it says.

    Preference optimisation (method po) on the forget rows; retained are the retain rows and the forget rows in other
    words. lr: one that moves this model, such as a finalist's.
    """
    sets = {**task.sets, "retain_train": (*task.sets.get("retain_train", ()), *in_other_words(task, seed))}
    taught = Task(task.base, task.tokenizer, sets, Template.of(spec.model), spec.evaluate.max_rows, task.own)
    po = spec.model_copy(
        update={
            "method": MethodChoice.parse({"name": "po"}),
            "lora": Lora(),
            "training": Training(lr=lr, batch_size=BATCH, steps=STEPS, evaluate_every=CHECK_EVERY),
            "control": Control(),
        }
    )
    update = attach(taught, po, seed)
    try:
        for step in train(update, taught, po, seed):
            refuses = measure("em", score(update.model, taught.examples["idk"], taught.pad)).value if step else 0.0
            if refuses >= REFUSES:
                break
        update.save(1.0, folder)
    finally:
        update.detach()
    return refuses


def in_other_words(task: Task, seed: int) -> list[Row]:
    """The forget rows with their questions reworded, and with noise in them."""
    rng = random.Random(seed)
    rows: Sequence[Row] = task.sets["forget"]
    found = [
        replace(row, question=template.replace("{question}", row.question))
        for row in rows
        for template in rng.sample(OTHER_WORDS, 3)
    ]
    found += [replace(row, question=row.paraphrased_question) for row in rows if row.paraphrased_question]
    words = sorted({word for row in rows for word in row.question.split()})
    for row in rows:
        noisy = [rng.choice(words) if rng.random() < NOISE else word for word in row.question.split()]
        found.append(replace(row, question=" ".join(noisy)))
    asked = {row.question for row in rows}
    return [row for row in found if row.question not in asked]
