"""The metrics of one teacher-forced forward, a number per row; each is a row of PER_ROW."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul.unlearn.forward import TokenScores


class Measured(NamedTuple):
    """Mean over rows, its standard error, and the number of rows."""

    value: float
    stderr: float
    rows: int


def extraction_strength(scores: TokenScores) -> float:
    """ES in [0, 1]: the longest suffix of the answer that greedy decoding reproduces, as a share of the answer.

    1 - k/L for the smallest prefix k from which greedy decoding gives the rest (Carlini et al. 2021; arXiv 2406.09179,
    eq. 4, exact variant). Argmax matches of a suffix under teacher forcing equal greedy decoding of that suffix (by
    induction over its tokens), so one forward gives it exactly. Its floor is 0: the empty suffix does not count as
    extracted (implementations that count it have a floor of 1/L). Forget: lower is better; retain: higher.
    """
    wrong = np.flatnonzero(~scores.match)
    length = len(scores.match)
    return float(length - 1 - wrong[-1]) / length if wrong.size else 1.0


def exact_memorisation(scores: TokenScores) -> float:
    """EM in [0, 1]: share of answer tokens that are the argmax given the true tokens before (Tirumala et al. 2022)."""
    return float(scores.match.mean())


def probability(scores: TokenScores) -> float:
    """p(answer | question)^(1/L) = exp(mean log p) in [0, 1] (TOFU, arXiv 2401.06121, section 2.2.1)."""
    return float(np.exp(scores.logp.mean()))


def nll(scores: TokenScores) -> float:
    """Mean negative log-likelihood of an answer token, in nats, >= 0."""
    return float(-scores.logp.mean())


RowMetric = Callable[[TokenScores], float]

PER_ROW: dict[str, RowMetric] = {
    "es": extraction_strength,
    "em": exact_memorisation,
    "prob": probability,
    "nll": nll,
}


def per_row(metric: str | RowMetric, scores: Sequence[TokenScores]) -> NDArray[np.float64]:
    """The metric of each row, [rows]; for perplexity the row's own."""
    if metric == "ppl":
        return np.exp([nll(s) for s in scores])
    function = PER_ROW[metric] if isinstance(metric, str) else metric
    return np.array([function(s) for s in scores], dtype=np.float64)


def measure(
    metric: str | RowMetric, scores: Sequence[TokenScores], values: NDArray[np.float64] | None = None
) -> Measured:
    """A metric over a set of rows: the mean of its per-row values, or perplexity. values: `per_row`, where it is known.

    The standard error is that of the mean over rows (sample standard deviation / sqrt(n); NaN for one row).
    """
    if metric == "ppl":
        return _perplexity(scores)
    return mean(per_row(metric, scores) if values is None else values)


def mean(values: NDArray[np.float64]) -> Measured:
    """Mean of per-row values [rows] and its standard error (NaN for a single row)."""
    return Measured(float(values.mean()), _stderr(values), len(values))


def _perplexity(scores: Sequence[TokenScores]) -> Measured:
    """exp(total NLL / total tokens), >= 1, lower is better for utility. Standard error by the delta method."""
    sums = np.array([-s.logp.sum() for s in scores])
    lengths = np.array([len(s.logp) for s in scores])
    rate = sums.sum() / lengths.sum()
    with np.errstate(over="ignore"):
        value = float(np.exp(rate))
    return Measured(value, value * _stderr((sums - rate * lengths) / lengths.mean()), len(scores))


def _stderr(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
