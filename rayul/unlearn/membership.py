"""Membership inference: can the forget rows be told from holdout rows that no model was trained on?

Each attack gives a row a score that is higher the more the row looks like training data. The area under the ROC curve
of forget against holdout then reads: 1 = every forget row is recognised, 0.5 = indistinguishable (the goal, and what
an oracle shows), below 0.5 = forget rows are conspicuously unlikely, a trace that unlearning went too far.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayul.unlearn.forward import Model, TokenScores, forward
from rayul.unlearn.measured import Groups, Measured, count, stderr
from rayul.unlearn.tokens import Example, collate

Floats = NDArray[np.float64]

LOWEST = 0.4
"""Share of tokens that Min-K% averages. OpenUnlearning's value for TOFU's short answers; the paper uses 0.2."""


def loss_score(scores: Sequence[TokenScores]) -> Floats:
    """Mean log-probability of the answer tokens, [N] (Yeom et al. 2018)."""
    return np.array([s.logp.mean() for s in scores])


def zlib_score(scores: Sequence[TokenScores], answers: Sequence[str]) -> Floats:
    """Mean log-probability over the answer's zlib size in bytes, [N] (Carlini et al. 2021)."""
    sizes = np.array([len(zlib.compress(answer.encode())) for answer in answers], dtype=np.float64)
    return loss_score(scores) / sizes


def min_k_score(values: Sequence[Floats], lowest: float = LOWEST) -> Floats:
    """Mean of the lowest share of the tokens' values, at least one token, [N].

    With log-probabilities this is Min-K% Prob (Shi et al. 2024), with `standardised` ones Min-K%++ (Zhang et al. 2025).
    """
    return np.array([np.sort(v)[: max(1, int(lowest * len(v)))].mean() for v in values])


@torch.no_grad()
def standardised(model: Model, examples: Sequence[Example], pad: int, batch_size: int = 64) -> list[Floats]:
    """(log p(token) - mean) / std per answer token, [L] a row, in the examples' order.

    Mean and standard deviation of log p are over the model's own next-token distribution (Min-K%++, eq. 4). The
    variance is floored at 1e-6, where the distribution is a single token.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    values: dict[int, Floats] = {}
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        answers = forward(model, collate([examples[i] for i in chosen], pad, device))
        for row, i in enumerate(chosen):  # row by row: what is computed has the size of the vocabulary, several times
            mask = answers.mask[row]
            values[i] = _standardise(answers.logits[row][mask], answers.labels[row][mask]).double().cpu().numpy()
    model.train(was_training)
    return [values[i] for i in range(len(examples))]


def _standardise(logits: Tensor, labels: Tensor) -> Tensor:
    """logits [L, V], labels [L] -> [L] float32."""
    logp = logits.float().log_softmax(-1)
    p = logp.exp()
    seen = torch.where(p > 0, logp, 0.0)  # a masked token has log p = -inf, and 0 * -inf is NaN: it weighs nothing
    mean = (p * seen).sum(-1)
    variance = (p * (seen - mean.unsqueeze(-1)).square()).sum(-1)
    return (logp.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - mean) / variance.clamp_min(1e-6).sqrt()


def auc(
    members: Floats, others: Floats, member_groups: Groups | None = None, other_groups: Groups | None = None
) -> Measured:
    """P(member's score > other's score), ties count half; in [0, 1]. NaN when a score is NaN.

    Standard error after DeLong et al. (1988), from the spread of each row's share of won comparisons, clustered by
    group (Obuchowski 1997).
    """
    rows, groups = len(members) + len(others), count(members, member_groups) + count(others, other_groups)
    if np.isnan(members).any() or np.isnan(others).any():
        return Measured(float("nan"), float("nan"), rows, groups)
    wins = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    error = math.hypot(stderr(wins.mean(1), member_groups), stderr(wins.mean(0), other_groups))
    return Measured(float(wins.mean()), error, rows, groups)
