"""TOFU's measures (arXiv 2401.06121, sections 2.2.1-2.2.3) on log-probabilities; no model is needed here.

Every `logp` is the mean log-probability of an answer's tokens, in nats, so p^(1/L) = exp(logp).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayul.unlearn.measured import Groups, Measured, count, stderr

Floats = NDArray[np.float64]


def option_probability(answer_logp: Floats, perturbed_logp: Sequence[Floats]) -> Floats:
    """p(answer) / (p(answer) + sum of p(wrong answer)), [N] in [0, 1]; each p is length-normalised.

    answer_logp [N]; perturbed_logp: N arrays, one entry per wrong answer. The normaliser holds the right answer and
    all wrong ones, as in TOFU's logs. Computed in logs: a collapsed model gives a share, not 0/0.
    """
    with np.errstate(invalid="ignore"):  # NaN for a diverged model
        total = np.array([np.logaddexp.reduce([a, *p]) for a, p in zip(answer_logp, perturbed_logp, strict=True)])
    share: Floats = np.exp(answer_logp - total)
    return share


def log_truth_ratio(paraphrase_logp: Floats, perturbed_logp: Sequence[Floats]) -> Floats:
    """log of the geometric truth ratio R, [N]: mean of the wrong answers' logp minus the right paraphrase's logp.

    R < 1: the paraphrase is likelier than the wrong answers. The geometric mean over wrong answers is what the TOFU
    code computes; the arithmetic mean of the paper's formula gives other numbers.
    """
    return np.array([p.mean() for p in perturbed_logp]) - paraphrase_logp


def truth_ratio(log_ratio: Floats) -> Floats:
    """min(R, 1/R), [N] in [0, 1]; 1 = right and wrong answers are equally likely. Forget set: higher is better."""
    return np.exp(-np.abs(log_ratio))


def truthfulness(log_ratio: Floats) -> Floats:
    """max(0, 1 - R), [N] in [0, 1]; the truth ratio as model utility counts it. Utility: higher is better."""
    return np.maximum(0.0, -np.expm1(np.minimum(log_ratio, 0.0)))


def forget_quality(log_ratio: Floats, oracle_log_ratio: Floats) -> float:
    """p-value in [0, 1] of the two-sample Kolmogorov-Smirnov test between truth ratios of model and oracle.

    Two-sided and exact. High: indistinguishable from a model that never saw the forget set; below 0.05 it still
    differs, by remembering or by forgetting too much. The test sees ranks only, so logs serve as well as ratios.
    """
    from scipy import stats

    return float(stats.ks_2samp(log_ratio, oracle_log_ratio, method="exact").pvalue)


def model_utility(sets: Sequence[Floats], groups: Sequence[Groups | None] | None = None) -> Measured:
    """Harmonic mean in [0, 1] of the per-set means of ROUGE-L recall, probability and truthfulness.

    sets: one [3, N] array a set; groups: the group of each row [N] of each. TOFU's nine numbers are those of retain,
    real authors and world facts, the last two with option probabilities. 0 as soon as one mean is 0.

    Standard error by the delta method: with H the harmonic mean of K means m_j, dH/dm_j = H^2 / (K m_j^2); the three
    measures of a row go together, and so do the rows of a group; the sets are independent.
    """
    from scipy import stats

    means = np.concatenate([s.mean(1) for s in sets])
    groups = groups or [None] * len(sets)
    rows = sum(s.shape[1] for s in sets)
    number = sum(count(s[0], g) for s, g in zip(sets, groups, strict=True))
    utility = float(stats.hmean(means)) if means.min() > 0 else float(means.min())
    if not utility > 0:
        return Measured(utility, 0.0 if utility == 0 else float("nan"), rows, number)
    slopes = utility**2 / (len(means) * means**2)
    influences = [slope @ s for slope, s in zip(np.split(slopes, len(sets)), sets, strict=True)]
    errors = [stderr(influence, g) for influence, g in zip(influences, groups, strict=True)]
    return Measured(utility, math.hypot(*errors), rows, number)
