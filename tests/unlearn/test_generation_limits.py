"""Generation ends where the model's files say: at any of their end tokens, and at the last position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers_by_kind import byte_level
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoConfig, GPTNeoForCausalLM

from rayul.spec import Model
from rayul.unlearn.data import Row
from rayul.unlearn.generation import generate
from rayul.unlearn.model import load_model
from rayul.unlearn.probe import Generation, Probe
from rayul.unlearn.tokens import encode

POSITIONS = 24


def learned_positions(kind: str) -> Any:
    """A model with random weights that fails beyond its last position."""
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.4}
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_positions=POSITIONS, n_embd=16, n_layer=1, n_head=2, **shape)).eval()
    layers = {"num_layers": 1, "attention_types": [[["global"], 1]], "num_heads": 2, "hidden_size": 16}
    return GPTNeoForCausalLM(GPTNeoConfig(max_position_embeddings=POSITIONS, **layers, **shape)).eval()


def greedy(model: Any, prompt: Sequence[int], limit: int) -> list[int]:
    """Argmax by argmax, one prompt alone, until the model's last position."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < min(len(prompt) + limit, model.config.max_position_embeddings):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["gpt2", "gpt neo"])
def test_no_text_runs_beyond_the_last_position_and_each_is_what_it_is_alone(kind: str) -> None:
    model = learned_positions(kind)
    generator = torch.Generator().manual_seed(1)
    lengths = [3, 23, 20, 7, 24, 12, 5, 18]
    prompts = [torch.randint(0, 40, (n,), generator=generator).tolist() for n in lengths]
    for limit in (2, 10, 200):
        found = generate(model, prompts, [limit] * len(prompts), frozenset(), 0, batch_size=4)
        assert found == [greedy(model, prompt, limit) for prompt in prompts]
        assert [len(text) for text in found] == [min(limit, POSITIONS - n) for n in lengths]


@pytest.mark.parametrize("named_in", ["generation_config", "config"])
def test_every_end_token_of_the_model_ends_an_answer(named_in: str, tmp_path: Path) -> None:
    """Several end tokens, as chat models have them; none of them is the tokenizer's."""
    tokenizer = byte_level()
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=POSITIONS * 4, n_embd=16, n_layer=1, n_head=2)
    ).eval()
    row = Row("Who?", "Ada")
    example = encode(tokenizer, None, row.question, row.answer)
    prompt = list(example.ids[: example.start])
    with torch.no_grad():
        model.transformer.wpe.weight.normal_(std=1.0, generator=torch.Generator().manual_seed(2))
    text = greedy(model, prompt, 12)
    ends = [text[5], len(tokenizer) - 1]
    assert text.index(ends[0]) > 0
    getattr(model, named_in).eos_token_id = ends
    if named_in == "config":
        model.generation_config.eos_token_id = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, tokenizer = load_model(Model(path=str(tmp_path)))
    assert Probe(loaded, tokenizer, [row], asked=Generation(12)).generated == [text[: text.index(ends[0])]]
