"""Importance against the Kruskal-Wallis test, known shares of variance, chance, and repeated sampling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from synthetic import sweep, write_folder

from rayul.report import load_results
from rayul.report.importance import MIN_TRIALS, grouped, importance, importances, outcomes

METHODS = ["ga", "gd", "npo"]


def test_the_share_is_the_effect_size_of_kruskal_and_wallis() -> None:
    draw = np.random.default_rng(0)
    kinds = draw.choice(METHODS, 60)
    outcome = np.round(draw.normal(size=60) + (kinds == "gd"), 1)  # rounded: ties
    statistic, _ = stats.kruskal(*(outcome[kinds == kind] for kind in METHODS))
    eta = statistic / 59
    expected = 1 - (1 - eta) * 59 / (60 - 3)
    found = importance("method.name", kinds.tolist(), outcome.tolist())
    assert found.share == pytest.approx(expected)
    assert found.chance < found.share
    assert np.isnan(found.trend)


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    values, outcome = np.random.default_rng(1).integers(0, 8, (2, 50))
    assert importance("x", values.tolist(), outcome.tolist()).trend == pytest.approx(
        stats.spearmanr(values, outcome).statistic, rel=1e-12
    )


def test_shares_of_a_sum_are_the_shares_of_its_variance() -> None:
    draw = np.random.default_rng(2)
    a, b, c = draw.random((3, 4000))
    outcome = 3 * a + b  # variances 9 : 1
    shares = [importance(n, v.tolist(), outcome.tolist()) for n, v in (("a", a), ("b", b), ("c", c))]
    assert [s.share for s in shares] == pytest.approx([0.9, 0.1, 0.0], abs=0.05)
    assert [s.beyond_chance for s in shares[:2]] == [True, True]
    for found, values in zip(shares, (a, b, c), strict=True):
        assert found.trend == pytest.approx(stats.spearmanr(values, outcome).statistic)


def test_an_effect_that_rises_and_falls_is_seen_though_its_correlation_is_not() -> None:
    x = np.linspace(-1, 1, 100)
    found = importance("training.lr", x.tolist(), (-(x**2)).tolist())
    assert abs(found.trend) < 0.05
    assert found.share > 0.7


def test_chance_is_passed_by_about_one_irrelevant_setting_in_twenty() -> None:
    draw = np.random.default_rng(3)
    hits = sum(importance("x", draw.random(40).tolist(), draw.random(40).tolist()).beyond_chance for _ in range(200))
    assert 2 <= hits <= 22  # 10 expected; outside with probability 1e-3


def test_the_standard_error_is_that_of_repeated_sampling() -> None:
    draw = np.random.default_rng(4)

    def sample() -> tuple[list[float], list[float]]:
        x = draw.random(100)
        return x.tolist(), (x + draw.normal(0, 0.3, 100)).tolist()

    found = [importance("x", *sample()) for _ in range(60)]
    assert np.mean([f.stderr for f in found]) == pytest.approx(np.std([f.share for f in found]), rel=0.35)


def test_what_cannot_be_told_says_why() -> None:
    few = importance("x", [1.0, 2.0] * (MIN_TRIALS // 2 - 1), [0.1, 0.2] * (MIN_TRIALS // 2 - 1))
    assert few.why == f"{MIN_TRIALS - 2} of the {MIN_TRIALS} trials needed"
    assert importance("x", [8] * 30, list(range(30))).why == "always 8"
    assert importance("x", list(range(30)), [0.0] * 30).why == "all trials have the same value"
    assert importance("x", [], []).why == "in no trial"
    assert all(np.isnan(v) for v in (few.share, few.stderr, few.chance, few.trend))


def test_groups_are_values_or_quantiles_of_at_least_eight() -> None:
    assert grouped([4, 16, 8, 4])[0].tolist() == [0, 2, 1, 0]
    assert grouped([True, False, True])[1] is None
    draw = np.random.default_rng(5)
    for n in (20, 39, 40, 200):
        counts = np.bincount(grouped(draw.random(n).tolist())[0])
        assert len(counts) == min(5, max(2, n // 8))
        assert counts.min() >= 8 - (n < 24)


def test_of_a_sweep_the_setting_that_drives_it_comes_first(tmp_path: object) -> None:
    results = load_results(write_folder(tmp_path / "s", sweep(120)))  # type: ignore[operator]
    for axis, rows in importances(results):
        assert rows[0].name == "training.lr"
        assert rows[0].beyond_chance
        assert {r.name for r in rows} == {"training.lr", "lora.r", "method.name", "method.retain_weight"}
        weight = next(r for r in rows if r.name == "method.retain_weight")
        reached = outcomes(results, axis)
        assert weight.trials == sum("method.retain_weight" in results.trials[t][0].params for t in reached)
        assert len(reached) == sum(e.state != "failed" for e in results.endings.values())
