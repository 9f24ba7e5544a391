"""Models that people unlearn, by the features of their published configurations in tiny random copies: a trial in a
pack is the trial alone, and its adapter scores the same saved, loaded as a model, and merged into the base.

What was tried at which size is in docs/spec.md; logits and packs of many more architectures are in
test_architectures.py and test_pack_architectures.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed import assert_equal_trials, baseline_of, finish
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rayul.spec import Model
from rayul.unlearn.export import complete_saved, largest_difference, measure_reported, score_saved, write_merged
from rayul.unlearn.forward import score
from rayul.unlearn.job import TrialJob
from rayul.unlearn.model import load_model
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.packing import check_apart_in, joined
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.task import load_task
from rayul.unlearn.tokens import Example
from rayul.unlearn.trial import run_trial

pytestmark = pytest.mark.slow

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 3.2": ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "Qwen2.5": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen3": ("qwen3", {"tie_word_embeddings": True, "head_dim": 16}),
    "Phi-3": ("phi3", {"num_key_value_heads": 4, "sliding_window": 12}),
    "Gemma 3": (
        "gemma3_text",
        {
            "tie_word_embeddings": True,
            "head_dim": 16,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 16,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "Mistral, Zephyr": ("mistral", {"sliding_window": 12}),
    "GPT-NeoX, Pythia": ("gpt_neox", {"rotary_pct": 0.25, "use_parallel_residual": True}),
    "OLMo": ("olmo", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "OLMo 2": ("olmo2", {"num_key_value_heads": 4}),
}
"""By name the type of the configuration, and how it differs from that type's defaults."""


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_unlearned_in_packs_and_alone_scored_exported_and_merged(
    name: str, make_spec: Callable[..., Any], tiny_folder: Path, sets: Any, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    torch.manual_seed(0)
    kind, features = KNOWN[name]
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ends, **SIZES | features)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    training = {"lr": 1e-3, "steps": 4, "evaluate_every": 2, "batch_size": 4}
    spec = make_spec(model=str(tmp_path / "base"), method="gd", lora={"r": 4}, training=training)
    task = load_task(spec, sets)

    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=2))
    pack.join(TrialJob("n", spec, 0, {}, baseline_of(task, spec)))
    slot = pack.join(TrialJob("t", spec, 7, {}, baseline_of(task, spec)))
    assert_equal_trials(pack, slot, finish(pack, slot), task, spec, 7)

    adapter, whole = tmp_path / "adapter", tmp_path / "merged"
    with closing(run_trial(task, TrialJob("t", spec, 7, {}, baseline_of(task, spec)))) as snapshots:
        for snapshot in snapshots:
            last = snapshot.evaluations[-1].metrics
            if snapshot.ending is not None:
                assert snapshot.update is not None
                snapshot.update.save(1.0, adapter)
    assert last["forget.prob"] != baseline_of(task, spec)["forget.prob"]
    saved = score_saved(task, spec, adapter)
    assert largest_difference(saved, last) < 1e-6
    complete_saved(adapter, spec.model, task.tokenizer)
    write_merged(spec.model, adapter, whole, task.tokenizer)
    merged = load_task(spec.model_copy(update={"model": Model(path=str(whole))}), sets)
    assert largest_difference(measure_reported(merged, spec, merged.base), last) < 1e-4
    own, its_tokenizer = load_model(Model(path=str(adapter)))  # as `rayul evaluate` takes it
    found = evaluate_model(own, its_tokenizer, sets, metrics=["prob", "rouge"]).measured
    assert found["forget.prob"].value == pytest.approx(last["forget.prob"], rel=1e-5)
    assert 0 <= found["forget.rouge"].value <= 1


@pytest.mark.parametrize("name", KNOWN)
def test_texts_that_share_a_row_do_not_see_one_another(name: str) -> None:
    torch.manual_seed(0)
    kind, features = KNOWN[name]
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, vocab_size=64, **ends, **SIZES | features)
    ).eval()
    texts = [Example(tuple(torch.randint(2, 64, (length,)).tolist()), 1, length) for length in (9, 30, 17)]
    alone = [score(model, [text], 0)[0].logp for text in texts]
    (together,) = score(model, [joined(texts)], 0)
    np.testing.assert_allclose(together.logp, np.concatenate(alone), atol=2e-5)
    check_apart_in(model, [joined(texts)])
