"""An adapter on a head that shares its weights with the embedding, against PEFT alone; modules that packs refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import advance
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rayul import spec as specs
from rayul.errors import InputError
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.export import write_merged
from rayul.unlearn.job import TrialJob
from rayul.unlearn.model import load_model
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.pack.whole_input import check_whole_input
from rayul.unlearn.task import Task
from rayul.unlearn.trial import run_trial
from rayul.unlearn.update.lora import LoraUpdate, attach_lora
from rayul.unlearn.update.saved import detach_adapter, standalone

MakeSpec = Callable[..., Any]
LORA = {"r": 4, "alpha": 32, "target_modules": ["q_proj", "lm_head"]}


@pytest.fixture
def tied(task: Any, tmp_path: Path) -> Any:
    """The task on a model whose head is its embedding."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(task.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    task.tokenizer.save_pretrained(tmp_path / "tied")
    base, tokenizer = load_model(specs.Model(path=str(tmp_path / "tied")))
    assert base.lm_head.weight is base.model.embed_tokens.weight
    return Task(base, tokenizer, task.sets, None, None, {})


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_packed_trial_records_what_a_trial_alone_records(lanes: int, tied: Task, make_spec: MakeSpec) -> None:
    training = {"lr": 2e-2, "steps": 6, "evaluate_every": 2}
    spec = make_spec(
        method="gd",
        lora=LORA,
        training=training,
        control={"mixing": True, "criteria": [{"metric": "retain.prob", "at_least": "97% of baseline"}]},
    )
    baseline = evaluate(tied.base, tied, spec.evaluate.metrics, 64).values
    job = TrialJob("t", spec, 5, {}, baseline)
    expected = [row for snapshot in run_trial(tied, job) for row in snapshot.evaluations]
    pack = Pack(tied, spec, Shape(slots=2, rank=4, rows=2, lanes=lanes))
    slot = pack.join(job)
    rows: list[Any] = []
    while not pack.slots[slot].ended:
        rows += [row for k, found in advance(pack) if k == slot for row in found]
    assert [(r.step, r.mixing) for r in rows] == [(r.step, r.mixing) for r in expected]
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-4, abs=1e-5)
    moved = max(abs(row.metrics["retain.prob"] - baseline["retain.prob"]) for row in rows)
    assert moved > 1e-3, "the adapter must do something for this to show anything"


def trained_adapter(tied: Task, make_spec: MakeSpec, folder: Path) -> dict[str, float]:
    """Saves an adapter of LORA with a large update; returns what PEFT measures of it, unmerged."""
    spec = make_spec(method="gd", lora=LORA)
    model = attach_lora(tied.base, spec.lora, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    values: dict[str, float] = evaluate(model, tied, spec.evaluate.metrics, 64).values
    LoraUpdate(model).save(1.0, folder)
    detach_adapter(model)
    return values


def test_a_merged_head_leaves_the_embedding_as_it_is(tied: Task, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(method="gd", lora=LORA)
    expected = trained_adapter(tied, make_spec, tmp_path / "adapter")
    before = tied.base.model.embed_tokens.weight.clone()

    def measured(model: Any) -> dict[str, float]:
        return evaluate(model, tied, spec.evaluate.metrics, 64).values  # type: ignore[no-any-return]

    assert measured(standalone(tied.base, tmp_path / "adapter")) == pytest.approx(expected, rel=1e-4)
    model = specs.Model(path=tied.base.name_or_path)
    write_merged(model, tmp_path / "adapter", tmp_path / "merged", tied.tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert measured(plain) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(plain.model.embed_tokens.weight, before)
    loaded, _ = load_model(specs.Model(path=str(tmp_path / "adapter")))
    assert measured(loaded) == pytest.approx(expected, rel=1e-4)
    unmerged = PeftModel.from_pretrained(load_model(model)[0], tmp_path / "adapter")
    assert measured(unmerged) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(tied.base.model.embed_tokens.weight, before)
    assert tied.base.lm_head.weight is tied.base.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["embed_tokens"], "embed_tokens is an embedding"),
        (["q_proj", "embed_tokens"], "embed_tokens is an embedding"),
        (["q_proj", "v_prj"], "no module is named 'v_prj'"),
        (["nothing"], "nothing"),
    ],
)
def test_targets_that_cannot_be_adapted_are_refused_by_name(
    targets: list[str], said: str, task: Any, make_spec: MakeSpec
) -> None:
    lora = make_spec(method="gd", lora={"target_modules": targets}).lora
    with pytest.raises(InputError, match=said) as caught:
        attach_lora(task.base, lora, seed=0)
    assert "q_proj" in caught.value.hint
    attach_lora(task.base, make_spec(method="gd").lora, seed=0)  # the base is as it was


class Expert(torch.nn.Module):
    """In place of a layer's `o_proj`: a router that sends tokens to two linear experts, or all of them, permuted."""

    def __init__(self, inner: torch.nn.Linear, order: str) -> None:
        super().__init__()
        self.first, self.second, self.order = inner, torch.nn.Linear(inner.in_features, inner.out_features), order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if self.order == "permuted":
            return self.first(flat.flip(0)).flip(0).view(*x.shape[:-1], -1)
        if self.order == "whole":
            return self.first(flat).view(*x.shape[:-1], -1)
        out = torch.empty(len(flat), self.first.out_features)
        half = torch.arange(len(flat)) % 2 == 0
        out[half], out[~half] = self.first(flat[half]), self.second(flat[~half])
        return out.view(*x.shape[:-1], -1)


@pytest.mark.parametrize(("order", "refused"), [("routed", True), ("permuted", True), ("whole", False)])
def test_a_module_that_sees_other_tokens_than_the_batch_is_refused_in_packs(
    order: str, refused: bool, task: Any, make_spec: MakeSpec
) -> None:
    attention = task.base.model.layers[0].self_attn
    attention.o_proj = Expert(attention.o_proj, order)
    spec = make_spec(method="gd", lora={"target_modules": ["q_proj", "first"]})
    if refused:
        with pytest.raises(InputError, match=r"o_proj\.first sees only some of the tokens") as caught:
            Pack(task, spec, Shape(slots=2, rank=8, rows=2))
        assert "resources.packs: false" in caught.value.hint
    else:
        Pack(task, spec, Shape(slots=2, rank=8, rows=2))
    check_whole_input(task.base, ["model.layers.0.self_attn.q_proj", "lm_head"])
