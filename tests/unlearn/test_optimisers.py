"""Optimisers and schedules, alone and in packs, against their formulas in float64; neighbours and restored trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from float64 import SEED, SHAPES, Reference, alone, assert_near, packed
from packed import advance, assert_same, finish, with_nobody
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.optimisers import learning_rate, optimisers
from rayul.unlearn.order import row_order
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.pack.slot import SlotState
from rayul.unlearn.update import attach

MakeSpec = Callable[..., Any]
LR, DECAY = 1e-3, 0.1
OPTIMISERS = ("adamw", "sign", "muon")


def adamw(theta: Tensor, state: dict[str, Tensor], g: Tensor, lr: float, step: int) -> Tensor:
    m = state["m"] = 0.9 * state.get("m", torch.zeros_like(g)) + 0.1 * g
    v = state["v"] = 0.999 * state.get("v", torch.zeros_like(g)) + 0.001 * g * g
    return (1 - lr * DECAY) * theta - lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)


def sign(theta: Tensor, state: dict[str, Tensor], g: Tensor, lr: float, step: int) -> Tensor:
    return (1 - lr * DECAY) * theta - lr * g.sign()


def muon(theta: Tensor, state: dict[str, Tensor], g: Tensor, lr: float, step: int) -> Tensor:
    """arXiv 2502.16982: Nesterov momentum 0.95, five quintic Newton-Schulz iterations on the whole SVD."""
    buffer = state["b"] = 0.95 * state.get("b", torch.zeros_like(g)) + 0.05 * g
    u, s, v = torch.linalg.svd(0.05 * g + 0.95 * buffer, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (1 - lr * DECAY) * theta - lr * 0.2 * math.sqrt(max(g.shape)) * (u * s @ v)


FORMULAS = {"adamw": adamw, "sign": sign, "muon": muon}


def spec_of(optimizer: str, make_spec: MakeSpec, **training: Any) -> Any:
    settings = {"lr": LR, "steps": 2, "evaluate_every": 2, "max_grad_norm": None, "weight_decay": DECAY} | training
    lora = {"r": 4, "alpha": 8}
    return make_spec(method="gd", training={**settings, "optimizer": optimizer}, lora=lora)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_two_steps_alone_and_in_packs(optimizer: str, schedule: str, task: Any, make_spec: MakeSpec) -> None:
    spec = spec_of(optimizer, make_spec, schedule=schedule)
    reference = Reference(task, spec)
    states: list[dict[str, Tensor]] = [{} for _ in reference.leaves]
    rates = {"constant": (LR, LR), "cosine": (LR, LR / 2)}[schedule]
    for step, (forget, retain) in enumerate(islice(row_order(task, spec, SEED), 2), 1):
        loss = -reference.nll("forget", forget) + reference.nll("retain_train", retain)
        for p, state, g in zip(reference.leaves, states, torch.autograd.grad(loss, reference.leaves), strict=True):
            p.data = FORMULAS[optimizer](p.detach(), state, g, rates[step - 1], step)
    found = [alone(task, spec), *(packed(task, spec, shape) for shape in SHAPES)]
    if optimizer != "muon":
        for ours in found:
            assert_near(ours, reference.theta, LR)
        return
    begin = Reference(task, spec).theta
    for ours in found:  # torch multiplies in bfloat16
        for name, theirs in reference.theta.items():
            moved = theirs.detach() - begin[name].detach()
            assert (ours[name].double() - theirs.detach()).norm() < 0.05 * moved.norm(), name


@pytest.mark.parametrize("optimizer", ["sign", "muon"])
@pytest.mark.parametrize("shape", SHAPES, ids=["all slots", "groups"])
def test_independent_of_neighbours_and_restored(
    optimizer: str, shape: Shape, task: Any, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = spec_of(optimizer, make_spec, steps=4, evaluate_every=1, schedule="linear")
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    expected = with_nobody(task, spec, baseline, shape)
    pack = Pack(task, spec, shape)
    pack.join(TrialJob("a", make_spec(method="npo", training={"optimizer": "muon", "steps": 9}), 1, {}, baseline))
    pack.join(TrialJob("b", make_spec(method="gd", training={"optimizer": "adamw", "lr": 1e25}), 2, {}, baseline))
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    before = []
    while pack.slots[slot].reported < 2:
        before += [row for k, found in advance(pack) if k == slot for row in found]
    pack.state(slot).save(tmp_path / "state")
    pack = Pack(task, spec, shape)
    pack.join(TrialJob("a", make_spec(method="ga", training={"optimizer": "sign"}), 1, {}, baseline))
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline), SlotState.load(tmp_path / "state"))
    rows = before + finish(pack, slot)
    assert [(r.step, r.metrics) for r in rows] == [(r.step, r.metrics) for r in expected[0]]
    if optimizer == "muon":
        assert_same(expected, (rows, pack.state(slot)))
    assert torch.equal(pack.state(slot).values, expected[1].values)


@pytest.mark.parametrize("warmup", [0, 3])
def test_the_schedules_are_those_of_transformers(warmup: int, make_spec: MakeSpec) -> None:
    steps = 10
    for name, scheduler in (("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)):
        training = spec_of("adamw", make_spec, schedule=name, warmup_steps=warmup, steps=steps).training
        theirs = scheduler(torch.optim.SGD([torch.zeros(1)], lr=LR), warmup, steps)
        for step in range(1, steps + 1):
            # Theirs begins the warm-up at 0, ours at 1 / warmup.
            expected = LR * step / warmup if step <= warmup else theirs.get_last_lr()[0]
            assert learning_rate(training, step) == pytest.approx(expected)
            theirs.optimizer.step()
            theirs.step()
    training = spec_of("adamw", make_spec, warmup_steps=warmup, steps=steps).training
    assert learning_rate(training, steps) == LR


def test_muon_leaves_what_is_no_matrix_to_adamw(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(method="ga", update="full", training={"optimizer": "muon", "lr": 1e-3})
    update = attach(task, spec, 0)
    muon, rest = optimisers(spec.training, update.parameters)
    assert {p.ndim for group in muon.param_groups for p in group["params"]} == {2}
    assert {p.ndim for group in rest.param_groups for p in group["params"]} == {1}
    assert isinstance(rest, torch.optim.AdamW)
    update.detach()
