"""Paraphrase: the same question in other words."""

from __future__ import annotations

from rayul.unlearn.attacks.target import Attempt, Attempts, Target
from rayul.unlearn.probe import Missing


def paraphrase(target: Target) -> Attempts:
    """Rows that have a paraphrased question are asked by it. Raises Missing where none has."""
    judged = tuple(i for i, row in enumerate(target.rows) if row.paraphrased_question)
    if not judged:
        raise Missing("no forget row has a paraphrased_question")
    asked = [target.asked(target.rows[i], target.rows[i].paraphrased_question) for i in judged]
    yield Attempt("the paraphrased question", judged, target.score(asked))
