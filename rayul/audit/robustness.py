"""Which metric to trust under attack: does what a metric says before tell what it says after (arXiv 2406.09179)?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayul.audit.read import Audit
from rayul.records.audited import Audited
from rayul.spec import CHEAP

FORGET_METRICS = tuple(f"forget.{name}" for name in CHEAP)
"""What an audit measures of the forget rows before and after every attack."""


@dataclass(frozen=True)
class Robustness:
    """Correlation between a metric before and after an attack over `models` unlearned models; NaN for fewer than three,
    and where either does not vary. 1: the attack moves all models alike, so their comparison stands."""

    attack: str
    variant: str
    metric: str
    pearson: float
    spearman: float
    models: int


def robustness(audit: Audit) -> list[Robustness]:
    """Every metric under the worst variant of every attack, over every seed of every finalist.

    Not over the refusal, which forgot nothing: one such point far from all others makes any correlation.
    A metric is taken on the forget rows that the variant judges; one that is no mean over rows, such as perplexity,
    only where those are all.
    """
    subjects = [finalist.name for finalist in audit.finalists]
    found = []
    for attack in audit.attacks:
        rows = [row for subject in subjects for row in audit.attacked(subject, attack)]
        if not rows:
            continue
        worst = int(np.argmax([_mean_gain(audit, rows, i) for i in range(len(rows[0].scored))]))
        for metric in FORGET_METRICS:
            pairs = np.array([_pair(audit, row, worst, metric) for row in rows])
            pearson, spearman = correlations(pairs)
            found.append(Robustness(attack, rows[0].scored[worst].variant, metric, pearson, spearman, len(rows)))
    return found


def correlations(pairs: np.ndarray) -> tuple[float, float]:
    """Pearson's and Spearman's correlation of the columns of [n, 2]."""
    from scipy import stats

    if len(pairs) < 3 or not np.isfinite(pairs).all() or (np.ptp(pairs, axis=0) == 0).any():
        return float("nan"), float("nan")
    return float(stats.pearsonr(*pairs.T).statistic), float(stats.spearmanr(*pairs.T).statistic)


def _mean_gain(audit: Audit, rows: list[Audited], variant: int) -> float:
    before, after = np.mean([_pair(audit, row, variant, audit.metric) for row in rows], axis=0)
    return float(after - before)


def _pair(audit: Audit, row: Audited, variant: int, metric: str) -> np.ndarray:
    """The metric before and after, [2]."""
    before, after = audit.before(row), row.scored[variant]
    if metric in before.values:
        values = np.array(before.values[metric])
        was = float((values[list(after.judged)] if after.judged else values).mean())
    else:
        whole = len(after.judged) in (0, len(before.values[audit.metric]))
        was = before.metrics.get(metric, np.nan) if whole else np.nan
    return np.array([was, after.metrics.get(metric, np.nan)])
