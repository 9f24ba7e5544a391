"""Packs on small models of many architectures: a trial is what it is alone, or the model is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import assert_equal_trials, baseline_of, finish
from test_modules import EXPERTS, SHAPE
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rayul.errors import InputError
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.task import load_task

pytestmark = pytest.mark.slow

PACKED = """
    arcee apertus bitnet bloom cohere cohere2 diffllama ernie4_5 exaone4 falcon gemma gemma2 gemma3_text glm glm4
    gpt_neox granite helium llama mistral mpt nemotron olmo olmo2 olmo3 opt persimmon phi phi3 qwen2 qwen3 seed_oss
    smollm3 stablelm starcoder2 xglm
"""
REFUSED = ["gpt2", "mixtral", "olmoe", "qwen3_moe", "phimoe"]


@pytest.fixture
def loaded(make_spec: Callable[..., Any], tiny_folder: Path, sets: Any, tmp_path: Path) -> Callable[[str], Any]:
    """loaded("phi3") -> the task of a small model of that architecture, and a spec on it."""

    def load(name: str) -> tuple[Any, Any]:
        tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
        shape = SHAPE | {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "n_positions": 256}
        if name == "falcon":
            del shape["head_dim"]
        torch.manual_seed(0)
        more = EXPERTS if name in REFUSED else {}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **shape | more))
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        training = {"lr": 1e-3, "steps": 4, "evaluate_every": 2, "batch_size": 4}
        spec = make_spec(model=str(tmp_path), method="gd", lora={"r": 4}, training=training)
        return load_task(spec, sets), spec

    return load


@pytest.mark.parametrize("name", PACKED.split())
def test_a_packed_trial_equals_the_trial_alone(name: str, loaded: Callable[[str], Any]) -> None:
    task, spec = loaded(name)
    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=2))
    pack.join(TrialJob("n", spec, 0, {}, baseline_of(task, spec)))
    slot = pack.join(TrialJob("t", spec, 7, {}, baseline_of(task, spec)))
    rows = finish(pack, slot)
    # OPT's ReLU: an input within rounding of its kink gives another gradient (3 of 51,712 numbers).
    assert_equal_trials(pack, slot, rows, task, spec, 7, apart=1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_pack_cannot_train_is_refused_and_the_base_is_left_alone(
    name: str, loaded: Callable[[str], Any]
) -> None:
    task, spec = loaded(name)
    before = baseline_of(task, spec)
    with pytest.raises(InputError, match=r"lora\.target_modules"):
        Pack(task, spec, Shape(slots=2, rank=8, rows=2))
    assert baseline_of(task, spec) == before
