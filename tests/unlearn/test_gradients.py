"""Every gradient rule, alone and in packs, against its formula in float64: the gradient of a step, and two steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from float64 import SEED, SHAPES, Reference, alone, assert_near, packed
from torch import Tensor

from rayul.spec import GRADIENTS
from rayul.unlearn.gradients import RULES
from rayul.unlearn.gradients.alone import leave_gradient
from rayul.unlearn.gradients.hidden import Room
from rayul.unlearn.order import row_order
from rayul.unlearn.train import accumulate_gradient
from rayul.unlearn.update.lora import LoraUpdate, attach_lora

MakeSpec = Callable[..., Any]
W, LR = 0.2, 1e-3
SETTINGS: dict[str, dict[str, float]] = {
    "plain": {},
    "gru": {"gru_gamma": 0.6},
    "sam": {"sam_rho": 0.08},
    "mask": {"mask_gamma": 0.3},
    "adversary": {"adversary_lr": 0.2, "adversary_every": 2},
}
Grads = list[Tensor]


def dot(a: Grads, b: Grads) -> float:
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


def norm(a: Grads) -> float:
    return dot(a, a) ** 0.5


class Expected:
    """The rules again, on lists of float64 matrices; the loss is that of gd with weight W."""

    def __init__(self, reference: Reference, rule: str) -> None:
        self.reference, self.rule, self.settings = reference, rule, SETTINGS[rule]
        self.average: Grads | None = None
        self.copy: Grads = []

    def of(self, name: str, rows: Sequence[int], at: Grads | None = None) -> Grads:
        leaves = self.reference.leaves if at is None else [t.detach().requires_grad_() for t in at]
        return list(torch.autograd.grad(self.reference.nll(name, rows, theta=leaves), leaves))

    def averaged(self, fresh: Grads, gamma: float) -> Grads:
        old = self.average or fresh
        self.average = [gamma * n + (1 - gamma) * o for n, o in zip(fresh, old, strict=True)]
        return self.average

    def gradient(self, step: int, forget: Sequence[int], retain: Sequence[int]) -> Grads:
        f = [-g for g in self.of("forget", forget)]
        r = self.of("retain_train", retain)
        if self.rule == "plain":
            return [a + W * b for a, b in zip(f, r, strict=True)]
        if self.rule == "gru":
            u = [a + W * b for a, b in zip(f, r, strict=True)]
            r = self.averaged(r, self.settings["gru_gamma"])
            back = min(0.0, dot(u, r)) / dot(r, r)
            return [a - back * b for a, b in zip(u, r, strict=True)]
        theta = [t.detach() for t in self.reference.leaves]
        if self.rule == "sam":
            at = [t + self.settings["sam_rho"] * g / norm(f) for t, g in zip(theta, f, strict=True)]
            return [-a + W * b for a, b in zip(self.of("forget", forget, at), r, strict=True)]
        if self.rule == "mask":
            average = self.averaged(r, self.settings["mask_gamma"])
            kept = [torch.where(a * b > 0, a, torch.zeros_like(a)) for a, b in zip(f, average, strict=True)]
            return [a * norm(f) / norm(kept) + W * b for a, b in zip(kept, r, strict=True)]
        assert self.rule == "adversary"
        if (step - 1) % self.settings["adversary_every"] == 0:
            self.copy = theta
        lr = self.settings["adversary_lr"]
        self.copy = [c - lr * g for c, g in zip(self.copy, self.of("forget", forget, self.copy), strict=True)]
        return [-a + W * b for a, b in zip(self.of("forget", forget, self.copy), r, strict=True)]


def spec_of(rule: str, make_spec: MakeSpec, steps: int = 2) -> Any:
    method = {"name": "gd", "retain_weight": W, "gradient": rule, **SETTINGS[rule]}
    training = {"lr": LR, "steps": steps, "evaluate_every": steps, "max_grad_norm": None}
    return make_spec(method=method, training=training, lora={"r": 4, "alpha": 8})


def test_every_rule_of_the_spec_has_a_function_and_a_formula() -> None:
    assert set(GRADIENTS) == set(RULES) == {*SETTINGS, "latent"}, "latent is in test_latent.py"


@pytest.mark.parametrize("rule", SETTINGS)
def test_the_gradient_of_a_step(rule: str, task: Any, make_spec: MakeSpec) -> None:
    spec = spec_of(rule, make_spec)
    reference = Reference(task, spec)
    expected = Expected(reference, rule)
    forget, retain = next(row_order(task, spec, SEED))
    update = LoraUpdate(attach_lora(task.base, spec.lora, SEED))
    with torch.no_grad():
        for p, t in zip(update.parameters, reference.leaves, strict=True):
            p.copy_(t)
    before = [p.detach().clone() for p in update.parameters]
    memory: dict[str, Tensor] = {}
    for step in (1, 2):
        terms = leave_gradient(
            update.parameters,
            spec.method,
            memory,
            step,
            lambda of, held: accumulate_gradient(update, task, spec, forget, retain, of=of, held=held),
            partial(Room.of, task, spec, forget),
        )
        wanted = expected.gradient(step, forget, retain)
        ours = torch.cat([p.grad.flatten() for p in update.parameters if p.grad is not None]).double()
        theirs = torch.cat([g.flatten() for g in wanted])
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-4
        f = -reference.nll("forget", forget, theta=expected.copy if rule == "adversary" else None)
        assert terms["forget"] == pytest.approx(f.item(), rel=1e-4)
        assert terms["retain"] == pytest.approx(W * reference.nll("retain_train", retain).item(), rel=1e-4)
        for p, was in zip(update.parameters, before, strict=True):
            assert torch.equal(p, was), "a rule leaves the weights where they were"
            p.grad = None
    update.detach()


@pytest.mark.parametrize("rule", SETTINGS)
def test_two_steps_alone_and_in_packs(rule: str, task: Any, make_spec: MakeSpec) -> None:
    spec = spec_of(rule, make_spec)
    reference = Reference(task, spec)
    expected = Expected(reference, rule)
    optimizer = torch.optim.AdamW(reference.leaves, lr=LR, weight_decay=0.0)
    for step, (forget, retain) in enumerate(islice(row_order(task, spec, SEED), 2), 1):
        for p, g in zip(reference.leaves, expected.gradient(step, forget, retain), strict=True):
            p.grad = g
        optimizer.step()
    assert_near(alone(task, spec), reference.theta, LR)
    for shape in SHAPES:
        assert_near(packed(task, spec, shape), reference.theta, LR)


@pytest.mark.parametrize("rule", [rule for rule in SETTINGS if rule != "plain"])
def test_a_rule_is_not_the_plain_gradient(rule: str, task: Any, make_spec: MakeSpec) -> None:
    plain, other = alone(task, spec_of("plain", make_spec)), alone(task, spec_of(rule, make_spec))
    assert any((plain[k] - other[k]).abs().max() > LR / 2 for k in plain)
