"""The parts of a pack: initial adapters, windows of answers, dropout, and who may share one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayul.errors import InputError, RayulError
from rayul.unlearn.compiled import require_compiler
from rayul.unlearn.forward import forward, token_logp
from rayul.unlearn.gradients.contract import FORGET
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape, packable
from rayul.unlearn.pack.base import PackedBase
from rayul.unlearn.pack.lanes import forwards
from rayul.unlearn.pack.lines import lines
from rayul.unlearn.pack.parameters import Layout, targets
from rayul.unlearn.tokens import Example, collate
from rayul.unlearn.train import accumulate_gradient, steering_direction
from rayul.unlearn.update import attach
from rayul.unlearn.update.lora import attach_lora
from rayul.unlearn.update.saved import detach_adapter

MakeSpec = Callable[..., Any]


def test_cb_starts_off_the_reference_alike_alone_and_in_a_pack(task: Any, make_spec: MakeSpec) -> None:
    """Where the hidden states are those of the reference, its loss has no gradient."""
    spec = make_spec(method={"name": "cb"}, lora={"r": 4})
    update = attach(task, spec, 7)
    alone = {k: v.detach().clone() for k, v in update.model.named_parameters() if "lora_" in k}
    gradient = accumulate_gradient(update, task, spec, [0, 1], [0, 1], steering_direction(task, spec, 7), of=FORGET)
    norm = sum(float(p.grad.square().sum()) for p in update.parameters if p.grad is not None) ** 0.5
    update.detach()
    assert gradient["forget"] == pytest.approx(1.0, abs=0.02)  # still next to the reference
    assert norm > 1e-3
    pack = Pack(task, spec, Shape.of(spec, 2, cpu=True))
    slot = pack.join(TrialJob("0", spec, 7, {}, {}))
    for name, pair in pack.layout.adapter(pack.slots[slot].row.detach(), 4).items():
        for letter, tensor in zip("AB", pair, strict=True):
            assert torch.equal(tensor, alone[f"base_model.model.{name}.lora_{letter}.default.weight"])


@pytest.mark.parametrize(("rank", "seed"), [(1, 0), (4, 7), (8, 2**31)])
@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "down_proj"]])
def test_a_fresh_row_is_pefts_fresh_adapter(modules: Any, rank: int, seed: int, task: Any, make_spec: MakeSpec) -> None:
    lora = make_spec(lora={"r": rank, "target_modules": modules}).lora
    linears, _ = targets(task.base, lora)
    layout = Layout(linears, 8)
    ours = layout.adapter(layout.initial(rank, seed), rank)
    model = attach_lora(task.base, lora, seed)
    theirs = {k: v.detach().clone() for k, v in model.named_parameters() if "lora_" in k}
    detach_adapter(model)
    assert len(theirs) == 2 * len(ours)
    for name, pair in ours.items():
        for letter, tensor in zip("AB", pair, strict=True):
            assert torch.equal(tensor, theirs[f"base_model.model.{name}.lora_{letter}.default.weight"])


def test_lines_hold_every_answer_in_a_window_of_distinct_positions() -> None:
    examples = [
        Example((5, 6, 7, 8, 9), 1, 5),
        Example((5, 6, 7, 8, 9, 10, 11), 5, 7),
        Example((5, 6, 7), 1, 2),
    ]
    found = lines(examples, pad=0)
    assert found.ids.shape == (3, 7)
    assert found.labels.shape == found.at.shape == found.mask.shape == (3, 4)
    for i, e in enumerate(examples):
        assert found.labels[i][found.mask[i]].tolist() == list(e.ids[e.start : e.stop])
        assert torch.equal(found.ids[i][found.at[i] + 1], found.labels[i])
        assert len(set(found.at[i].tolist())) == 4


def test_a_pack_predicts_what_the_base_does(task: Any) -> None:
    base = PackedBase(task.base, [])
    examples = task.examples["forget"]
    batch = lines(examples, task.pad)
    with torch.no_grad():
        ours = base.predict(batch, layers=(1,))
        theirs = forward(task.base, collate(examples, task.pad), 1)
    for i, e in enumerate(examples):
        count = e.stop - e.start
        assert torch.allclose(ours.logits[i][batch.mask[i]], theirs.logits[i][theirs.mask[i]], atol=1e-5)
        assert theirs.hidden is not None
        assert torch.allclose(ours.hidden[1][i][batch.mask[i]], theirs.hidden[i][theirs.mask[i]], atol=1e-5)
        assert token_logp(theirs)[i][theirs.mask[i]].shape == (count,)


def test_the_shape_of_a_sweep(make_spec: MakeSpec) -> None:
    spec = make_spec(
        lora={"r": {"choice": [4, 16, 8]}}, training={"batch_size": {"choice": [4, 8]}}, resources={"trials_per_gpu": 8}
    )
    assert Shape.of(spec, 8, cpu=False) == Shape(slots=8, rank=16, rows=4)
    assert Shape.of(spec, 8, cpu=True) == Shape(slots=8, rank=16, rows=4, group=2)
    spec = make_spec(lora={"r": {"int": [2, 6]}}, training={"batch_size": 8, "micro_batch_size": 2})
    assert Shape.of(spec, 2, cpu=True) == Shape(slots=2, rank=6, rows=2, group=2)
    assert Shape.of(spec, 2, cpu=False) == Shape(slots=2, rank=6, rows=2)
    compiled = make_spec(resources={"compile": True})
    assert Shape.of(compiled, 2, cpu=True).compiled
    assert "compiled" in str(Shape.of(compiled, 2, cpu=True))
    assert not Shape.of(make_spec(), 2, cpu=True).compiled
    assert Shape(slots=8, rank=6, rows=2, group=4).smaller() == Shape(slots=4, rank=6, rows=2, group=4)


@pytest.mark.parametrize("named", ["none-of-this-name", "its-own"])
def test_a_machine_without_a_compiler_says_so_before_it_compiles(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "its-own"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with torch._inductor.config.patch({"cpp.cxx": (None, named)}):
        if named == compiler.name:
            require_compiler()
            return
        with pytest.raises(InputError, match=f"there is no {named}") as refused:
            require_compiler()
    assert "resources.compile: false" in str(refused.value)


@pytest.mark.parametrize("group", [None, 1, 2, 3, 4, 5])
def test_every_row_is_in_one_forward(group: int | None) -> None:
    wanted = {0: [5, 6, 7], 2: [1], 3: [2, 9], 4: [8, 8, 8, 8]}
    found: dict[int, list[int]] = {k: [] for k in wanted}
    for lanes in forwards(wanted, Shape(slots=6, rank=4, rows=2, group=group)):
        assert len(lanes) == (group or 6)
        for k, rows in lanes:
            assert len(rows) <= 2
            if rows:
                found[k] += rows
    assert found == wanted
    assert forwards({}, Shape(slots=6, rank=4, rows=2, group=group)) == []


def test_groups_leave_fewer_lanes_than_one_forward_empty() -> None:
    lanes = [lane for one in forwards({1: [1, 2], 3: [3]}, Shape(8, 4, rows=1, group=2)) for lane in one]
    assert sorted(lanes) == [(1, []), (1, [1]), (1, [2]), (3, [3])]


def test_who_may_share_a_pack(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec()
    assert packable(spec, make_spec(method="rmu", lora={"r": 2}, training={"batch_size": 3})) is None
    assert packable(spec, make_spec(method={"name": "ga", "gradient": "gru"})) is None
    assert "target_modules" in str(packable(spec, make_spec(lora={"target_modules": ["q_proj"]})))
    half = spec.model_copy(update={"model": spec.model.model_copy(update={"dtype": "bfloat16"})})
    assert "model" in str(packable(spec, half))
    pack = Pack(task, spec, Shape(slots=1, rank=4, rows=2))
    with pytest.raises(InputError, match=r"lora.r 8 is above the pack's rank 4"):
        pack.join(TrialJob("t", spec, 0, {}, {}))
    small = make_spec(lora={"r": 4})
    pack.join(TrialJob("t", small, 0, {}, {}))
    with pytest.raises(RayulError, match="all 1 slots are taken"):
        pack.join(TrialJob("u", small, 0, {}, {}))
