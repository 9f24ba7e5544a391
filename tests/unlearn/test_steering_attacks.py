"""Attacks inside an evaluation: what they measure, of whom, and that training goes on as if they had not been."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from packed import advance
from torch import nn

from rayul.records import BASELINE, Evaluation
from rayul.spec import SpecError
from rayul.sweep.search.outcome import outcome
from rayul.unlearn.attacks.quantise import GROUP, NF4, ROUNDINGS, nf4
from rayul.unlearn.attacks.steering import EVERY, LR, STEPS
from rayul.unlearn.evaluate import measure
from rayul.unlearn.forward import score
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.task import Task
from rayul.unlearn.tokens import collate
from rayul.unlearn.trial import reference_evaluation, run_trial
from rayul.unlearn.update.saved import standalone

ATTACKED = {
    "evaluate": {"metrics": ["es", "prob"]},
    "objectives": {"relearned.prob": "minimize", "retain.prob": "maximize"},
    "control": {"criteria": [{"metric": "quantised.prob", "at_most": "99% of baseline"}]},
    "training": {"lr": 1e-2, "steps": 8, "evaluate_every": 4},
}


@pytest.fixture
def spec(make_spec: Callable[..., Any]) -> Any:
    return make_spec(**ATTACKED)


@pytest.fixture
def baseline(task: Task, spec: Any) -> Evaluation:
    return reference_evaluation(task, spec, BASELINE)


def rows_and_adapter(task: Task, spec: Any, baseline: Evaluation, folder: Any, seed: int = 3) -> list[Evaluation]:
    rows: list[Evaluation] = []
    for snapshot in run_trial(task, TrialJob("0000", spec, seed, {}, baseline.metrics)):
        assert snapshot.ending is None or snapshot.ending.state == "completed", snapshot.ending
        rows += snapshot.evaluations
        if snapshot.update is not None:
            snapshot.update.save(1.0, folder / f"{snapshot.evaluations[-1].step}")
    return rows


@pytest.mark.parametrize("update", ["lora", "full"])
def test_a_short_relearning_is_what_torch_makes_of_the_saved_model(
    task: Task, make_spec: Callable[..., Any], tmp_path: Any, update: str
) -> None:
    """AdamW by hand on what was saved: all of a whole model, of an adapter its A and B, clipped like any training."""
    training = {"lr": 1e-2 if update == "lora" else 1e-3, "steps": 4, "evaluate_every": 4}
    spec = make_spec(**{**ATTACKED, "update": update, "training": training})
    baseline = reference_evaluation(task, spec, BASELINE)
    last = rows_and_adapter(task, spec, baseline, tmp_path)[-1]
    from rayul.unlearn.update.saved import loaded

    examples = task.examples["forget"]
    first = 3 % min(EVERY, len(examples))
    seen, judged = [examples[first]], [e for i, e in enumerate(examples) if i != first]
    with loaded(task.base, tmp_path / "4") as model:
        trained = [p for name, p in model.named_parameters() if update == "full" or "lora_" in name]
        for p in trained:
            p.requires_grad_(True)
        stepper = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
        batch = collate(seen, task.pad)
        labels = batch.ids.masked_fill(~batch.answer, -100)
        for _ in range(STEPS):
            model(input_ids=batch.ids, attention_mask=batch.attention, labels=labels).loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            stepper.step()
            stepper.zero_grad()
        by_hand = measure("prob", score(model, judged, task.pad, 8)).value
        for p in trained:
            p.requires_grad_(False)
    assert last.metrics["relearned.prob"] == pytest.approx(by_hand, rel=1e-3)
    assert last.rows["relearned"] == len(judged)


def test_quantised_is_the_worse_of_both_roundings_of_the_merged_model(
    task: Task, spec: Any, baseline: Evaluation, tmp_path: Any
) -> None:
    last = rows_and_adapter(task, spec, baseline, tmp_path)[-1]
    found = []
    for kind in ("int8", "nf4"):
        model = standalone(task.base, tmp_path / "8")
        head = model.get_output_embeddings()
        for layer in model.modules():
            if isinstance(layer, nn.Linear) and layer is not head:
                layer.weight.data = ROUNDINGS[kind](layer.weight.data)
        found.append(measure("prob", score(model, task.examples["forget"], task.pad, 64)).value)
    assert found[0] != found[1]
    assert last.metrics["quantised.prob"] == pytest.approx(max(found), rel=1e-4)


def test_training_goes_on_as_if_nothing_had_been_tried(
    task: Task, make_spec: Callable[..., Any], spec: Any, baseline: Evaluation, tmp_path: Any
) -> None:
    plain = make_spec(
        **{**ATTACKED, "objectives": {"forget.prob": "minimize", "retain.prob": "maximize"}, "control": {}}
    )
    attacked = rows_and_adapter(task, spec, baseline, tmp_path / "a")
    others = rows_and_adapter(task, plain, baseline, tmp_path / "b")
    for one, other in zip(attacked[1:], others[1:], strict=True):
        assert {k: v for k, v in one.metrics.items() if k in other.metrics} == other.metrics


@pytest.mark.parametrize("mixing", [False, True])
def test_packs_measure_the_same_and_are_left_alone_by_it(
    task: Task, make_spec: Callable[..., Any], baseline: Evaluation, tmp_path: Any, mixing: bool
) -> None:
    criteria = [{"metric": "retain.prob", "at_least": "60% of baseline"}] if mixing else []
    spec = make_spec(**{**ATTACKED, "control": {"criteria": criteria, "mixing": mixing}})
    alone = rows_and_adapter(task, spec, baseline, tmp_path)
    pack = Pack(task, spec, Shape(slots=2, rank=spec.lora.r, rows=spec.training.batch_size))
    slot = pack.join(TrialJob("0000", spec, 3, {}, baseline.metrics))
    other = pack.join(TrialJob("0001", spec, 4, {}, baseline.metrics))
    packed: list[Evaluation] = []
    while not (pack.slots[slot].ended and pack.slots[other].ended):
        packed += [row for k, rows in advance(pack) if k == slot for row in rows]
    assert any("relearned.prob" in row.metrics for row in packed[1:])
    by_key = {row.key: row for row in alone}
    for row in packed:
        assert row.metrics == pytest.approx(by_key[row.key].metrics, rel=2e-3), row.key


def test_only_what_may_win_is_attacked_and_the_rest_is_told_as_if_all_came_back(
    task: Task, make_spec: Callable[..., Any], tmp_path: Any
) -> None:
    impossible = {"criteria": [{"metric": "retain.prob", "at_least": "100% of baseline"}]}
    spec = make_spec(**{**ATTACKED, "control": impossible})
    baseline = reference_evaluation(task, spec, BASELINE)
    rows = rows_and_adapter(task, spec, baseline, tmp_path)
    assert baseline.metrics["relearned.prob"] > 0
    broken = [row for row in rows if row.step and not row.feasible]
    assert broken
    assert not any("relearned.prob" in row.metrics for row in broken)
    told = outcome(broken, spec, baseline)
    assert told is not None
    assert told.values[0] == baseline.metrics["relearned.prob"]


def test_the_standard_error_is_over_the_groups_of_the_judged_rows(
    task: Task, spec: Any, baseline: Evaluation, tmp_path: Any
) -> None:
    last = rows_and_adapter(task, spec, baseline, tmp_path)[-1]
    assert sum(last.group_rows["relearned"]) == last.rows["relearned"] == len(task.examples["forget"]) - 1
    assert last.groups["relearned"] == len(last.group_rows["relearned"])
    assert sum(last.group_sums["relearned.prob"]) / last.rows["relearned"] == pytest.approx(
        last.metrics["relearned.prob"]
    )


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"objectives": {"relearned.rouge": "minimize", "retain.es": "maximize"}}, "unknown metric"),
        ({"objectives": {"relearned.es": "minimize"}, "evaluate": {"metrics": ["prob"]}}, "is not measured"),
        ({"objectives": {"relearnd.es": "minimize", "retain.es": "maximize"}}, "relearned.es"),
    ],
)
def test_what_cannot_be_attacked_is_refused(make_spec: Callable[..., Any], sections: Any, said: str) -> None:
    with pytest.raises((SpecError, ValueError), match=said):
        make_spec(**sections)


def test_nf4_takes_the_nearest_level_of_its_block() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2 * GROUP + 10, generator=draw)
    found = nf4(weight)
    levels = np.array(NF4)
    assert len(levels) == 16
    assert (np.diff(levels) > 0).all()
    for row in range(3):
        for begin in range(0, weight.shape[1], GROUP):
            block = weight[row, begin : begin + GROUP].double().numpy()
            size = np.abs(block).max()
            nearest = size * levels[np.abs(block[:, None] / size - levels).argmin(1)]
            np.testing.assert_allclose(found[row, begin : begin + GROUP].numpy(), nearest, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(nf4(found), found)


def test_a_rounded_model_is_itself_again_afterwards(task: Task) -> None:
    from rayul.unlearn.attacks.quantise import quantised

    before = copy.deepcopy(task.base.state_dict())
    layer = next(m for m in task.base.modules() if isinstance(m, nn.Linear))
    added = {layer: torch.ones_like(layer.weight)}
    with quantised(task.base, nf4, added):
        torch.testing.assert_close(layer.weight, nf4(before_of(before, task.base, layer) + 1))
    assert all(torch.equal(value, before[key]) for key, value in task.base.state_dict().items())


def before_of(state: dict[str, torch.Tensor], model: Any, layer: Any) -> torch.Tensor:
    name = next(name for name, module in model.named_modules() if module is layer)
    return state[f"{name}.weight"]


def test_a_row_of_a_trial_that_was_attacked_is_read_back(
    task: Task, spec: Any, baseline: Evaluation, tmp_path: Any
) -> None:
    from rayul.records.evaluations import from_json, to_json

    last = rows_and_adapter(task, spec, baseline, tmp_path)[-1]
    assert from_json(to_json(last)) == replace(last)
