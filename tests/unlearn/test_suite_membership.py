"""Membership scores and their AUC, against pair counting and formulas written out here."""

import math
import zlib

import numpy as np
import pytest

from rayul.unlearn import membership
from rayul.unlearn.forward import TokenScores


def scores_of(*rows):
    return [TokenScores(np.log(np.array(row)), np.ones(len(row), dtype=bool)) for row in rows]


def test_auc_counts_pairs_and_halves_ties():
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 17).astype(float)
    won = sum(1.0 if m > o else 0.5 if m == o else 0.0 for m in members for o in others)
    measured = membership.auc(members, others)
    assert measured.value == pytest.approx(won / (30 * 17), rel=1e-12)
    assert measured.rows == 47
    assert membership.auc(others, members).value == pytest.approx(1 - measured.value, rel=1e-12)


def test_auc_reads_one_for_recognised_half_for_equal_and_zero_for_conspicuously_unlikely_rows():
    low, high = np.array([-3.0, -2.0, -2.5]), np.array([-0.1, -0.2])
    assert membership.auc(high, low).value == 1.0
    assert membership.auc(low, low).value == 0.5
    assert membership.auc(low, high).value == 0.0


def test_auc_error_agrees_with_repetition():
    rng = np.random.default_rng(3)
    draws = [membership.auc(rng.normal(0.7, size=60), rng.normal(size=40)) for _ in range(1000)]
    assert np.mean([d.stderr for d in draws]) == pytest.approx(np.std([d.value for d in draws]), rel=0.1)


def test_auc_gap_error_agrees_with_repetition():
    """Of a model and an oracle whose scores go together on the same rows."""
    rng = np.random.default_rng(4)
    draws, apart = [], []
    for _ in range(1000):
        forget, holdout = rng.normal(0.3, size=60), rng.normal(size=40)
        own = forget + 0.5 * rng.normal(0.4, size=60), holdout + 0.5 * rng.normal(size=40)
        draws.append(membership.auc_gap(*own, forget, holdout))
        apart.append(math.hypot(membership.auc(*own).stderr, membership.auc(forget, holdout).stderr))
        assert draws[-1].value == pytest.approx(membership.auc(*own).value - membership.auc(forget, holdout).value)
    error = np.std([d.value for d in draws])
    assert np.mean([d.stderr for d in draws]) == pytest.approx(error, rel=0.1)
    assert np.mean(apart) > 2 * error  # as if the two were measured on rows of their own


def test_auc_of_a_diverged_model_is_nan():
    assert math.isnan(membership.auc(np.array([0.1, np.nan]), np.array([0.2, 0.3])).value)


def test_loss_and_zlib_scores():
    scores, texts = scores_of([0.5, 0.25], [0.1]), ["Lima, Lima, Lima, Lima", "Oslo"]
    expected = [(math.log(0.5) + math.log(0.25)) / 2, math.log(0.1)]
    np.testing.assert_allclose(membership.loss_score(scores), expected, rtol=1e-12)
    sizes = [len(zlib.compress(t.encode())) for t in texts]
    np.testing.assert_allclose(membership.zlib_score(scores, texts), np.divide(expected, sizes), rtol=1e-12)


def test_min_k_averages_the_lowest_values_and_at_least_one():
    rows = [np.array([-1.0, -5.0, -2.0, -4.0, -3.0]), np.array([-7.0])]
    np.testing.assert_allclose(membership.min_k_score(rows, lowest=0.4), [-4.5, -7.0])
    np.testing.assert_allclose(membership.min_k_score(rows, lowest=0.1), [-5.0, -7.0])
