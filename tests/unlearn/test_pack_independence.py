"""At equal shapes a packed trial is the same to the bit, whoever its neighbours are, wherever and whenever it joins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from packed import advance, assert_same, finish, with_nobody

from rayul.records import FAILED
from rayul.spec import METHODS
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape

MakeSpec = Callable[..., Any]
SHAPES = [Shape(slots=4, rank=8, rows=2), Shape(slots=4, rank=8, rows=2, group=3)]
VARIANTS: dict[str, dict[str, Any]] = {
    "loss cap": {"control": {"loss_cap": 6.0}},
    "clip": {"training": {"max_grad_norm": 0.01}},
    "retain weight": {"method": {"retain_weight": 0.3}},
    "mixed ranks": {"lora": {"r": 3, "alpha": 5}},
    "padding": {"training": {"batch_size": 3}},
    "accumulation": {"training": {"micro_batch_size": 2}},
}
CASES = [(m, v) for m in METHODS for v in VARIANTS if v != "retain weight" or "retain_weight" in METHODS[m].parameters]
CASES_BY_SHAPE = [pytest.param(m, v, shape, id=f"{m}-{v}-{shape.group}") for shape in SHAPES for m, v in CASES]
COMPILED = [
    pytest.param(m, list(VARIANTS)[i % len(VARIANTS)], SHAPES[1]._replace(compiled=True), marks=pytest.mark.slow)
    for i, m in enumerate(
        m for m, row in METHODS.items() if "hidden" not in row.needs and "retain_weight" in row.parameters
    )
]


@pytest.mark.parametrize(("method", "variant", "shape"), CASES_BY_SHAPE + COMPILED)
def test_independent_of_neighbours_slot_and_join_step(
    method: str, variant: str, shape: Shape, task: Any, make_spec: MakeSpec
) -> None:
    sections = {key: dict(value) for key, value in VARIANTS[variant].items()}
    sections["method"] = {"name": method} | sections.get("method", {})
    sections["training"] = {"steps": 4} | sections.get("training", {})
    resources = {"compile": shape.compiled}
    spec = make_spec(**sections, resources=resources)
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    expected = with_nobody(task, spec, baseline, shape)

    def other(method: str, **training: float) -> Any:
        return make_spec(method=method, training={"steps": 9, **training}, resources=resources)

    pack = Pack(task, spec, shape)
    pack.join(TrialJob("a", other("npo", batch_size=5), 1, {}, baseline))
    exploding = pack.join(TrialJob("b", other("gd", lr=1e25), 2, {}, baseline))
    pack.join(TrialJob("c", other("simnpo" if shape.compiled else "rmu"), 5, {}, baseline))
    advance(pack)
    while not pack.slots[exploding].ended:  # it ends on no number while the others are under way
        advance(pack)
    pack.leave(exploding)
    again = pack.join(TrialJob("d", other("kl", lr=1e25), 2, {}, baseline))
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    assert (again, slot) == (exploding, 3)
    rows = finish(pack, slot)
    exploded = pack.slots[again].ending
    assert exploded is not None, "beside the trial"
    assert exploded.state == FAILED
    assert_same(expected, (rows, pack.state(slot)))


@pytest.mark.parametrize("shape", SHAPES, ids=["all slots", "groups"])
@pytest.mark.parametrize("method", ["ga", "npo", "rmu"])
def test_a_refilled_slot_and_a_waiting_trial(method: str, shape: Shape, task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(method=method, training={"steps": 4}, lora={"dropout": 0.2})
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    expected = with_nobody(task, spec, baseline, shape)
    pack = Pack(task, spec, shape)
    first = pack.join(TrialJob("a", make_spec(method="dpo", lora={"dropout": 0.5}), 1, {}, baseline))
    other = pack.join(TrialJob("b", spec, 8, {}, baseline))
    advance(pack)
    advance(pack)
    pack.leave(first)
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    assert slot == first
    rows = [row for k, found in advance(pack, waiting=[other]) for row in found if k == slot]
    rows += [row for k, found in advance(pack, waiting=[other]) for row in found if k == slot]
    for k, found in advance(pack, waiting=[slot]):
        assert k == other
        assert found[-1].step == 4
    rows += finish(pack, slot)
    assert_same(expected, (rows, pack.state(slot)))


def test_dropout_changes_the_trial_and_follows_its_seed(task: Any, make_spec: MakeSpec) -> None:
    baseline: dict[str, float] = {}
    plain, dropped, again = (
        with_nobody(task, make_spec(lora={"dropout": p}), baseline, SHAPES[0])[1].values for p in (0.0, 0.5, 0.5)
    )
    assert torch.equal(dropped, again)
    assert not torch.equal(plain, dropped)


@pytest.mark.parametrize("shape", SHAPES, ids=["all slots", "groups"])
@pytest.mark.parametrize("method", ["gd", "dpo", "undial"])
def test_a_restored_trial_goes_on_to_the_bit(method: str, shape: Shape, task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(method=method, lora={"dropout": 0.1}, training={"weight_decay": 0.1, "warmup_steps": 5})
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    rows, expected = with_nobody(task, spec, baseline, shape)
    pack = Pack(task, spec, shape)
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    before = [row for _ in range(3) for _, found in advance(pack) for row in found]
    state = pack.state(slot)
    assert state.step == 4
    advance(pack)  # what is taken back is as it was taken
    pack = Pack(task, spec, shape)
    pack.join(TrialJob("a", make_spec(method="ga"), 1, {}, baseline))
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline), state)
    assert_same((rows, expected), (before + finish(pack, slot), pack.state(slot)))


def test_a_state_before_its_report_is_reported(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec()
    pack = Pack(task, spec, SHAPES[0])
    state = pack.state(pack.join(TrialJob("t", spec, 3, {}, {})))
    slot = pack.join(TrialJob("t", spec, 3, {}, {}), state)
    assert [(k, rows[-1].step) for k, rows in advance(pack)] == [(0, 0), (slot, 0)]
