"""How much of an update keeps the limits on groups that nobody has seen: a certificate for finished weights.

Learn-then-Test (Angelopoulos et al., arXiv 2110.01052) with the fixed order of Pareto Testing (arXiv 2210.07913). The
dial of an adapter are its mixing coefficients, from small to large, fixed in advance. At each one the hypothesis "on
average over the population of groups this breaks a limit" is tested on the certify groups, and the walk stops at the
first that cannot be rejected. So an uncertified coefficient is certified with a probability of at most the level of the
dial, however many coefficients it has. Several dials share alpha evenly (Bonferroni).

The groups (authors, books) are drawn alike and independently of each other; rows within a group may depend on each
other in any way. A group's margin d is what its mean has to spare, positive where it keeps the limit:

    at least:  d = mean - L * mean of the baseline        (an absolute limit: mean - L)
    at most:   d = L * mean of the baseline - mean        (an absolute limit: L - mean)

Two tests of E[d] >= 0 are here. `t_p_values` takes means of groups to be near enough to normal. `e_values` assumes
nothing but values in [0, 1], and needs many more groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul.errors import InputError
from rayul.spec import Limit

Floats = NDArray[np.float64]

DIAL = 20
"""Coefficients of a dial."""

ROUNDING = 1e-12
"""Margins that differ by less are equal: what is left is the rounding of sums of values in [0, 1]."""

FRACTIONS = np.linspace(0.01, 1.0, 100)
"""Shares of the largest bet among which `bets` chooses."""


def dial(largest: float = 1.0, points: int = DIAL) -> Floats:
    """Mixing coefficients [points] in (0, largest], evenly spaced and ascending."""
    if not 0 < largest <= 1:
        raise InputError(f"a dial ends at a mixing coefficient in (0, 1], got {largest:g}")
    return np.round(largest * np.arange(1, points + 1) / points, 6)


def margins(limit: Limit, means: Floats, baseline: Floats, places: Sequence[str]) -> Floats:
    """d [A, n], see above. means: of the limit's metric at each coefficient and in each group [A, n]; baseline: of the
    model before unlearning [n]; places: of the first row of each of the n. Raises InputError for a mean that is not
    finite, with the place."""
    for values, where in ((np.asarray(baseline)[None], "of the baseline"), (np.atleast_2d(means), "of the adapter")):
        broken = np.flatnonzero(~np.isfinite(values).all(0))
        if broken.size:
            first = ", ".join(places[i] for i in broken[:3]) + (", ..." if broken.size > 3 else "")
            begin = "group that begins" if broken.size == 1 else "groups that begin"
            raise InputError(
                f"{limit.metric} {where} is not a number in the {begin} at {first}",
                "leave these rows out, or limit another metric: a certificate needs a number for every certify group",
            )
    bound = limit.at * baseline if limit.relative else np.full_like(baseline, limit.at)
    return np.asarray(means - bound if limit.at_least else bound - means, dtype=np.float64)


def t_p_values(margins: Floats) -> Floats:
    """p-values [A] of margins [A, n], one-sided, of Student's t test that E[d] <= 0.

    Without spread (sd = 0) the test is decided by the margin alone: 0 where it is positive and 1 where it is not, so
    also at a limit that is met exactly. One group has no spread to know: p = 1.
    """
    from scipy import stats

    n = margins.shape[1]
    if n < 2:
        return np.ones(len(margins))
    mean, sd = margins.mean(1), margins.std(1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # sd = 0
        by_t = stats.t.sf(mean * math.sqrt(n) / sd, n - 1)
    without = np.where(mean > ROUNDING, 0.0, 1.0)
    p_values: Floats = np.where(sd > ROUNDING, by_t, without)
    return p_values


def lower_bounds(margins: Floats, level: float) -> Floats:
    """One-sided lower confidence bounds [A] of E[d], of the same test: above 0 where p < level. -inf for one group."""
    from scipy import stats

    n = margins.shape[1]
    if n < 2:
        return np.full(len(margins), -math.inf)
    width = float(stats.t.isf(level, n - 1)) / math.sqrt(n)
    bounds: Floats = margins.mean(1) - width * margins.std(1, ddof=1)
    return bounds


def bets(limit: Limit, select: Floats) -> Floats:
    """The bets lambda [A] of `e_values`: at each coefficient the one that would have grown most on the margins of the
    select groups [A, m]. They have to be chosen on other groups than those that are tested."""
    u, null = _unit(limit, select)
    candidates = FRACTIONS / null
    with np.errstate(divide="ignore"):
        growth = np.log1p(candidates[:, None, None] * (u - null)).mean(2)
    best: Floats = candidates[growth.argmax(0)]
    return best


def e_values(limit: Limit, margins: Floats, bets: Floats) -> Floats:
    """e-values [A] of margins [A, n] against E[d] <= 0: prod(1 + lambda * (u - u0)) with u = (d + L) / (1 + L) and
    u0 = L / (1 + L) for at least; (d + 1) / (1 + L) and 1 / (1 + L) for at most.

    Where the limit is broken on average an e-value exceeds 1/level with a probability of at most `level`, in any number
    of groups and whatever their distribution (Markov's inequality; Waudby-Smith and Ramdas, arXiv 2010.09686). The
    metric and the baseline have to lie in [0, 1]; raises InputError where the margins show that they do not.
    """
    u, null = _unit(limit, margins)
    with np.errstate(divide="ignore"):
        grown: Floats = np.exp(np.log1p(bets[:, None] * (u - null)).sum(1))
    return grown


def least_groups(limit: Limit, level: float) -> float:
    """Groups with which an e-value can reach 1 / level at all, if each of them is as good as can be: ln level / ln L
    for at least L. Infinite for a limit at 100%, where no group has anything to spare."""
    gain = 1 / limit.at if limit.at_least else 1 + limit.at
    return math.ceil(math.log(1 / level) / math.log(gain)) if gain > 1 else math.inf


class Walk(NamedTuple):
    """p_values [A] up to the first failure and after it, for the record; passed: how many coefficients passed before
    it, so the certified one is number `passed` of the dial, and none where it is 0."""

    p_values: Floats
    passed: int


def walk(p_values: Sequence[Floats], level: float) -> Walk:
    """Test a dial in its order. p_values: one array [A] for each limit; at a coefficient all of them have to pass, and
    no correction is due for that (an intersection-union test). For e-values, give 1 / e."""
    worst = np.max(np.stack(list(p_values)), axis=0)
    failed = np.flatnonzero(~(worst <= level))
    return Walk(worst, int(failed[0]) if failed.size else len(worst))


def _unit(limit: Limit, margins: Floats) -> tuple[Floats, float]:
    """Margins on [0, 1], and where zero lies there."""
    low = limit.at if limit.at_least else 1.0
    u = (margins + low) / (1 + limit.at)
    if limit.at <= 0 or (u < -ROUNDING).any() or (u > 1 + ROUNDING).any():
        raise InputError(
            f"{limit}: without an assumption about their distribution only values in [0, 1] can be certified",
            "certify it by the t test, which takes any metric",
        )
    return np.maximum(u, 0.0), low / (1 + limit.at)
