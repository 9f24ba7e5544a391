"""What adapters are put on, in models of several architectures, and what is refused before any trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rayul.errors import InputError
from rayul.records import BASELINE
from rayul.spec import Lora
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.reference import reference_row
from rayul.unlearn.cost import measure_cost
from rayul.unlearn.update.lora import attach_lora, check_targets
from rayul.unlearn.update.modules import adapted_modules, untouched_weights
from rayul.unlearn.update.saved import detach_adapter

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def model_of(name: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **SHAPE | more)).eval()


def test_every_adapter_is_counted_and_every_other_matrix_named() -> None:
    model = attach_lora(model_of("llama"), Lora(r=3), seed=0)
    adapted = {one.name: (one.number, one.parameters) for one in adapted_modules(model)}
    assert adapted["q_proj"] == (2, 2 * 3 * (32 + 32))
    assert adapted["k_proj"] == (2, 2 * 3 * (32 + 16))
    assert adapted["down_proj"] == (2, 2 * 3 * (64 + 32))
    assert sum(parameters for _, parameters in adapted.values()) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert {one.name: one.parameters for one in untouched_weights(model)} == {"embed_tokens": 1600, "lm_head": 1600}


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "qwen3_moe", "gpt_oss", "granitemoe", "gpt2", "jamba"])
def test_adapted_and_untouched_weights_are_all_matrices_of_a_model(name: str) -> None:
    base = model_of(name, **EXPERTS)
    matrices = sum(w.numel() for w in base.parameters() if w.ndim > 1)
    model = attach_lora(base, Lora(r=2), seed=0)
    layers = [m for m in model.modules() if hasattr(m, "get_base_layer") and hasattr(m, "lora_A")]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(one.parameters for one in adapted_modules(model)) == trained
    assert sum(one.number for one in adapted_modules(model)) == len(layers)
    adapted = {
        id(w): w.numel()
        for m in layers
        for key, w in m.get_base_layer().named_parameters()
        if w.ndim > 1 and "lora_" not in key
    }
    assert sum(one.parameters for one in untouched_weights(model)) + sum(adapted.values()) == matrices


def test_experts_without_an_adapter_are_known_as_such() -> None:
    model = attach_lora(model_of("gpt_oss", **EXPERTS), Lora(), seed=0)
    assert {one.name for one in untouched_weights(model) if one.routed} == {
        "experts.gate_up_proj",
        "experts.down_proj",
    }


@pytest.mark.parametrize("name", ["phimoe", "llama4_text"])
def test_a_router_that_no_adapter_can_be_added_to_is_refused_with_the_others_named(name: str) -> None:
    base = model_of(name, **EXPERTS, intermediate_size_mlp=64)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    with pytest.raises(InputError, match=r"lora\.target_modules: router returns more than a tensor") as refused:
        check_targets(base, Lora())
    assert base.state_dict().keys() == before.keys(), "the base is left without an adapter"
    named = refused.value.hint.partition("[")[2].rstrip("]").split(", ")
    model = attach_lora(base, Lora(target_modules=tuple(named)), seed=0)
    ids = torch.arange(6).view(1, 6)
    assert torch.equal(model(input_ids=ids).logits, detach_adapter(model)(input_ids=ids).logits)


@pytest.fixture
def spec_of(make_spec: Callable[..., Any], tiny_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """spec_of("gpt2") -> a spec on a small model of that architecture, with the tiny model's tokenizer."""

    def make(name: str) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "n_positions": 256}
        model_of(name, **EXPERTS, **sizes, intermediate_size_mlp=64).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return make_spec(model=str(tmp_path / name))

    return make


@pytest.mark.parametrize("name", ["mamba", "falcon_mamba", "falcon_h1", "nemotron_h"])
def test_what_peft_refuses_of_mamba_is_not_offered_again(name: str) -> None:
    with pytest.raises(InputError, match="'out_proj' is incompatible") as refused:
        attach_lora(model_of(name, **EXPERTS), Lora(), seed=0)
    named = refused.value.hint.removeprefix("linear modules of this model: ").split(", ")
    model = attach_lora(model_of(name, **EXPERTS), Lora(target_modules=tuple(named)), seed=0)
    assert {one.name for one in adapted_modules(model)} == set(named)


@pytest.mark.parametrize(("name", "why"), [("gpt2", "is a Conv1D"), ("mixtral", "adapts linear modules only")])
def test_the_probe_of_a_plan_refuses_what_a_pack_would(
    name: str, why: str, spec_of: Callable[..., Any], sets: Any
) -> None:
    spec = spec_of(name)
    with pytest.raises(InputError, match=why) as refused:
        measure_cost(spec, sets, packed=True)
    assert "trials_per_gpu: 1" in refused.value.hint
    assert sum(one.parameters for one in measure_cost(spec, sets).adapted) > 0


def test_a_model_that_no_trial_could_train_is_refused_by_whoever_measures_its_baseline(
    spec_of: Callable[..., Any], sets: Any, tmp_path: Path
) -> None:
    disk = DriverDisk(tmp_path, tmp_path / ".mark", "", {})
    with pytest.raises(InputError, match="router returns more than a tensor"):
        reference_row(spec_of("phimoe"), sets, disk, BASELINE)
    assert reference_row(spec_of("gpt_oss"), sets, disk, BASELINE).metrics
