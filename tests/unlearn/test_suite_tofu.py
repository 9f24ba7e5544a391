"""TOFU's measures: against the published logs, and against formulas written out here."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rayul.unlearn import tofu

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden" / "tofu_phi_wd0.json.gz"
LOGS = {
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
    "forget": "eval_log_forget.json",
}
UTILITY = ("retain", "real_authors", "world_facts")


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip(f"the published TOFU logs are not here ({GOLDEN})")
    with gzip.open(GOLDEN) as file:
        return json.load(file)


class Log:
    """One published log: NLLs to log-probabilities."""

    def __init__(self, golden, model, name):
        log = golden["inputs"][f"tofu/{model}"][LOGS[name]]
        self.answer = -np.array(log["avg_gt_loss"])
        self.paraphrase = -np.array(log["avg_paraphrased_loss"])
        self.perturbed = [-np.array(losses) for losses in log["average_perturb_loss"]]
        self.rouge = np.array(log["rougeL_recall"])
        self.log_ratio = tofu.log_truth_ratio(self.paraphrase, self.perturbed)
        options = name in ("real_authors", "world_facts")
        self.prob = tofu.option_probability(self.answer, self.perturbed) if options else np.exp(self.answer)


def test_per_set_means_of_the_published_logs(golden):
    for model, sets in golden["expected_model_utility"].items():
        for name in LOGS:
            log, expected = Log(golden, model, name), sets[name]
            ratio = tofu.truth_ratio if name == "forget" else tofu.truthfulness
            assert len(log.answer) == expected["n"]
            assert log.prob.mean() == pytest.approx(expected["prob"], rel=1e-9)
            assert ratio(log.log_ratio).mean() == pytest.approx(expected["truth_ratio_geo"], rel=1e-9)


def test_model_utility_of_the_published_logs(golden):
    for model, expected in golden["expected_model_utility"].items():
        logs = [Log(golden, model, name) for name in UTILITY]
        utility = tofu.model_utility([np.stack([g.rouge, g.prob, tofu.truthfulness(g.log_ratio)]) for g in logs])
        assert utility.value == pytest.approx(expected["model_utility_geo"], rel=1e-9)
        assert utility.rows == 300 + 100 + 117


def test_forget_quality_of_the_published_logs(golden):
    def log_ratios(name):
        model, _, rows = name.partition("[")
        start, _, stop = rows.rstrip("]").partition(":")
        every = Log(golden, f"ft_epoch5_{model}", "forget").log_ratio
        return every[int(start) : int(stop)] if rows else every

    for row in golden["expected_forget_quality"]:
        model, oracle = log_ratios(row["model"]), log_ratios(row["reference"])
        assert (len(model), len(oracle)) == (row["n_full"], row["n_ref"])
        assert tofu.forget_quality(model, oracle) == pytest.approx(row["forget_quality"], rel=1e-9)


def test_truth_ratio_is_the_geometric_one():
    paraphrase, wrong = np.log([0.5, 0.1]), [np.log([0.2, 0.05]), np.log([0.2, 0.1, 0.4])]
    ratios = np.array([math.sqrt(0.2 * 0.05) / 0.5, (0.2 * 0.1 * 0.4) ** (1 / 3) / 0.1])
    log_ratio = tofu.log_truth_ratio(paraphrase, wrong)
    np.testing.assert_allclose(np.exp(log_ratio), ratios, rtol=1e-12)
    np.testing.assert_allclose(tofu.truth_ratio(log_ratio), [ratios[0], 1 / ratios[1]], rtol=1e-12)
    np.testing.assert_allclose(tofu.truthfulness(log_ratio), [1 - ratios[0], 0.0], rtol=1e-12)


def test_option_probability_survives_a_collapsed_model():
    share = tofu.option_probability(np.array([-2000.0, np.log(0.3)]), [np.array([-2000.0] * 3), np.log([0.1, 0.2])])
    np.testing.assert_allclose(share, [0.25, 0.5], rtol=1e-12)


def test_forget_quality_is_exact_and_the_same_on_ratios():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40), rng.normal(0.5, size=40)
    # All C(12, 6) ways to deal 12 ranks to two samples, counted.
    small, other = np.arange(6.0), np.arange(6.0) + 2.5
    assert tofu.forget_quality(a, a) == 1.0
    assert tofu.forget_quality(a, b) == pytest.approx(stats.ks_2samp(np.exp(a), np.exp(b), method="exact").pvalue)
    assert tofu.forget_quality(small, other) == pytest.approx(_ks_p_by_counting(small, other), rel=1e-12)


def _ks_p_by_counting(a, b):
    from itertools import combinations

    pooled = sorted([*a, *b])

    def distance(first):
        in_first = np.isin(np.arange(len(pooled)), first)
        return np.abs(np.cumsum(in_first) / len(a) - np.cumsum(~in_first) / len(b)).max()

    observed = distance([pooled.index(x) for x in a])
    deals = [distance(c) for c in combinations(range(len(pooled)), len(a))]
    return np.mean([d >= observed - 1e-12 for d in deals])


def test_model_utility_error_agrees_with_resampling():
    rng = np.random.default_rng(1)
    sets = [rng.beta(2, 3, size=(3, 120)), rng.beta(3, 2, size=(3, 80))]
    utility = tofu.model_utility(sets)
    means = [x for s in sets for x in s.mean(1)]
    assert utility.value == pytest.approx(len(means) / sum(1 / m for m in means), rel=1e-12)
    resampled = [
        tofu.model_utility([s[:, rng.integers(0, s.shape[1], s.shape[1])] for s in sets]).value for _ in range(2000)
    ]
    assert utility.stderr == pytest.approx(np.std(resampled), rel=0.1)


def test_model_utility_of_a_collapsed_model():
    dead = np.stack([np.zeros(5), np.full(5, 0.5), np.full(5, 0.5)])
    assert tofu.model_utility([dead]) == (0.0, 0.0, 5, 5)
    assert math.isnan(tofu.model_utility([dead * np.nan]).value)
