"""The latent rule, alone and in packs, against the same attack written out row by row in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from float64 import SEED, SHAPES, Reference, alone, assert_near, packed
from packed import advance, assert_same, finish, with_nobody
from torch import Tensor

from rayul.errors import InputError
from rayul.spec import SpecError, parse_spec
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.order import row_order
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.pack.slot import SlotState
from rayul.unlearn.trial import run_trial

MakeSpec = Callable[..., Any]
W, LR, NORM, STEPS = 0.2, 1e-3, 0.7, 3


def spec_of(make_spec: MakeSpec, layers: Sequence[int] | None, **more: Any) -> Any:
    rule = {"gradient": "latent", "latent_norm": NORM, "latent_steps": STEPS, "latent_layers": layers}
    method = {"name": "gd", "retain_weight": W, **rule, **more.pop("method", {})}
    training = {"lr": LR, "steps": 2, "evaluate_every": 2, "max_grad_norm": None, **more.pop("training", {})}
    return make_spec(method=method, training=training, lora={"r": 4, "alpha": 8}, **more)


@contextmanager
def added(base: Any, deltas: dict[int, Tensor]) -> Iterator[None]:
    handles = [
        base.model.layers[n - 1].register_forward_hook(lambda _m, _a, out, d=d: out + d) for n, d in deltas.items()
    ]
    yield
    for handle in handles:
        handle.remove()


def attack(reference: Reference, i: int, layers: Sequence[int]) -> dict[int, Tensor]:
    """What helps the model to recall forget row i, [T, D] by layer: at the tokens of the question alone."""
    row = reference.task.examples["forget"][i]
    dim = reference.base.config.hidden_size
    deltas = {n: torch.zeros(len(row.ids), dim, dtype=torch.float64) for n in layers}
    for _ in range(STEPS):
        for delta in deltas.values():
            delta.requires_grad_()
        with added(reference.base, deltas):
            grads = torch.autograd.grad(reference.nll("forget", [i]), list(deltas.values()))
        for n, g in zip(layers, grads, strict=True):
            moved = deltas[n].detach().clone()
            for t in range(row.start):
                if g[t].norm() > 0:
                    moved[t] -= 2 * NORM / STEPS * g[t] / g[t].norm()
                if moved[t].norm() > NORM:
                    moved[t] *= NORM / moved[t].norm()
            deltas[n] = moved
    return deltas


@pytest.mark.parametrize("layers", [None, [1, 2]])
@pytest.mark.parametrize("micro", [None, 2])
def test_two_steps_alone_and_in_packs(
    layers: list[int] | None, micro: int | None, task: Any, make_spec: MakeSpec
) -> None:
    spec = spec_of(make_spec, layers, training={"micro_batch_size": micro})
    reference = Reference(task, spec)
    optimizer = torch.optim.AdamW(reference.leaves, lr=LR, weight_decay=0.0)
    for forget, retain in islice(row_order(task, spec, SEED), 2):
        found = [attack(reference, i, layers or [1]) for i in forget]
        optimizer.zero_grad()
        for i, deltas in zip(forget, found, strict=True):
            with added(reference.base, deltas):
                helped = reference.nll("forget", [i])
                (-helped / len(forget)).backward()
            assert helped < reference.nll("forget", [i]), "the perturbation helps the model recall"
        (W * reference.nll("retain_train", retain)).backward()
        optimizer.step()
    for ours in [alone(task, spec), *(packed(task, spec, shape) for shape in SHAPES)]:
        assert_near(ours, reference.theta, LR)


@pytest.mark.parametrize("shape", SHAPES, ids=["all slots", "groups"])
@pytest.mark.parametrize("name", ["gd", "cb"])
def test_independent_of_neighbours_and_restored(
    name: str, shape: Shape, task: Any, make_spec: MakeSpec, tmp_path: Path
) -> None:
    method = {"name": name, "latent_steps": 2}
    spec = spec_of(make_spec, [1, 2], method=method, training={"steps": 3, "evaluate_every": 1, "batch_size": 3})
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    expected = with_nobody(task, spec, baseline, shape)
    pack = Pack(task, spec, shape)
    pack.join(TrialJob("a", spec_of(make_spec, [2], training={"steps": 9}), 1, {}, baseline))
    pack.join(TrialJob("b", make_spec(method="rmu", training={"steps": 9}), 2, {}, baseline))
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    before = []
    while pack.slots[slot].reported < 1:
        before += [row for k, found in advance(pack) if k == slot for row in found]
    pack.turn()
    pack.state(slot).save(tmp_path / "state")
    pack = Pack(task, spec, shape)
    pack.join(TrialJob("a", make_spec(method="npo", training={"steps": 9}), 1, {}, baseline))
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline), SlotState.load(tmp_path / "state"))
    assert_same(expected, (before + finish(pack, slot), pack.state(slot)))


def test_the_base_is_as_it_was(task: Any, make_spec: MakeSpec) -> None:
    before = [vars(block).get("forward") for block in task.base.model.layers]
    *_, last = run_trial(task, TrialJob("0", spec_of(make_spec, [1, 2]), 0, {}, {}))
    assert last.ending is not None
    assert last.ending.state == "completed"
    assert [vars(block).get("forward") for block in task.base.model.layers] == before


def test_what_cannot_work_is_refused_by_name(task: Any, make_spec: MakeSpec) -> None:
    *_, last = run_trial(task, TrialJob("0", spec_of(make_spec, [3]), 0, {}, {}))
    assert last.ending is not None
    assert "method.latent_layers 3: the model has 2 blocks" in last.ending.reason
    with pytest.raises(InputError, match=r"method\.latent_layers 3: the model has 2 blocks"):
        Pack(task, make_spec(), SHAPES[0]).join(TrialJob("0", spec_of(make_spec, [3]), 0, {}, {}))
    with pytest.raises(SpecError, match=r"method\.gradient: latent adds to hidden states"):
        spec_of(make_spec, None, resources={"compile": True})
    text = "{name: a, model: m, data: testbed, method: {name: gd, gradient: {choice: [plain, latent]}}, training: "
    with pytest.raises(SpecError, match=r"training\.gradient_checkpointing: layers are computed again"):
        parse_spec(text + "{lr: 1, gradient_checkpointing: true}}", check_files=False)
    with pytest.raises(SpecError, match=r"method\.gradient: latent helps the model recall"):
        spec_of(make_spec, None, method={"name": "po"})
