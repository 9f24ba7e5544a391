"""Membership inference: can the forget rows be told from holdout rows that no model was trained on?

Each attack gives a row a score that is higher the more the row looks like training data. The area under the ROC curve
of forget against holdout then reads: 1 = every forget row is recognised, 0.5 = the two sets score alike.

The goal is what an oracle shows. That is 0.5 only where forget and holdout rows are equally likely to a model that saw
neither; TOFU's published retain models have 0.35 to 0.39. Below the oracle's, forget rows are conspicuously unlikely, a
trace that unlearning went too far.
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
            logits = answers._replace(logits=answers.predicted[row][mask]).logits
            values[i] = _standardise(logits, answers.labels[row][mask]).double().cpu().numpy()
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
    return _mean_of_pairs(_wins(members, others), member_groups, other_groups)


def auc_gap(
    members: Floats,
    others: Floats,
    oracle_members: Floats,
    oracle_others: Floats,
    member_groups: Groups | None = None,
    other_groups: Groups | None = None,
) -> Measured:
    """AUC of a model minus that of an oracle on the same rows, in [-1, 1]. NaN when a score is NaN.

    Standard error as of `auc`: the two AUCs go together as far as they depend on the rows.
    """
    pairs = _wins(members, others) - _wins(oracle_members, oracle_others)
    return _mean_of_pairs(pairs, member_groups, other_groups)


def privleak(
    members: Floats,
    others: Floats,
    oracle: float | tuple[Floats, Floats],
    member_groups: Groups | None = None,
    other_groups: Groups | None = None,
) -> Measured:
    """100 (AUC - AUC_oracle) / AUC_oracle, in %, from -100 (MUSE, arXiv 2407.06460, section 3.1). 0 is the goal.

    AUC is P(other's score > member's score), the complement of `auc`, as in MUSE's code, whose forget rows are the
    negatives: it is 0 for a model that recognises every forget row, and privleak then -100. Above 0 they are less
    likely than to the oracle: unlearning went too far.
    oracle: its AUC, or its scores of members and others. Standard error as of `auc`, by the delta method where the
    oracle's scores are known: both AUCs are of the same rows. NaN when a score is NaN, infinite where the oracle's AUC
    is 0.
    """
    wins = 1 - _wins(members, others)
    theirs = np.full_like(wins, oracle) if isinstance(oracle, float) else 1 - _wins(*oracle)
    value, reference = wins.mean(), theirs.mean()
    if reference == 0:
        return Measured(math.inf, math.nan, sum(wins.shape), 0)
    influence = 100 * (wins / reference - value * theirs / reference**2)
    found = _mean_of_pairs(influence, member_groups, other_groups)
    return found._replace(value=float(100 * (value - reference) / reference))


def _wins(members: Floats, others: Floats) -> Floats:
    """1 where a member's score is above another's, 0.5 at a tie, else 0, [members, others]; NaN when a score is NaN."""
    if np.isnan(members).any() or np.isnan(others).any():
        return np.full((len(members), len(others)), np.nan)
    wins: Floats = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    return wins


def _mean_of_pairs(pairs: Floats, member_groups: Groups | None, other_groups: Groups | None) -> Measured:
    """Mean of a number per pair of rows, [members, others]."""
    of_members, of_others = pairs.mean(1), pairs.mean(0)
    error = math.hypot(stderr(of_members, member_groups), stderr(of_others, other_groups))
    groups = count(of_members, member_groups) + count(of_others, other_groups)
    return Measured(float(pairs.mean()), error, sum(pairs.shape), groups)
