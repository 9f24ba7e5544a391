"""Methods on hidden states, of one layer or several, and jensun, alone and in packs, against float64; adapters on some
layers only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, islice
from typing import Any

import pytest
import torch
from float64 import SEED, SHAPES, Reference, alone, assert_near, packed
from formulas import js
from torch import Tensor

from rayul.errors import InputError
from rayul.spec import SpecError, parse_spec
from rayul.unlearn.order import row_order
from rayul.unlearn.pack import Shape, packable
from rayul.unlearn.train import steering_direction
from rayul.unlearn.update.lora import attach_lora

MakeSpec = Callable[..., Any]
W, ORTH, STEERING, LR = 0.7, 0.6, 3.0, 1e-3
METHODS: dict[str, dict[str, Any]] = {
    "rmu of one layer": {"name": "rmu", "layer": 1, "steering": STEERING},
    "rmu of two": {"name": "rmu", "layers": [1, 2], "steering": STEERING},
    "cb of one layer": {"name": "cb", "layer": 2},
    "cb of two": {"name": "cb", "layers": [2, 1]},
    "cb with orth": {"name": "cb", "layers": [1, 2], "orth_weight": ORTH},
    "jensun": {"name": "jensun"},
}


def spec_of(method: str, make_spec: MakeSpec, **more: Any) -> Any:
    training = {"lr": LR, "steps": 2, "evaluate_every": 2, "max_grad_norm": None, **more.pop("training", {})}
    sections = {"method": {**METHODS[method], "retain_weight": W}, "training": training, **more}
    return make_spec(**{"lora": {"r": 4, "alpha": 8}} | sections)


def hidden(reference: Reference, row: Any, layer: int, adapted: bool = True) -> Tensor:
    """[L, D] at the positions that predict the answer."""
    found = reference.hidden(row, adapted)[layer]
    assert found.shape[0] == 1
    return found[0, row.start - 1 : row.stop - 1]


def average(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def loss(
    reference: Reference, method: dict[str, Any], forget: Sequence[int], retain: Sequence[int], t: float, u: Tensor
) -> Tensor:
    examples = reference.task.examples
    f, r = [examples["forget"][i] for i in forget], [examples["retain_train"][i] for i in retain]
    layers = method.get("layers") or [method.get("layer")]
    if method["name"] == "rmu":
        pull = average([((hidden(reference, row, n) - STEERING * u) ** 2).mean() for row in f for n in layers])
        moved = [
            ((hidden(reference, row, n) - hidden(reference, row, n, False)) ** 2).mean() for row in r for n in layers
        ]
        return pull + W * average(moved)
    if method["name"] == "cb":
        turned, moved = [], []
        for n in layers:
            for row in f:
                now, before = hidden(reference, row, n), hidden(reference, row, n, False)
                turned.append(torch.relu((now * before).sum(-1) / (now.norm(dim=-1) * before.norm(dim=-1))).mean())
            for row in r:
                moved.append((hidden(reference, row, n) - hidden(reference, row, n, False)).norm(dim=-1).mean())
        whole = (1 - t / 2) * average(turned) + W * t / 2 * average(moved)
        for n in layers if "orth_weight" in method else ():
            vectors = [hidden(reference, row, n).mean(0) for row in f]
            cosines = [torch.relu(a @ b / (a.norm() * b.norm())) for a, b in combinations(vectors, 2)]
            whole = whole + t * ORTH * average(cosines) / len(layers)
        return whole
    assert method["name"] == "jensun"
    refused, kept = [], []
    for i, row in zip(forget, f, strict=True):
        idk = examples["idk"][i]
        refusal = idk.ids[idk.start : idk.stop]
        p = reference.logp(row).exp()
        targets = torch.eye(p.shape[1], dtype=torch.float64)[[refusal[k % len(refusal)] for k in range(len(p))]]
        refused.append(average([js(a, b) for a, b in zip(p, targets, strict=True)]))
    for row in r:
        pairs = zip(reference.logp(row).exp(), reference.logp(row, adapted=False).exp(), strict=True)
        kept.append(average([js(a, b) for a, b in pairs]))
    return average(refused) + W * average(kept)


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_alone_and_in_packs(method: str, task: Any, make_spec: MakeSpec) -> None:
    spec = spec_of(method, make_spec)
    reference = Reference(task, spec)
    direction = steering_direction(task, spec, SEED)
    u = torch.zeros(1) if direction is None else direction.double()
    optimizer = torch.optim.AdamW(reference.leaves, lr=LR, weight_decay=0.0)
    for step, (forget, retain) in enumerate(islice(row_order(task, spec, SEED), 2)):
        optimizer.zero_grad()
        loss(reference, METHODS[method], forget, retain, step / 2, u).backward()
        optimizer.step()
    for ours in [alone(task, spec), *(packed(task, spec, shape) for shape in SHAPES)]:
        assert_near(ours, reference.theta, LR)


@pytest.mark.parametrize("shape", SHAPES, ids=["all slots", "groups"])
def test_adapters_are_on_the_layers_that_were_named(shape: Shape, task: Any, make_spec: MakeSpec) -> None:
    spec = spec_of("jensun", make_spec, lora={"r": 4, "alpha": 8, "layers": [2]})
    ours, theirs = alone(task, spec), packed(task, spec, shape)
    assert ours.keys() == theirs.keys()
    assert {name.split("layers.")[1].split(".")[0] for name in ours} == {"1"}
    assert len(ours) == 14
    assert all(torch.allclose(ours[name], theirs[name], atol=LR / 50) for name in ours)
    reference = Reference(task, spec)
    optimizer = torch.optim.AdamW(reference.leaves, lr=LR, weight_decay=0.0)
    for step, (forget, retain) in enumerate(islice(row_order(task, spec, SEED), 2)):
        optimizer.zero_grad()
        loss(reference, METHODS["jensun"], forget, retain, step / 2, torch.zeros(1)).backward()
        optimizer.step()
    assert_near(ours, reference.theta, LR)


def test_a_block_that_the_model_lacks_gets_no_adapter(task: Any, make_spec: MakeSpec) -> None:
    with pytest.raises(InputError, match=r"lora\.layers: 3: the model has 2 blocks"):
        attach_lora(task.base, make_spec(lora={"layers": [1, 3]}).lora, 0)


def test_trials_with_other_layers_share_no_pack(make_spec: MakeSpec) -> None:
    assert "lora.layers" in str(packable(make_spec(), make_spec(lora={"layers": [1]})))


def test_layers_beyond_the_last_end_the_trial_with_their_number(task: Any, make_spec: MakeSpec) -> None:
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.trial import run_trial

    spec = make_spec(method={"name": "cb", "layers": [1, 3]})
    *_, last = run_trial(task, TrialJob("0", spec, 0, {}, {}))
    assert last.ending is not None
    assert "method.layers 3: the model has 2 blocks" in last.ending.reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: {name: cb, layers: 1}", "method.layers: expected a list of which each is a whole number"),
        ("method: {name: cb, layers: [1, 1]}", "method.layers: expected a list"),
        ("method: {name: cb, layers: [1.5]}", "method.layers: expected a whole number, got 1.5"),
        ("method: {name: cb, layers: {choice: [1, 2]}}", "method.layers: expected a list"),
        (
            "method: {name: cb, orth_weight: 1}\ntraining: {lr: 1, batch_size: 1}",
            "training.batch_size: method.orth_weight",
        ),
        (
            "method: {name: cb, orth_weight: {float: [0, 1]}}\ntraining: {lr: 1, batch_size: {int: [1, 4]}}",
            "training.batch_size: method.orth_weight compares pairs",
        ),
        (
            "method: {name: cb, orth_weight: 1}\ntraining: {lr: 1, micro_batch_size: {choice: [null, 1]}}",
            "training.micro_batch_size: method.orth_weight compares pairs",
        ),
        ("method: cb\nresources: {compile: true}", "cb reads hidden states"),
        ("method: ga\nlora: {layers: [0]}", "lora.layers"),
        ("method: ga\nlora: {layers: {choice: [1]}}", "lora.layers: cannot be searched"),
    ],
)
def test_what_cannot_work_is_refused_by_name(text: str, said: str) -> None:
    training = "" if "training:" in text else "training: {lr: 1}\n"
    with pytest.raises(SpecError) as caught:
        parse_spec(f"name: a\nmodel: testbed\ndata: testbed\n{training}{text}\n")
    assert any(said in str(problem) for problem in caught.value.problems), caught.value.problems
