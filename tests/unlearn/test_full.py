"""`update: full`: the loop against plain torch, the base that nobody writes to, mixing, the ball, and what is saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rayul.records import COMPLETED, FAILED
from rayul.spec import METHODS
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.export import REPORTED, largest_difference, score_saved
from rayul.unlearn.finalist import retrain
from rayul.unlearn.forward import score
from rayul.unlearn.job import TrialJob
from rayul.unlearn.model import load_model
from rayul.unlearn.pack import packable
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.tokens import batches, collate
from rayul.unlearn.train import train
from rayul.unlearn.trial import run_trial
from rayul.unlearn.update import Update, attach
from rayul.unlearn.update.saved import loaded, standalone

MakeSpec = Callable[..., Any]


@pytest.fixture
def full(make_spec: MakeSpec) -> MakeSpec:
    return lambda **sections: make_spec(update="full", **sections)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def trained(task: Any, spec: Any, seed: int = 3) -> Update:
    update = attach(task, spec, seed)
    for _ in train(update, task, spec, seed):
        pass
    return update


def changed(task: Any, spec: Any) -> Update:
    """Weights that differ from the base in every tensor, by no rule."""
    update = attach(task, spec, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in update.parameters:
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return update


def answer_logp(model: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of every next token [B, T - 1] and where it is an answer's, by transformers and torch alone."""
    logits = model(input_ids=batch.ids, attention_mask=batch.attention).logits[:, :-1]
    logp = -F.cross_entropy(logits.transpose(1, 2), batch.ids[:, 1:], reduction="none")
    return logp, batch.answer[:, 1:]


@pytest.mark.parametrize("method", ["ga", "npo"])
def test_equals_a_plain_torch_loop_on_a_copy_of_the_model(method: str, task: Any, full: MakeSpec) -> None:
    beta, seed = 0.5, 3
    parameters = {"beta": beta, "retain_weight": 0.0} if method == "npo" else {}
    training = {"lr": 1e-4, "weight_decay": 0.01, "warmup_steps": 3}
    ours = trained(task, full(method={"name": method} | parameters, training=training), seed)

    model = copy.deepcopy(task.base).requires_grad_(True)
    reference = copy.deepcopy(task.base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    order = batches(len(task.examples["forget"]), 4, torch.Generator().manual_seed(seed))
    for step in range(1, 7):
        optimizer.param_groups[0]["lr"] = 1e-4 * min(1, step / 3)
        batch = collate([task.examples["forget"][i] for i in next(order)], task.pad, task.device)
        logp, answer = answer_logp(model, batch)
        if method == "ga":
            loss = ((logp * answer).sum(1) / answer.sum(1)).mean()
        else:
            with torch.no_grad():
                before, _ = answer_logp(reference, batch)
            ratio = ((logp - before) * answer).sum(1)
            loss = -(2 / beta) * F.logsigmoid(-beta * ratio).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    before, theirs = weights(task.base), weights(model)
    for name, p in weights(ours.model).items():
        assert (p - before[name]).abs().max() > 1e-5, name
        assert torch.allclose(p, theirs[name], rtol=0, atol=1e-6), name
    ours.detach()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_the_copy_and_leaves_the_base_as_it_was(name: str, task: Any, full: MakeSpec) -> None:
    before = {k: v.clone() for k, v in task.base.state_dict().items()}
    method = {"name": name, "gradient": "gru" if name == "gd" else "plain"}
    control = {"temperature": 1.5, "token_cap": 30.0, "ball": 0.5}
    training = {"gradient_checkpointing": name == "kl", "micro_batch_size": 2 if name == "npo" else None}
    update = trained(task, full(method=method, control=control, training=training))
    assert all(torch.equal(value, before[key]) for key, value in task.base.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in task.base.parameters())
    moved = [not torch.equal(p, before[key]) for key, p in update.model.named_parameters()]
    # What reads a middle layer leaves those above it without a gradient.
    assert any(moved) if "hidden" in METHODS[name].needs else all(moved)
    assert all(torch.isfinite(p).all() for p in update.parameters)
    ours = {p.untyped_storage().data_ptr() for p in update.parameters}
    assert not ours & {p.untyped_storage().data_ptr() for p in task.base.parameters()}
    update.detach()


def test_a_process_copies_once_and_begins_each_trial_anew(
    task: Any, full: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Any] = []
    real = copy.deepcopy

    def counted(value: Any, *rest: Any) -> Any:
        copies.extend([value] if value is task.base else [])
        return real(value, *rest)

    monkeypatch.setattr(copy, "deepcopy", counted)
    spec, baseline = full(), evaluate(task.base, task, ("es", "prob"), 64).values

    def rows(lr: float) -> list[Any]:
        snapshots = list(run_trial(task, TrialJob("0", full(training={"lr": lr}), 1, {}, baseline)))
        assert snapshots[-1].ending is not None
        state = snapshots[-1].ending.state
        return [*((e.step, e.metrics) for s in snapshots for e in s.evaluations), state]

    first = rows(1e-3)
    assert (first[-2][0], first[-1]) == (6, COMPLETED)
    assert rows(1e25)[-1] == FAILED, "a trial that diverged leaves weights that are no numbers"
    assert rows(1e-3) == first
    assert copies == [task.base]
    one, two = attach(task, spec, 0), attach(task, spec, 0)
    assert one.model is not two.model, "two at a time have a copy each"
    assert copies == [task.base] * 2
    for update in (one, two):
        assert evaluate(update.model, task, ("es", "prob"), 64).values == baseline
        update.detach()
    assert all(p.grad is None for p in one.parameters)


# --- mixing --------------------------------------------------------------------------------------------------------


def test_mixing_is_exact_at_its_ends_and_leaves_no_trace(task: Any, full: MakeSpec) -> None:
    update = changed(task, full())
    before, after = weights(task.base), weights(update.model)
    baseline, unlearned = (score(m, task.examples["forget"], task.pad) for m in (task.base, update.model))
    for a in (1.0, 0.3, 0.75, 0.0, 0.1, 1.0):
        with update.mixed(a):
            for name, p in update.model.named_parameters():
                ends = before[name].double(), after[name].double()
                error = (p.detach() - ((1 - a) * ends[0] + a * ends[1])).abs()
                assert (error <= 1e-7 * (ends[0].abs() + ends[1].abs())).all(), (a, name)
            found = score(update.model, task.examples["forget"], task.pad)
        end = {0.0: baseline, 1.0: unlearned}.get(a)
        if end is not None:
            assert all((one.logp == other.logp).all() for one, other in zip(found, end, strict=True)), a
        assert all(torch.equal(p, after[name]) for name, p in update.model.named_parameters()), a
    with pytest.raises(RuntimeError, match="on purpose"), update.mixed(0.5):
        raise RuntimeError("on purpose")
    assert all(torch.equal(p, after[name]) for name, p in update.model.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in task.base.named_parameters())
    update.detach()


def test_evaluating_mixtures_on_the_way_does_not_move_the_training(task: Any, full: MakeSpec) -> None:
    spec = full(training={"evaluate_every": 1})
    plain = trained(task, spec)
    expected = weights(plain.model)
    plain.detach()
    update = attach(task, spec, 3)
    for step in train(update, task, spec, 3):
        for a in (0.9, 0.5, 0.1) if step else ():
            with update.mixed(a):
                evaluate(update.model, task, ("prob",), 64)
    assert all(torch.equal(p, expected[name]) for name, p in update.model.named_parameters())
    update.detach()


# --- the ball ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["frobenius", "elementwise"])
def test_the_ball_is_the_nearest_change_within_the_radius(norm: str, task: Any, full: MakeSpec) -> None:
    update = changed(task, full())
    before, after = weights(task.base), weights(update.model)
    radius = 0.3 if norm == "frobenius" else 0.01
    update.project_into_ball(radius, norm)
    inside = 0
    for name, p in update.model.named_parameters():
        change = after[name] - before[name]
        if norm == "frobenius":
            size = float(change.double().pow(2).sum().sqrt())
            inside += size <= radius
            expected = change * min(1.0, radius / size)
        else:
            expected = change.clip(-radius, radius)
        assert torch.allclose(p - before[name], expected, rtol=0, atol=1e-6), name
    assert 0 < inside < len(before) or norm == "elementwise"
    update.detach()


def test_training_stays_within_the_ball(task: Any, full: MakeSpec) -> None:
    radius = 1e-3
    update = trained(task, full(control={"ball": radius}, training={"lr": 1e-2}))
    sizes = [float((p.detach() - b).norm()) for p, b in zip(update.parameters, task.base.parameters(), strict=True)]
    assert max(sizes) == pytest.approx(radius, rel=1e-3)
    update.detach()


# --- what is saved -------------------------------------------------------------------------------------------------


def as_saved(folder: Path, task: Any, name: str = "forget") -> Any:
    """Scores of what any Hugging Face program loads."""
    from transformers import AutoModelForCausalLM

    return score(AutoModelForCausalLM.from_pretrained(folder).eval(), task.examples[name], task.pad)


@pytest.mark.parametrize("mixing", [1.0, 0.4])
def test_a_saved_point_is_a_model_that_scores_as_it_was_measured(
    mixing: float, task: Any, full: MakeSpec, tmp_path: Path
) -> None:
    update = changed(task, full())
    with update.mixed(mixing):
        expected = score(update.model, task.examples["forget"], task.pad)
    kept = weights(update.model)
    update.save(mixing, tmp_path / "point")
    assert all(torch.equal(p, kept[name]) for name, p in update.model.named_parameters())
    update.detach()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in (tmp_path / "point").iterdir()}
    assert not list((tmp_path / "point").glob("*.bin"))
    assert [p.name for p in tmp_path.iterdir()] == ["point"]
    ways = {"transformers": as_saved(tmp_path / "point", task)}
    with loaded(task.base, tmp_path / "point") as model:
        ways["loaded"] = score(model, task.examples["forget"], task.pad)
    ways["standalone"] = score(standalone(task.base, tmp_path / "point"), task.examples["forget"], task.pad)
    model, tokenizer = load_model(full(model=str(tmp_path / "point")).model)
    ways["a spec's model"] = score(model, task.examples["forget"], task.pad)
    assert tokenizer("a b").input_ids == task.tokenizer("a b").input_ids
    for name, found in ways.items():
        assert all((a.logp == b.logp).all() for a, b in zip(found, expected, strict=True)), name
    before = score(task.base, task.examples["forget"], task.pad)
    assert all((a.logp != b.logp).any() for a, b in zip(before, expected, strict=True))


def test_a_base_in_bfloat16_is_trained_and_saved_in_float32(
    make_spec: MakeSpec, full: MakeSpec, sets: Any, tmp_path: Path
) -> None:
    """A step of 1e-6 is below the last digit of most weights in bfloat16."""
    section = {"path": make_spec().model.path, "dtype": "bfloat16"}
    spec = full(model=section, method="npo", training={"lr": 1e-6})
    task: Task = load_task(spec, sets)
    before = weights(task.base)
    update = trained(task, spec)
    assert {p.dtype for p in update.parameters} == {torch.float32}
    assert all(torch.equal(p, before[name]) and p.dtype == torch.bfloat16 for name, p in task.base.named_parameters())
    moved = [(p != before[n].float()).float().mean() for n, p in update.model.named_parameters() if "proj" in n]
    assert min(moved) > 0.9
    assert sum(bool((p.bfloat16() != before[n]).any()) for n, p in update.model.named_parameters()) < len(before)
    with update.mixed(0.5):
        expected = score(update.model, task.examples["forget"], task.pad)
    update.save(0.5, tmp_path / "point")
    update.detach()
    assert all((a.logp == b.logp).all() for a, b in zip(as_saved(tmp_path / "point", task), expected, strict=True))


def test_tied_weights_train_as_one_and_stay_tied(tmp_path: Path, full: MakeSpec, sets: Any, tiny_folder: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny_folder, tie_word_embeddings=True)
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "tied")
    spec = full(model=str(tmp_path / "tied"))
    task = load_task(spec, sets)
    update = trained(task, spec)
    assert update.model.lm_head.weight is update.model.model.embed_tokens.weight
    with update.mixed(0.5):
        assert update.model.lm_head.weight is update.model.model.embed_tokens.weight
        expected = score(update.model, task.examples["forget"], task.pad)
    update.save(0.5, tmp_path / "point")
    update.detach()
    assert all((a.logp == b.logp).all() for a, b in zip(as_saved(tmp_path / "point", task), expected, strict=True))


def test_a_trial_is_calibrated_saved_and_trained_again_as_with_an_adapter(
    task: Any, full: MakeSpec, tmp_path: Path
) -> None:
    """Every row of a trial with mixing on, from its own folder; and a finalist at the mixing that its criteria ask."""
    objectives = {"forget.prob": "minimize", "retain.prob": "maximize"}
    spec = full(training={"lr": 3e-3}, control={"tau": 0.95, "mixing": True}, objectives=objectives)
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    mixings = set()
    for snapshot in run_trial(task, TrialJob("0000", spec, 0, {}, baseline)):
        for e in snapshot.evaluations if snapshot.evaluations[0].step else ():
            assert snapshot.update is not None
            snapshot.update.save(e.mixing, tmp_path / f"{e.step}-{e.mixing}")
            measured = score_saved(task, spec, tmp_path / f"{e.step}-{e.mixing}")
            assert largest_difference(measured, e.metrics) == 0
            assert {key.split(".")[0] for key in measured} == set(REPORTED)
            mixings.add(e.mixing)
    assert len(mixings) > 3
    used = retrain(task, TrialJob("finalist", spec, 0, {}, baseline), 6, None, None, tmp_path / "finalist")
    assert used == e.mixing
    found = evaluate(standalone(task.base, tmp_path / "finalist"), task, spec.evaluate.metrics, 64).values
    assert found == e.metrics


# --- what it is not for --------------------------------------------------------------------------------------------


def test_packs_are_for_lora(make_spec: MakeSpec, full: MakeSpec) -> None:
    from rayul.sweep.packs.packing import unpackable

    spec = full()
    assert packable(spec, spec) == unpackable(spec) == "update: full: each trial has its own weights"
    assert packable(make_spec(), make_spec()) is unpackable(make_spec()) is None
    assert "update: full" in str(packable(make_spec(), spec))
