"""ES and prob of small models of many architectures equal what transformers' own logits give, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers_by_kind import byte_level, memorised, truth
from transformers import AutoConfig, AutoModelForCausalLM

from rayul.unlearn.data import Row
from rayul.unlearn.suite import evaluate_model

pytestmark = pytest.mark.slow

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
FEW_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
PLAIN = """
    arcee apertus bitnet bloom cohere cohere2 diffllama ernie4_5 exaone4 gemma gemma2 gemma3_text glm glm4 gpt2
    gpt_bigcode gpt_neox granite helium llama mistral mpt nemotron olmo olmo2 olmo3 opt persimmon phi phi3 qwen2 qwen3
    seed_oss smollm3 stablelm starcoder2 xglm
"""
ARCHITECTURES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(PLAIN.split(), SHAPE),
    **dict.fromkeys(["gpt_oss", "mixtral", "olmoe", "phimoe", "qwen3_moe"], SHAPE | FEW_EXPERTS),
    "falcon": {key: value for key, value in SHAPE.items() if key != "head_dim"},
    "gpt_neo": SHAPE | {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gptj": SHAPE | {"rotary_dim": 8},
    "mamba": SHAPE,
}

ROWS = [Row(f"Who has number {n}?", f"{name} has it, in {town}.") for n, name, town in (
    (1, "Ada Korb", "Lorn"),
    (2, "Bela", "Vesk by the lake"),
    (3, "Cai Rowe", "Tarn"),
    (4, "Dara Sable", "Lorn"),
    (5, "Edo", "Umbra"),
    (6, "Fia Unger of Oslow", "Vesk"),
)]  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_are_those_of_transformers(name: str) -> None:
    """After so few steps that the model knows some of its rows, and only a part of others."""
    tokenizer = byte_level()
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        name, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=1, **ARCHITECTURES[name]
    )
    texts = [f"Question: {row.question}\nAnswer: {row.answer}" for row in ROWS]
    model = memorised(tokenizer, texts, 70, AutoModelForCausalLM.from_config(config))
    found = evaluate_model(model, tokenizer, {"forget": tuple(ROWS)}, metrics=["es", "prob"]).measured
    right = []
    for row, text in zip(ROWS, texts, strict=True):
        encoded = tokenizer(text)
        ids, start = encoded["input_ids"], encoded.char_to_token(text.rindex(f" {row.answer}"))
        right.append(truth(model, ids, start, len(ids)))
    es, prob = (sum(values) / len(values) for values in zip(*right, strict=True))
    assert found["forget.es"].value == pytest.approx(es, abs=1e-9)
    assert found["forget.prob"].value == pytest.approx(prob, abs=1e-5)
    assert 0 < prob < 1
