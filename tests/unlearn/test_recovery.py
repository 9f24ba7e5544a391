"""Fine-tuning of certified weights, look by look, and the straight way back; against plain torch and transformers."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from rayul.records.attacked import FINE_TUNE, INTERPOLATE
from rayul.spec import Attack
from rayul.unlearn.attacks.certified import Try, Victim, tries
from rayul.unlearn.attacks.recovery import FineTuning, cells, fine_tuned, interpolated
from rayul.unlearn.attacks.relearn import shared_out
from rayul.unlearn.attacks.target import Target
from rayul.unlearn.evaluate import measure
from rayul.unlearn.probe import Missing
from rayul.unlearn.tokens import collate
from rayul.unlearn.update.saved import standalone


@pytest.fixture
def target(task: Any) -> Target:
    """The tiny model with other weights than its base."""
    model = standalone(task.base)
    draw = torch.Generator().manual_seed(3)
    for p in model.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=draw)
    return Target(model, task.tokenizer, dict(task.sets))


def test_every_combination_is_a_cell_once() -> None:
    wanted = Attack()
    found = cells(wanted)
    assert len(found) == len(set(found)) == 3 * 2 * 2 * 2 * 3
    assert len({cell.words for cell in found}) == len(found)
    assert {cell.lr for cell in found if cell.trains == "full"} == set(wanted.lr.full)


def test_all_weights_are_trained_as_torch_does_it_and_the_targets_stay(target: Target) -> None:
    """Related rows, AdamW, a linear rate: the loop written by hand with transformers' own loss."""
    before = copy.deepcopy(target.model.state_dict())
    judged, looks = fine_tuned(target, FineTuning("related", "full", "adamw", "linear", 1e-3), budget=3, every=2)
    found = list(looks)
    assert [look.at for look in found] == [0, 2, 3]
    assert judged == list(range(len(target.rows)))
    assert all(torch.equal(value, before[key]) for key, value in target.model.state_dict().items())

    rows = target.encode(target.sets["retain_train"])
    model = copy.deepcopy(target.model).requires_grad_(True)
    stepper = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(3):
        batch = collate(rows, target.pad)  # six rows are one batch, whatever their order
        labels = batch.ids.masked_fill(~batch.answer, -100)
        losses = [
            model(
                input_ids=batch.ids[i : i + 1], attention_mask=batch.attention[i : i + 1], labels=labels[i : i + 1]
            ).loss
            for i in range(len(rows))
        ]
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        stepper.param_groups[0]["lr"] = 1e-3 * (1 - step / 3)
        stepper.step()
        stepper.zero_grad()
    for own, hand in zip(found[-1].scores, target.score(target.examples, model), strict=True):
        assert own.logp == pytest.approx(hand.logp, abs=1e-4)


def test_own_rows_are_never_judged(target: Target) -> None:
    judged, looks = fine_tuned(target, FineTuning("own", "lora", "muon", "cosine", 1e-3), budget=2, every=1)
    seen, others = shared_out(len(target.rows))
    assert judged == others
    assert seen
    assert not set(seen) & set(judged)
    assert all(len(look.scores) == len(judged) for look in looks)


def test_rows_that_are_not_there_are_said(target: Target) -> None:
    bare = replace(target, sets={"forget": target.rows})
    with pytest.raises(Missing, match="no general rows"):
        fine_tuned(bare, FineTuning("unrelated", "lora", "adamw", "linear", 1e-3), 2, 1)


def test_the_way_back_ends_at_the_base(task: Any, target: Target) -> None:
    looks = list(interpolated(target, task.base))
    assert looks[-1].at == 100
    for own, base in zip(looks[-1].scores, target.score(target.examples, task.base), strict=True):
        assert own.logp == pytest.approx(base.logp, abs=1e-5)
    halfway = copy.deepcopy(target.model)
    for p, q in zip(halfway.parameters(), task.base.parameters(), strict=True):
        p.data = (p.data + q.data.float()) / 2
    for own, half in zip(looks[4].scores, target.score(target.examples, halfway), strict=True):
        assert own.logp == pytest.approx(half.logp, abs=1e-4)


def test_a_line_has_es_of_the_judged_rows_before_and_at_each_look(task: Any, target: Target) -> None:
    known = target.score(target.examples, task.base)
    victim = Victim(task, target, task.base, known)
    wanted = Attack(budget=2, every=1)
    cell = FineTuning("own", "full", "adamw", "linear", 1e-3)
    (row,) = victim.attacked(Try("0001-5-1", FINE_TUNE, cell), wanted)
    judged = shared_out(len(target.rows))[1]
    assert row.at == (0, 1, 2)
    assert row.variant == "own rows, all weights, adamw, linear, lr 0.001, 2 steps"
    assert row.baseline == pytest.approx(measure("es", [known[i] for i in judged]).value)
    assert (
        row.before
        == row.es[0]
        == pytest.approx(measure("es", target.score([target.examples[i] for i in judged])).value)
    )
    (way,) = victim.attacked(Try("0001-5-1", INTERPOLATE), wanted)
    assert way.es[-1] == pytest.approx(measure("es", known).value)
    assert way.rows == len(target.rows)


def test_every_attack_that_is_asked_for_gives_lines_or_a_reason(task: Any, target: Target) -> None:
    wanted = Attack(budget=1, every=1, optimizers=("adamw",), schedules=("linear",))
    victim = Victim(task, target, task.base, target.score(target.examples, task.base))
    for one in tries("0001-5-1", wanted):
        rows = victim.attacked(one, wanted)
        assert rows
        assert len({row.key for row in rows}) == len(rows)
        assert all(row.es or row.reason for row in rows)
    (paraphrase,) = victim.attacked(Try("0001-5-1", "paraphrase"), wanted)
    assert "paraphrased_question" in paraphrase.reason
