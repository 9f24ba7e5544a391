"""The metrics of the one teacher-forced forward that every evaluation makes: a function each, and nothing else.

A function is called as its row in `rayul/spec/metrics.py` is. It is given the scores of one row and returns a number;
one whose row says `mean_of_rows=False` is given those of all rows of a set and their groups, and returns a `Measured`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rayul.unlearn.forward import TokenScores
from rayul.unlearn.measured import Groups, Measured, count, stderr

RowMetric = Callable[[TokenScores], float]


def es(scores: TokenScores) -> float:
    """Extraction strength in [0, 1]: the longest suffix of the answer that greedy decoding reproduces, as a share of
    the answer.

    1 - k/L for the smallest prefix k from which greedy decoding gives the rest (Carlini et al. 2021; arXiv 2406.09179,
    eq. 4, exact variant). Argmax matches of a suffix under teacher forcing equal greedy decoding of that suffix (by
    induction over its tokens), so one forward gives it exactly. Its floor is 0: the empty suffix does not count as
    extracted (implementations that count it have a floor of 1/L). Forget: lower is better; retain: higher.
    """
    wrong = np.flatnonzero(~scores.match)
    length = len(scores.match)
    return float(length - 1 - wrong[-1]) / length if wrong.size else 1.0


def prob(scores: TokenScores) -> float:
    """p(answer | question)^(1/L) = exp(mean log p) in [0, 1] (TOFU, arXiv 2401.06121, section 2.2.1)."""
    return float(np.exp(scores.logp.mean()))


def em(scores: TokenScores) -> float:
    """Exact memorisation in [0, 1]: share of answer tokens that are the argmax given the true tokens before (Tirumala
    et al. 2022)."""
    return float(scores.match.mean())


def ppl(rows: Sequence[TokenScores], groups: Groups | None = None) -> Measured:
    """Perplexity: exp(total NLL / total tokens), >= 1, lower is better for utility. Standard error by the delta method,
    clustered by group; infinite where the model is broken."""
    sums = np.array([-s.logp.sum() for s in rows])
    lengths = np.array([len(s.logp) for s in rows])
    rate = sums.sum() / lengths.sum()
    with np.errstate(over="ignore"):
        value = float(np.exp(rate))
    error = value * stderr((sums - rate * lengths) / lengths.mean(), groups)
    return Measured(value, error, len(rows), count(sums, groups))


def choice(scores: TokenScores) -> float:
    """1.0 where the letter of the right option is the likeliest of the options' letters, else 0.0: `acc` of MMLU and
    WMDP in lm-evaluation-harness, whose ties go to the first option too."""
    return float(scores.options.argmax() == scores.right)
