"""MUSE's privacy leakage against its definition: pairs counted here, scores by plain transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from tokenizers_by_kind import byte_level, byte_level_that_adds_bos, memorised
from transformers import LlamaConfig, LlamaForCausalLM

from rayul.unlearn import membership
from rayul.unlearn.data import Row
from rayul.unlearn.data.row import row_of
from rayul.unlearn.suite import evaluate_model

TOWNS = ("Lorn", "Vesk", "Umbra", "Tarn", "Oslow", "Perrin", "Quill", "Wick", "Mirth", "Calder")


def passages(towns: Sequence[str]) -> tuple[Row, ...]:
    texts = [f"In the year 1{i}7 the river rose at {town}, and nobody crossed it until May." for i, town in towns]
    return tuple(row_of({"text": text}, "here", {}) for text in texts)


SETS = {name: passages(list(enumerate(TOWNS))[i::2]) for i, name in enumerate(("forget", "holdout"))}


def llama(tokenizer: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **shape))


def min_40(model: Any, tokenizer: Any, text: str) -> float:
    """As MUSE's `inference`: log p of every token but the first, the lowest 40% (rounded down), averaged."""
    ids = tokenizer.encode(text)
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    every = sorted(float(logp[i - 1, ids[i]]) for i in range(1, len(ids)))
    return float(np.mean(every[: int(0.4 * len(every))]))


def muse_auc(model: Any, tokenizer: Any) -> float:
    """Its "forget_holdout_Min-40%": forget rows are the negatives, holdout rows the positives."""
    forget, holdout = ([min_40(model, tokenizer, row.text) for row in SETS[name]] for name in ("forget", "holdout"))
    return float(mannwhitneyu(holdout, forget).statistic) / (len(forget) * len(holdout))


@pytest.mark.parametrize("kind", [byte_level, byte_level_that_adds_bos])
def test_it_is_muses_number(kind: Callable[[], Any]) -> None:
    tokenizer = kind()
    texts = [row.text for row in (*SETS["forget"][:3], *SETS["holdout"][:1])]
    model, oracle = memorised(tokenizer, texts, 15, llama(tokenizer, 0)), llama(tokenizer, 1)
    own, reference = muse_auc(model, tokenizer), muse_auc(oracle, tokenizer)
    assert 0 < own < reference  # three of five forget rows are recognised
    found = evaluate_model(model, tokenizer, SETS, oracle=oracle, metrics=["privleak"]).measured
    assert list(found) == ["forget.privleak"]
    assert found["forget.privleak"].value == pytest.approx(100 * (own - reference) / reference, abs=1e-9)
    assert found["forget.privleak"].rows == 10
    given = evaluate_model(model, tokenizer, SETS, metrics=["privleak"], oracle_auc=0.4772).measured
    assert given["forget.privleak"].value == pytest.approx(100 * (own - 0.4772) / 0.4772, abs=1e-9)


def test_it_says_what_it_lacks() -> None:
    tokenizer = byte_level()
    model = llama(tokenizer, 0)
    reason = evaluate_model(model, tokenizer, SETS, metrics=["privleak"]).skipped["forget.privleak"]
    assert "oracle" in reason
    without = {"forget": SETS["forget"]}
    reason = evaluate_model(model, tokenizer, without, metrics=["privleak"], oracle_auc=0.5).skipped["forget.privleak"]
    assert "holdout" in reason


def test_recognised_rows_are_minus_100_and_too_unlikely_ones_positive() -> None:
    low, high = np.array([-3.0, -2.0]), np.array([-0.1, -0.2])
    assert membership.privleak(high, low, 0.5).value == -100
    assert membership.privleak(low, high, 0.5).value == 100
    assert membership.privleak(low, low, 0.4).value == pytest.approx(25)
    assert math.isnan(membership.privleak(np.array([np.nan, 0.1]), low, 0.5).value)
    assert membership.privleak(low, low, (high, low)).value == math.inf


def test_its_error_agrees_with_repetition() -> None:
    rng = np.random.default_rng(5)
    draws = []
    for _ in range(800):
        forget, holdout = rng.normal(-0.2, size=60), rng.normal(size=40)
        own = forget + 0.5 * rng.normal(0.6, size=60), holdout + 0.5 * rng.normal(size=40)
        draws.append(membership.privleak(*own, (forget, holdout)))
    assert np.mean([d.stderr for d in draws]) == pytest.approx(np.std([d.value for d in draws]), rel=0.1)
