"""What a certificate can show before it is made: the power of a t test over groups.

A point that truly keeps the share s of the baseline passes a limit L on n groups where mean(d) sqrt(n) / sd(d) reaches
the t quantile at 1 - alpha with n - 1 degrees of freedom, d being what each group keeps beyond L. That statistic is
noncentral t with noncentrality (s - L) sqrt(n) / sd. The spread of groups is least known where it matters, at s: it is
taken to follow that of a share, sqrt(s (1 - s)), from where it was seen.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import NamedTuple


class Spread(NamedTuple):
    """sd: standard deviation of the groups' means, as a share of the baseline. at: the share kept where it was seen."""

    sd: float
    at: float

    def near(self, share: float) -> float:
        """The standard deviation of a model that keeps this share, in [0, 1]."""
        return self.sd * math.sqrt(share * (1 - share) / (self.at * (1 - self.at)))


PRIOR = Spread(0.13, 0.9)
"""Assumed until rows are seen."""

POWER = 0.8

STEPS = 1_000_000
"""From a limit to all, among which `needed_share` looks for the smallest share."""


def power(share: float, limit: float, groups: int, alpha: float, spread: Spread = PRIOR) -> float:
    """Probability that a point that truly keeps `share` is certified to keep `limit` (both in (0, 1), of the baseline)
    on this many groups at level `alpha`, in (0, 1). 0 with fewer than two groups."""
    from scipy import special  # and not scipy.stats, which takes half a second to import: `validate` is quick

    if groups < 2:
        return 0.0
    beyond, sd = share - limit, spread.near(share)
    if sd == 0:
        return float(beyond > 0)  # a limit that is met exactly is not passed, see `t_p_values`
    quantile = special.stdtrit(groups - 1, 1 - alpha)
    return 1 - float(special.nctdtr(groups - 1, beyond * math.sqrt(groups) / sd, quantile))


def needed_share(limit: float, groups: int, alpha: float, spread: Spread = PRIOR, wanted: float = POWER) -> float:
    """The smallest share that a point must truly keep to be certified with the probability `wanted`; 1 where nothing
    less than all would do, NaN with fewer than two groups."""
    if groups < 2:
        return math.nan

    def share(step: int) -> float:
        return limit + (1 - limit) * step / STEPS

    return share(bisect_left(range(STEPS), wanted, key=lambda i: power(share(i), limit, groups, alpha, spread)))


def needed_groups(share: float, limit: float, alpha: float, spread: Spread = PRIOR, wanted: float = POWER) -> int:
    """The smallest number of groups with which a point that truly keeps `share` is certified with the probability
    `wanted`. Raises ValueError for a share that is not beyond the limit: no number is enough."""
    if not share > limit:
        raise ValueError(f"a share of {share} is not beyond the limit {limit}")
    enough = 2
    while power(share, limit, enough, alpha, spread) < wanted:
        enough *= 2
    return bisect_left(range(enough), wanted, key=lambda groups: power(share, limit, groups, alpha, spread))
