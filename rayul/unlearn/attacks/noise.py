"""Token noise: some tokens of the question replaced at random, as typing errors or an attacker's search would."""

from __future__ import annotations

import numpy as np

from rayul.unlearn.attacks.target import Attempts, Target, everywhere
from rayul.unlearn.data import Row
from rayul.unlearn.template import template_for
from rayul.unlearn.tokens import Example, question_span

SHARES = (0.05, 0.15, 0.3)
"""Of the question's tokens, each replaced with this probability; the paper's is the first (arXiv 2406.09179)."""

DRAWS = 3


def noise(target: Target) -> Attempts:
    for share in SHARES:
        for draw in range(DRAWS):
            asked = noised(target, share, draw)
            yield everywhere(f"{share:.0%} of the question's tokens, draw {draw + 1}", target.score(asked))


def noised(target: Target, share: float, seed: int) -> list[Example]:
    """The examples with each token of the question replaced by a random one with probability `share`, [0, 1]."""
    rng = np.random.default_rng(seed)
    special = set(target.tokenizer.all_special_ids)
    vocabulary = np.array([i for i in range(len(target.tokenizer)) if i not in special])
    found = []
    for row, example in zip(target.rows, target.examples, strict=True):
        begin, end = asked_span(target, row)
        ids = np.array(example.ids)
        replaced = rng.random(end - begin) < share
        ids[begin:end] = np.where(replaced, rng.choice(vocabulary, end - begin), ids[begin:end])
        found.append(example._replace(ids=tuple(ids.tolist())))
    return found


def asked_span(target: Target, row: Row) -> tuple[int, int]:
    """Where the tokens of a row's question are."""
    return question_span(target.tokenizer, template_for(row, target.template), row.question, row.answer)
