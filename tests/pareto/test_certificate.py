"""The certificate's mathematics against independent formulas, another implementation, and what it promises."""

from __future__ import annotations

import math
import re
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control.fwer_control import FWERFixedSequenceTesting
from scipy import stats

from rayul.errors import InputError
from rayul.pareto import certificate
from rayul.spec import Limit

KEEPS_90 = Limit.share("retain.es", True, 0.9)
LEVEL = 0.1 / 5


def names(count: int) -> list[str]:
    return [f"author {i}" for i in range(count)]


def drawn(seed: int, coefficients: int = 20, groups: int = 15) -> Any:
    """Margins that shrink along the dial, with a spread that grows."""
    rng = np.random.default_rng(seed)
    a = np.linspace(0.05, 1, coefficients)[:, None]
    return 0.1 - 0.2 * a + a * rng.normal(0, 0.15, (coefficients, groups))


def certified(limit: Limit, means: Any, baseline: Any, level: float = LEVEL) -> int:
    d = certificate.margins(limit, np.asarray(means), np.asarray(baseline), names(len(baseline)))
    return certificate.walk([certificate.t_p_values(d)], level).passed


# --- Margins ----------------------------------------------------------------------------------------------------------


def test_a_margin_is_what_a_group_has_to_spare() -> None:
    means, baseline, groups = np.array([[0.8, 0.5]]), np.array([0.9, 0.5]), names(2)
    relative = certificate.margins(KEEPS_90, means, baseline, groups)
    assert relative == pytest.approx(np.array([[0.8 - 0.81, 0.5 - 0.45]]))
    absolute = certificate.margins(Limit("retain.es", True, 0.6), means, baseline, groups)
    assert absolute == pytest.approx(np.array([[0.2, -0.1]]))
    at_most = certificate.margins(Limit.share("general.es", False, 1.1), means, baseline, groups)
    assert at_most == pytest.approx(np.array([[0.99 - 0.8, 0.55 - 0.5]]))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_group_without_a_number_is_named(broken: float) -> None:
    means, baseline = np.full((3, 4), 0.8), np.full(4, 0.9)
    means[1, 2] = broken
    with pytest.raises(
        InputError, match=r"retain\.es of the adapter is not a number in the group that begins at author 2"
    ):
        certificate.margins(KEEPS_90, means, baseline, names(4))
    baseline[1] = broken
    with pytest.raises(InputError, match="of the baseline is not a number in the group that begins at author 1"):
        certificate.margins(KEEPS_90, means, baseline, names(4))


@pytest.mark.parametrize(("broken", "named"), [(3, "0, author 1, author 2$"), (4, "0, author 1, author 2, [.]{3}$")])
def test_of_many_groups_without_a_number_three_are_named(broken: int, named: str) -> None:
    baseline = np.array([math.nan] * broken + [0.83])
    with pytest.raises(InputError) as found:
        certificate.margins(KEEPS_90, np.full((2, len(baseline)), 0.71), baseline, names(len(baseline)))
    assert re.search(f"author {named}", found.value.message)


# --- The t test -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "groups"), [(0, 15), (1, 15), (2, 40), (3, 3), (4, 2)])
def test_p_values_are_those_of_a_one_sided_t_test(seed: int, groups: int) -> None:
    d = drawn(seed, groups=groups)
    expected = stats.ttest_1samp(d, 0, axis=1, alternative="greater")
    assert certificate.t_p_values(d) == pytest.approx(expected.pvalue, rel=1e-9)
    bounds = expected.confidence_interval(1 - LEVEL).low
    assert certificate.lower_bounds(d, LEVEL) == pytest.approx(bounds, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_coefficient_passes_where_the_statistic_reaches_the_quantile(seed: int) -> None:
    """The rule as the issue of this part states it, on t statistics instead of p-values."""
    d = drawn(seed)
    n = d.shape[1]
    statistic = d.mean(1) * math.sqrt(n) / d.std(1, ddof=1)
    passes = statistic >= stats.t.ppf(1 - 0.1 / 5, n - 1)
    until = next((i for i, passed in enumerate(passes) if not passed), len(passes))
    assert certificate.walk([certificate.t_p_values(d)], LEVEL).passed == until


# --- The walk ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.021, 0.3, 1.0]), min_size=1, max_size=25))
def test_the_walk_is_mapies_fixed_sequence_test(p_values: list[float]) -> None:
    rejected = FWERFixedSequenceTesting().run(np.array(p_values), LEVEL)
    assert certificate.walk([np.array(p_values)], LEVEL).passed == len(rejected)
    assert rejected.tolist() == list(range(len(rejected)))


def test_the_walk_stops_at_the_first_failure_though_later_ones_pass() -> None:
    assert certificate.walk([np.array([0.001, 0.03, 0.001])], 0.02).passed == 1
    assert certificate.walk([np.array([0.03, 0.001, 0.001])], 0.02).passed == 0
    assert certificate.walk([np.array([math.nan, 0.001])], 0.02).passed == 0


def test_all_limits_have_to_pass_at_one_coefficient() -> None:
    walk = certificate.walk([np.array([0.001, 0.001, 0.5]), np.array([0.01, 0.03, 0.001])], 0.02)
    assert walk.passed == 1
    assert walk.p_values.tolist() == [0.01, 0.03, 0.5]


# --- Null cases -------------------------------------------------------------------------------------------------------


def test_groups_that_are_all_perfect_pass() -> None:
    assert certified(KEEPS_90, np.ones((20, 10)), np.ones(10)) == 20


def test_a_constant_below_the_limit_fails_and_above_it_passes() -> None:
    for value, passed in ((0.899, 0), (0.9, 0), (0.901, 3)):
        assert certified(KEEPS_90, np.full((3, 8), value), np.ones(8)) == passed
        assert certified(Limit("retain.es", True, 0.9), np.full((3, 8), value), np.ones(8)) == passed


def test_without_spread_p_is_0_or_1() -> None:
    d = np.array([[0.02, 0.02], [0.0, 0.0], [-0.02, -0.02]])
    assert certificate.t_p_values(d).tolist() == [0.0, 1.0, 1.0]
    assert certificate.t_p_values(d[:, :1]).tolist() == [1.0, 1.0, 1.0], "one group has none to know"


def test_one_group_certifies_nothing() -> None:
    assert certified(KEEPS_90, np.ones((20, 1)), np.ones(1)) == 0
    assert certificate.lower_bounds(np.ones((2, 1)), LEVEL).tolist() == [-math.inf, -math.inf]


def test_a_limit_at_100_percent_is_not_passed_by_the_baseline_itself() -> None:
    """Nothing is shown to be above a limit that it meets exactly; a metric that rose passes."""
    limit, baseline = Limit.share("retain.es", True, 1.0), np.array([0.8, 0.9, 1.0, 0.7])
    assert certified(limit, baseline[None], baseline) == 0
    assert certified(limit, baseline[None] + 0.1, baseline) == 1
    assert certificate.least_groups(limit, 0.1) == math.inf


# --- e-values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [KEEPS_90, Limit("retain.es", True, 0.7), Limit.share("general.es", False, 0.5)])
def test_e_values_are_the_product_of_the_bets(limit: Limit) -> None:
    rng = np.random.default_rng(3)
    baseline, means, select = (rng.uniform(0.4, 1, shape) for shape in ((12,), (4, 12), (4, 9)))
    d = certificate.margins(limit, means, baseline, names(12))
    bets = certificate.bets(limit, certificate.margins(limit, select, baseline[:9], names(9)))
    share = limit.value / (100 if limit.relative else 1)
    low = share if limit.at_least else 1.0
    for row, bet, found in zip(d, bets, certificate.e_values(limit, d, bets), strict=True):
        factors = [1 + bet * ((x + low) / (1 + share) - low / (1 + share)) for x in row]
        assert found == pytest.approx(reduce(lambda e, f: e * f, factors), rel=1e-9)


def test_perfect_groups_reach_the_level_at_the_number_of_groups_that_it_names() -> None:
    """0.9^n <= 0.1 from 22 groups on."""
    assert certificate.least_groups(KEEPS_90, 0.1) == math.ceil(math.log(0.1) / math.log(0.9)) == 22
    for n, reached in ((21, False), (22, True)):
        d = np.full((1, n), 0.1)
        (e,) = certificate.e_values(KEEPS_90, d, certificate.bets(KEEPS_90, d))
        assert e == pytest.approx(0.9**-n)
        assert bool(e >= 1 / 0.1) is reached


def test_groups_without_anything_reach_the_level_of_an_at_most_limit_as_soon_as_it_says() -> None:
    """1.5^n >= 10 from 6 groups on."""
    half = Limit.share("general.es", False, 0.5)
    assert certificate.least_groups(half, 0.1) == 6
    assert certificate.least_groups(half, 1 / 1.5**4 * 0.999) == 5
    for n, reached in ((5, False), (6, True)):
        d = certificate.margins(half, np.zeros((1, n)), np.ones(n), names(n))
        (e,) = certificate.e_values(half, d, certificate.bets(half, d))
        assert e == pytest.approx(1.5**n)
        assert bool(e >= 1 / 0.1) is reached


@pytest.mark.parametrize("limit", [KEEPS_90, Limit("general.es", False, 0.25)])
@pytest.mark.parametrize("wanted", [0.37, 0.5, 0.93])
def test_a_bet_is_kellys(limit: Limit, wanted: float) -> None:
    """Of groups at 1 and at 0 the best bet is (p - u0) / (u0 (1 - u0)), for the share p at 1 (Kelly 1956)."""
    at = limit.value / 100 if limit.relative else limit.value
    low = at if limit.at_least else 1.0
    null = low / (1 + at)
    ones = round(2000 * (null + wanted * (1 - null)))
    d = np.repeat([1.0 - low + at, -low], [ones, 2000 - ones])[None]
    assert certificate.bets(limit, d)[0] == pytest.approx(wanted / null)


def test_where_every_group_is_broken_the_bet_is_a_hundredth_of_the_largest() -> None:
    assert certificate.bets(KEEPS_90, np.full((1, 5), -0.5))[0] == pytest.approx(0.01 * 1.9 / 0.9)


@pytest.mark.parametrize("margin", [-0.91, 1.01])
def test_one_group_beyond_the_unit_interval_is_enough_to_refuse(margin: float) -> None:
    d = np.array([[0.1, 0.05, -0.2], [0.1, margin, 0.02]])
    with pytest.raises(InputError, match=r"only values in \[0, 1\]"):
        certificate.e_values(KEEPS_90, d, np.array([0.5, 0.5]))
    d[1, 1] = np.clip(margin, -0.9, 1)
    assert np.isfinite(certificate.e_values(KEEPS_90, d, np.array([0.5, 0.5]))).all(), "both ends are in it"


@pytest.mark.parametrize("at_least", [True, False])
def test_no_e_value_of_a_limit_at_zero(at_least: bool) -> None:
    with pytest.raises(InputError, match=r"only values in \[0, 1\]"):
        certificate.e_values(Limit("retain.es", at_least, 0.0), np.array([[0.0, 0.0]]), np.array([0.5]))


def test_a_bet_grows_on_the_groups_it_was_chosen_on_and_is_small_where_groups_broke() -> None:
    good = np.full((1, 10), 0.1)
    broken = good.copy()
    broken[0, 0] = -0.9
    (bold,), (careful,) = certificate.bets(KEEPS_90, good), certificate.bets(KEEPS_90, broken)
    assert careful < bold == pytest.approx((1 + 0.9) / 0.9)
    assert certificate.e_values(KEEPS_90, broken, np.array([bold]))[0] == pytest.approx(0, abs=1e-9)


def test_no_e_value_of_a_metric_without_bounds() -> None:
    limit = Limit.share("general.ppl", False, 1.1)
    d = certificate.margins(limit, np.array([[30.0, 12.0]]), np.array([20.0, 11.0]), names(2))
    with pytest.raises(InputError, match=r"only values in \[0, 1\]"):
        certificate.e_values(limit, d, np.array([0.1]))


# --- What it promises -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [10, 40])
def test_a_limit_that_is_broken_is_certified_no_more_often_than_the_level(n: int) -> None:
    """2,000 certify sets whose true mean is just below the limit: for the t test of normal margins, for the e-value of
    groups of five rows, some of which are broken altogether."""
    rng = np.random.default_rng(n)
    normal = rng.normal(-1e-3, 0.13, (2000, n))
    rows = rng.binomial(5, rng.beta(9 * 0.899, 9 * 0.101, (2001, max(n, 30)))) / 5
    skewed, select = rows[:2000, :n] - 0.9, rows[2000:] - 0.9
    bets = np.repeat(certificate.bets(KEEPS_90, select), 2000)
    for passed in (
        certificate.t_p_values(normal) <= 0.1,
        certificate.e_values(KEEPS_90, skewed, bets) >= 10,
    ):
        assert stats.binomtest(int(passed.sum()), 2000, 0.1, alternative="greater").pvalue > 1e-3


def test_a_dial_ascends_to_its_largest_coefficient() -> None:
    for largest in (1.0, 0.6875):
        a = certificate.dial(largest)
        assert len(a) == 20
        assert a[[0, -1]] == pytest.approx([largest / 20, largest])
        assert (np.diff(a) > 0).all()
    assert certificate.dial().tolist() == certificate.dial(1.0).tolist()
    assert certificate.dial(1 / 3)[[0, 1]].tolist() == [0.016667, 0.033333]
    for beyond in (0.0, 1.01):
        with pytest.raises(InputError, match=f"got {beyond:g}"):
            certificate.dial(beyond)
