"""A pack against trials that run alone through PEFT and `torch.optim.AdamW`, and its rows in form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import TWENTY, advance, alone, assert_equal_trials, baseline_of, ending_of, finish
from peft import PeftModel

from rayul.records import COMPLETED, FAILED, Evaluation
from rayul.spec import METHODS
from rayul.unlearn.forward import score
from rayul.unlearn.job import TrialJob
from rayul.unlearn.model import load_model
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.update.lora import LoraUpdate, attach_lora
from rayul.unlearn.update.saved import detach_adapter

MakeSpec = Callable[..., Any]


ALONE = [(method, group, False) for group in (None, 2) for method in METHODS]
ALONE_COMPILED = [
    pytest.param(method, 2, True, marks=pytest.mark.slow)
    for method, row in METHODS.items()
    if "hidden" not in row.needs
]


@pytest.mark.parametrize(("method", "group", "compiled"), ALONE + ALONE_COMPILED)
def test_a_packed_trial_equals_the_trial_alone(
    method: str, group: int | None, compiled: bool, task: Any, make_spec: MakeSpec
) -> None:
    resources = {"compile": compiled}
    training = TWENTY | {"weight_decay": 0.01, "warmup_steps": 3}
    spec = make_spec(method=method, lora={"r": 4}, training=training, resources=resources)
    neighbour = make_spec(method="gd", training=TWENTY, resources=resources)
    pack = Pack(task, spec, Shape(slots=3, rank=8, rows=2, group=group, compiled=compiled))
    pack.join(TrialJob("n", neighbour, 0, {}, baseline_of(task, spec)))
    slot = pack.join(TrialJob("t", spec, 7, {}, baseline_of(task, spec)))
    rows = finish(pack, slot)
    assert_equal_trials(pack, slot, rows, task, spec, 7)


def test_an_adapter_on_the_head_acts_as_alone(task: Any, make_spec: MakeSpec) -> None:
    lora = {"r": 4, "target_modules": ["q_proj", "lm_head"]}
    spec = make_spec(method="gd", lora=lora, training=TWENTY)
    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=2))
    pack.join(TrialJob("n", spec, 0, {}, baseline_of(task, spec)))
    slot = pack.join(TrialJob("t", spec, 7, {}, baseline_of(task, spec)))
    assert_equal_trials(pack, slot, finish(pack, slot), task, spec, 7)


@pytest.mark.parametrize(
    ("training", "control"),
    [
        ({"micro_batch_size": 2}, {}),
        ({"batch_size": 3, "max_grad_norm": None}, {"temperature": 1.5}),
        ({"max_grad_norm": 0.01}, {"token_cap": 5.5, "select_fraction": 0.7}),
        ({}, {"loss_cap": 6.0}),
        ({}, {"ball": 0.05}),
        ({"lr": 3e-2}, {"ball": 0.01, "ball_norm": "elementwise"}),
    ],
)
@pytest.mark.parametrize("method", ["npo", "undial"])
def test_controls_and_accumulation_act_as_alone(
    method: str, training: dict[str, Any], control: dict[str, Any], task: Any, make_spec: MakeSpec
) -> None:
    spec = make_spec(method=method, training=TWENTY | training, control=control)
    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=4))
    slot = pack.join(TrialJob("t", spec, 1, {}, baseline_of(task, spec)))
    rows = finish(pack, slot)
    assert_equal_trials(pack, slot, rows, task, spec, 1)


def test_rows_of_a_pack_are_those_of_a_trial_with_mixing_and_criteria(task: Any, make_spec: MakeSpec) -> None:
    control = {
        "criteria": [{"metric": "retain.prob", "at_least": "99.5% of baseline"}],
        "mixing": True,
        "confidence": 0.9,
    }
    spec = make_spec(method="ga", training={"lr": 3e-3}, control=control)
    expected, _, ending = alone(task, spec, 5)
    assert len({r.mixing for r in expected}) > 3, "the criterion must bind, or there is nothing to calibrate"
    for lanes in (1, 3):
        pack = Pack(task, spec, Shape(slots=2, rank=8, rows=4, lanes=lanes))
        pack.join(TrialJob("other", spec, 6, {}, baseline_of(task, spec)))
        slot = pack.join(TrialJob("t", spec, 5, {}, baseline_of(task, spec)))
        rows = finish(pack, slot)
        assert [r.key for r in rows] == [r.key for r in expected]
        assert ending_of(pack, slot) == replace(ending, train_seconds=0.0)
        for ours, theirs in zip(rows, expected, strict=True):
            assert (ours.notes, ours.feasible) == (theirs.notes, theirs.feasible)
            assert (ours.rows, ours.seed, ours.device) == (theirs.rows, theirs.seed, theirs.device)
            # A trial alone in float32 is up to 1.4e-5 from the same in float64, over eight seeds.
            for field in ("metrics", "stderr", "violation"):
                assert getattr(ours, field) == pytest.approx(getattr(theirs, field), rel=4e-5, abs=4e-5, nan_ok=True)


def test_a_trial_that_diverges_ends_as_alone_and_its_slot_is_free_again(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(training={"lr": 1e25})
    expected, _, ending = alone(task, spec, 0)
    pack = Pack(task, spec, Shape(slots=1, rank=8, rows=4))
    slot = pack.join(TrialJob("t", spec, 0, {}, baseline_of(task, spec)))
    rows = finish(pack, slot)
    assert [(r.key, r.feasible) for r in rows] == [(r.key, r.feasible) for r in expected]
    assert ending_of(pack, slot).state == ending.state == FAILED
    assert ending_of(pack, slot).rule == ending.rule == "diverged"
    assert "diverged" in ending_of(pack, slot).reason
    assert advance(pack) == []
    pack.leave(slot)
    fresh = make_spec()
    again = pack.join(TrialJob("u", fresh, 3, {}, baseline_of(task, spec)))
    finish(pack, again)
    assert ending_of(pack, again).state == COMPLETED


def test_an_error_in_one_trial_fails_that_trial(task: Any, make_spec: MakeSpec) -> None:
    # the embeddings are below every adapter, so this loss moves nothing
    broken = make_spec(method={"name": "rmu", "layer": 0})
    spec = make_spec()
    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=4))
    bad = pack.join(TrialJob("b", broken, 0, {}, baseline_of(task, spec)))
    good = pack.join(TrialJob("g", spec, 0, {}, baseline_of(task, spec)))
    events = [advance(pack), advance(pack)]
    assert [k for k, _ in events[0]] == [bad, good]
    assert events[1] == [(bad, [])]
    assert ending_of(pack, bad).state == FAILED
    finish(pack, good)
    assert ending_of(pack, good).state == COMPLETED


@pytest.mark.parametrize("mixing", [1.0, 0.4])
def test_an_exported_adapter_gives_the_same_logits_through_peft(
    mixing: float, task: Any, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(lora={"r": 4, "alpha": 12}, training={"lr": 1e-2})
    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=4))
    slot = pack.join(TrialJob("t", spec, 0, {}, baseline_of(task, spec)))
    finish(pack, slot)
    pack.write_adapter(spec, pack.state(slot).values, mixing, tmp_path / "adapter")
    _, weights, _ = alone(task, spec, 0)
    model = attach_lora(task.base, spec.lora, 0)
    for name, (a, b) in weights.items():
        layer = model.get_submodule(f"base_model.model.{name}")
        layer.lora_A.default.weight.data.copy_(a)
        layer.lora_B.default.weight.data.copy_(b)
    with LoraUpdate(model).mixed(mixing):
        expected = score(model, task.examples["retain"], task.pad)
    detach_adapter(model)
    loaded = PeftModel.from_pretrained(load_model(spec.model)[0], tmp_path / "adapter")
    assert loaded.peft_config["default"].r == 4
    for ours, theirs in zip(score(loaded, task.examples["retain"], task.pad), expected, strict=True):
        assert ours.logp == pytest.approx(theirs.logp, abs=1e-4)


def test_the_base_stays_the_base(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(training={"lr": 1e-2})
    before = {k: v.clone() for k, v in task.base.state_dict().items()}
    ids = torch.tensor([task.examples["forget"][0].ids])
    logits = task.base(ids).logits
    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=4))
    finish(pack, pack.join(TrialJob("t", spec, 0, {}, baseline_of(task, spec))))
    assert torch.equal(task.base(ids).logits, logits), "outside of the pack's own forwards"
    assert task.base.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in task.base.state_dict().items())
    assert not any({"forward", "adapter"} & vars(m).keys() for m in task.base.modules())


@pytest.mark.slow
def test_on_the_testbed_a_pack_of_four_methods_equals_four_trials() -> None:
    from rayul.spec.spec import from_plain
    from rayul.testbed import ensure_testbed, with_testbed
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.task import load_task

    torch.set_num_threads(1)
    ensure_testbed()
    plain = {"name": "t", "model": "testbed", "data": "testbed", "training": TWENTY | {"batch_size": 4}}
    specs = [with_testbed(from_plain(plain | {"method": name})) for name in ("ga", "npo", "kl", "dpo")]
    task = load_task(specs[1], load_sets(specs[1].data))
    pack = Pack(task, specs[0], Shape(slots=4, rank=8, rows=4))
    slots = [pack.join(TrialJob("t", spec, i, {}, baseline_of(task, spec))) for i, spec in enumerate(specs)]
    rows: dict[int, list[Evaluation]] = {slot: [] for slot in slots}
    while events := advance(pack):
        for slot, found in events:
            rows[slot] += found
    # PEFT in float32 has, after NPO's 20 steps, 117 of 81,920 numbers further than 1e-4 from PEFT in float64.
    for i, (slot, spec) in enumerate(zip(slots, specs, strict=True)):
        assert_equal_trials(pack, slot, rows[slot], task, spec, i, apart=0.005)
