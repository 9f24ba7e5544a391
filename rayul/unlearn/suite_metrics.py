"""The metrics that need more than the one forward of every evaluation: a function each, and nothing else.

A function is called as its row in `rayul/spec/metrics.py` is. It is given the `Probe` of a set and returns a number per
row, [N]; one whose row says `mean_of_rows=False` returns a `Measured`. One whose row names its sets (`only`) is also
given the `Probes` of all sets and of the oracle. What the rows or the oracle lack raises `Missing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rayul.unlearn import answer_match, membership, metrics, text_quality, tofu
from rayul.unlearn.data import LETTERS
from rayul.unlearn.measured import Measured
from rayul.unlearn.probe import Probe, Probes

Floats = NDArray[np.float64]

# --- of one set --------------------------------------------------------------------------------------------------


def es_perturb(probe: Probe) -> Floats:
    return np.array([metrics.es(scores) for scores in probe.rephrased])


def es_similar(probe: Probe) -> Floats:
    return probe.similar


def prob_options(probe: Probe) -> Floats:
    return tofu.option_probability(probe.answer_logp, probe.perturbed_logp)


def truth_ratio(probe: Probe) -> Floats:
    return tofu.truth_ratio(_log_truth_ratio(probe))


def truthfulness(probe: Probe) -> Floats:
    return tofu.truthfulness(_log_truth_ratio(probe))


def choice_text(probe: Probe) -> Floats:
    """`acc_norm` of mmlu_continuation in lm-evaluation-harness: log p of an option's text over its characters."""
    per_character = [
        logp / [len(choice) for choice in row.choices] for logp, row in zip(probe.choice_logp, probe.rows, strict=True)
    ]
    right = [LETTERS.index(row.answer) for row in probe.rows]
    return np.array([float(v.argmax() == i) for v, i in zip(per_character, right, strict=True)])


def mc1(probe: Probe) -> Floats:
    """MC1 of TruthfulQA (Lin et al. 2022, arXiv 2109.07958): the right option has the highest log p, and alone."""
    by_option = probe.asked_choice_logp  # first: it refuses rows without choices
    right = [LETTERS.index(row.answer) for row in probe.rows]
    return np.array([float(logp[i] > np.delete(logp, i).max()) for logp, i in zip(by_option, right, strict=True)])


def exact_match(probe: Probe) -> Floats:
    return np.array([answer_match.exact_match(*pair) for pair in _answered(probe)])


def token_f1(probe: Probe) -> Floats:
    return np.array([answer_match.token_f1(*pair) for pair in _answered(probe)])


def _answered(probe: Probe) -> list[tuple[list[str], str]]:
    """Of each row all right answers, and the generated one."""
    said = [answer_match.extracted(text, probe.asked.extract) for text in probe.texts]
    return [([row.answer, *row.alternatives], text) for row, text in zip(probe.rows, said, strict=True)]


def rouge(probe: Probe) -> Floats:
    return text_quality.rouge_l(probe.references, probe.texts, probe.asked.rouge)


def empty(probe: Probe) -> Floats:
    return text_quality.empty(probe.texts)


def repetition(probe: Probe) -> Floats:
    return text_quality.repetition(probe.generated)


def distinct(probe: Probe) -> Measured:
    return text_quality.distinct(probe.generated, probe.groups)


def fluency(probe: Probe) -> Floats:
    return text_quality.fluency(probe.texts)


# --- of a set beside other sets or models ------------------------------------------------------------------------


def forget_quality(forget: Probe, probes: Probes) -> Measured:
    """A p-value has no standard error: NaN."""
    oracle = probes.of_oracle("forget")
    value = tofu.forget_quality(_log_truth_ratio(forget), _log_truth_ratio(oracle))
    return Measured(value, math.nan, len(forget.rows), len(np.unique(forget.groups)))


def model_utility(kept: Probe, probes: Probes) -> Measured:
    """TOFU's nine numbers with the sets real_authors and world_facts; six, of retain and general, without them."""
    facts = ("real_authors", "world_facts")
    others = [probes.of(key) for key in (facts if set(facts) <= set(probes.sets) else ("general",))]
    return tofu.model_utility(
        [
            np.stack([rouge(kept), np.exp(kept.answer_logp), truthfulness(kept)]),
            *(np.stack([rouge(p), prob_options(p), truthfulness(p)]) for p in others),
        ],
        [p.groups for p in (kept, *others)],
    )


def mia_loss(forget: Probe, probes: Probes) -> Measured:
    return _auc(forget, probes, _loss)


def mia_zlib(forget: Probe, probes: Probes) -> Measured:
    return _auc(forget, probes, _zlib)


def mia_min_k(forget: Probe, probes: Probes) -> Measured:
    return _auc(forget, probes, _min_k)


def mia_min_k_pp(forget: Probe, probes: Probes) -> Measured:
    return _auc(forget, probes, _min_k_pp)


def mia_loss_gap(forget: Probe, probes: Probes) -> Measured:
    return _gap(forget, probes, _loss)


def mia_zlib_gap(forget: Probe, probes: Probes) -> Measured:
    return _gap(forget, probes, _zlib)


def mia_min_k_gap(forget: Probe, probes: Probes) -> Measured:
    return _gap(forget, probes, _min_k)


def mia_min_k_pp_gap(forget: Probe, probes: Probes) -> Measured:
    return _gap(forget, probes, _min_k_pp)


def privleak(forget: Probe, probes: Probes) -> Measured:
    """Over whole texts, question included, not over answers as `mia_min_k`."""
    holdout = probes.of("holdout")
    if probes.oracle_auc is not None:
        oracle: float | tuple[Floats, Floats] = probes.oracle_auc
    else:
        oracle = _min_k_of_all(probes.of_oracle("forget")), _min_k_of_all(probes.of_oracle("holdout"))
    scores = _min_k_of_all(forget), _min_k_of_all(holdout)
    return membership.privleak(*scores, oracle, forget.groups, holdout.groups)


def _min_k_of_all(probe: Probe) -> Floats:
    return membership.min_k_score([s.logp for s in probe.whole])


def _loss(probe: Probe) -> Floats:
    return membership.loss_score(probe.answers)


def _zlib(probe: Probe) -> Floats:
    return membership.zlib_score(probe.answers, [row.answer for row in probe.rows])


def _min_k(probe: Probe) -> Floats:
    return membership.min_k_score([s.logp for s in probe.answers])


def _min_k_pp(probe: Probe) -> Floats:
    return membership.min_k_score(probe.standardised)


def _auc(forget: Probe, probes: Probes, score: Callable[[Probe], Floats]) -> Measured:
    """Of forget against holdout rows. score: of each row, higher for what looks like training data."""
    holdout = probes.of("holdout")
    return membership.auc(score(forget), score(holdout), forget.groups, holdout.groups)


def _gap(forget: Probe, probes: Probes, score: Callable[[Probe], Floats]) -> Measured:
    """The AUC minus the oracle's, which sees the same rows."""
    holdout = probes.of("holdout")
    oracle = [probes.of_oracle(key) for key in ("forget", "holdout")]
    own, theirs = (score(forget), score(holdout)), (score(oracle[0]), score(oracle[1]))
    return membership.auc_gap(*own, *theirs, forget.groups, holdout.groups)


def _log_truth_ratio(probe: Probe) -> Floats:
    return tofu.log_truth_ratio(probe.paraphrase_logp, probe.perturbed_logp)
