"""How much a point must keep to be certified: against simulation and SciPy's noncentral t."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rayul.pareto.power import PRIOR, Spread, needed_groups, needed_share, power


@pytest.mark.parametrize(
    ("share", "limit", "groups", "alpha"), [(0.95, 0.9, 20, 0.1), (0.93, 0.9, 80, 0.02), (0.8, 0.5, 5, 0.1)]
)
def test_power_is_how_often_the_t_test_passes(share: float, limit: float, groups: int, alpha: float) -> None:
    rng = np.random.default_rng(1)
    beyond = rng.normal(share - limit, PRIOR.near(share), (20_000, groups))
    passed = stats.ttest_1samp(beyond, 0, axis=1, alternative="greater").pvalue <= alpha
    found = power(share, limit, groups, alpha)
    assert found == pytest.approx(passed.mean(), abs=0.012)
    shift = (share - limit) * math.sqrt(groups) / PRIOR.near(share)
    assert found == pytest.approx(stats.nct.sf(stats.t.ppf(1 - alpha, groups - 1), groups - 1, shift), rel=1e-6)


def test_at_the_limit_the_power_is_the_level() -> None:
    assert power(0.9, 0.9, 20, 0.1) == pytest.approx(0.1)
    assert power(0.8, 0.9, 20, 0.1) < 0.01


def test_the_needed_share_has_the_wanted_power() -> None:
    share = needed_share(0.9, 20, 0.1)
    assert share == pytest.approx(0.947, abs=0.001)
    assert power(share, 0.9, 20, 0.1) == pytest.approx(0.8, abs=1e-3)
    assert needed_share(0.9, 20, 0.02) > share > needed_share(0.9, 40, 0.1) > needed_share(0.9, 400, 0.1) > 0.9
    assert needed_share(0.9, 20, 0.1, wanted=0.95) > share


@pytest.mark.parametrize("share", [0.95, 0.96, 0.97, 0.98])
def test_the_needed_groups_are_the_fewest(share: float) -> None:
    groups = needed_groups(share, 0.9, 0.02)
    assert power(share, 0.9, groups, 0.02) >= 0.8 > power(share, 0.9, groups - 1, 0.02)


def test_no_number_of_groups_is_enough_at_the_limit() -> None:
    with pytest.raises(ValueError, match=r"0\.9 is not beyond the limit 0\.9"):
        needed_groups(0.9, 0.9, 0.1)


def test_edges() -> None:
    assert power(0.99, 0.9, 1, 0.1) == 0.0
    assert math.isnan(needed_share(0.9, 1, 0.1))
    assert power(1.0, 0.9, 5, 0.1) == 1.0, "all groups keep all: no spread"
    assert power(0.95, 0.9, 5, 0.1, Spread(0.0, 0.9)) == 1.0
    assert power(0.9, 0.9, 5, 0.1, Spread(0.0, 0.9)) == 0.0, "at a limit that is met exactly the test does not pass"
    assert needed_share(0.9999999, 5, 0.1) == 1.0


def test_two_groups_can_be_enough() -> None:
    close = Spread(0.01, 0.9)
    assert power(0.99, 0.9, 2, 0.1, close) > 0.99
    assert needed_groups(0.99, 0.9, 0.1, close) == 2
    assert power(needed_share(0.9, 2, 0.1, close), 0.9, 2, 0.1, close) == pytest.approx(0.8, abs=1e-3)


def test_a_spread_shrinks_towards_all_and_nothing_as_a_share_does() -> None:
    seen = Spread(0.2, 0.8)
    assert seen.near(0.8) == pytest.approx(0.2)
    assert seen.near(0.5) == pytest.approx(0.25)
    assert seen.near(1.0) == seen.near(0.0) == 0.0
