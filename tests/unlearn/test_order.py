"""Which rows a step takes: layered stages and paraphrased questions, alone and in packs, against float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from float64 import SEED, SHAPES, Reference, alone, assert_near, packed
from packed import advance, assert_same, finish, with_nobody

from rayul.errors import InputError
from rayul.spec import SpecError, parse_spec
from rayul.unlearn.job import TrialJob
from rayul.unlearn.order import fold_of_rows, row_order
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.pack.slot import SlotState
from rayul.unlearn.task import load_task
from rayul.unlearn.tokens import encode

MakeSpec = Callable[..., Any]
LR, W = 1e-3, 0.7
SETTINGS: dict[str, dict[str, Any]] = {
    "layered": {"layered": 2},
    "augment": {"augment": "paraphrase"},
    "both": {"layered": 2, "augment": "paraphrase"},
}


def spec_of(make_spec: MakeSpec, **training: Any) -> Any:
    settings = {"lr": LR, "steps": 6, "evaluate_every": 6, "max_grad_norm": None, "batch_size": 3, **training}
    return make_spec(method={"name": "gd", "retain_weight": W}, training=settings, lora={"r": 4, "alpha": 8})


def asked(row: Any) -> Any:
    return replace(row, paraphrased_question=f"Tell me: {row.question}")


@pytest.fixture
def reworded(sets: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """All forget rows but the last, and every other retain row, have a paraphrased question."""
    forget = (*map(asked, sets["forget"][:-1]), sets["forget"][-1])
    retain = tuple(row if i % 2 else asked(row) for i, row in enumerate(sets["retain_train"]))
    return {**sets, "forget": forget, "retain_train": retain}


def test_a_stage_forgets_its_folds_and_retains_the_others(make_spec: MakeSpec, sets: Any) -> None:
    spec = spec_of(make_spec, layered=2, steps=40, batch_size=5)
    task = load_task(spec, sets)
    fold, rows, held = fold_of_rows(task, SEED, 2), range(len(sets["forget"])), task.held
    groups = [row.group for row in sets["forget"]]
    assert all(fold[i] == fold[j] for i in rows for j in rows if groups[i] == groups[j])
    assert sorted(fold) == [0, 0, 0, 1, 1, 1]
    first = {i for i in rows if fold[i] == 0}
    order = list(row_order(task, spec, SEED))
    assert len(order) == 40
    for stage, forgotten in ((order[:20], first), (order[20:], set(rows))):
        kept = set(range(held)) | {held + i for i in set(rows) - forgotten}
        assert {i for forget, _ in stage for i in forget} == forgotten
        assert {i for _, retain in stage for i in retain} == kept
    assert [task.training["retain_train"][held + i] for i in rows] == task.examples["forget"]


def test_a_paraphrase_takes_the_place_of_its_row_every_other_time(make_spec: MakeSpec, reworded: Any) -> None:
    spec = spec_of(make_spec, augment="paraphrase", batch_size=4)
    task = load_task(spec, reworded)
    drawn: dict[str, list[int]] = {"forget": [], "retain_train": []}
    own = list(islice(row_order(task, spec_of(make_spec, batch_size=4), SEED), 300))
    for plain, rows in zip(own, islice(row_order(task, spec, SEED), 300), strict=True):
        for name, before, after in zip(drawn, plain, rows, strict=True):
            other = task.reworded[name]
            assert all(j in (i, other.get(i, i)) for i, j in zip(before, after, strict=True))
            drawn[name] += [j != i for i, j in zip(before, after, strict=True) if i in other]
    for swapped in drawn.values():
        assert sum(swapped) / len(swapped) == pytest.approx(0.5, abs=0.06)
    for name in ("forget", "retain_train"):
        having = {i for i, row in enumerate(reworded[name]) if row.paraphrased_question}
        assert task.reworded[name].keys() == having
        for i, j in task.reworded[name].items():
            row = reworded[name][i]
            expected = encode(task.tokenizer, None, row.paraphrased_question, row.answer)
            assert task.training[name][j] == expected
    assert len(task.training["idk"]) == len(task.training["forget"])
    assert len(task.evaluated()["forget"]) == len(reworded["forget"]), "evaluations see the rows as they are"


@pytest.mark.parametrize("setting", SETTINGS)
def test_steps_alone_and_in_packs(setting: str, make_spec: MakeSpec, reworded: Any) -> None:
    spec = spec_of(make_spec, **SETTINGS[setting], steps=2, evaluate_every=2)
    task = load_task(spec, reworded)
    reference = Reference(task, spec)
    optimizer = torch.optim.AdamW(reference.leaves, lr=LR, weight_decay=0.0)
    seen = []
    for forget, retain in islice(row_order(task, spec, SEED), 2):
        optimizer.zero_grad()
        (-reference.nll("forget", forget) + W * reference.nll("retain_train", retain)).backward()
        optimizer.step()
        seen.append((forget, retain))
    if setting == "layered":
        assert all(i < 6 for i in seen[0][0])
    for ours in [alone(task, spec), *(packed(task, spec, shape) for shape in SHAPES)]:
        assert_near(ours, reference.theta, LR)


@pytest.mark.parametrize("shape", SHAPES, ids=["all slots", "groups"])
def test_independent_of_neighbours_and_restored(
    shape: Shape, make_spec: MakeSpec, reworded: Any, tmp_path: Path
) -> None:
    spec = spec_of(make_spec, **SETTINGS["both"], steps=4, evaluate_every=1)
    task = load_task(spec, reworded)
    expected = with_nobody(task, spec, {}, shape)
    pack = Pack(task, spec, shape)
    pack.join(TrialJob("a", make_spec(method="npo", training={"steps": 9}), 1, {}, {}))
    slot = pack.join(TrialJob("t", spec, 3, {}, {}))
    before = []
    while pack.slots[slot].reported < 2:
        before += [row for k, found in advance(pack) if k == slot for row in found]
    pack.state(slot).save(tmp_path / "state")
    pack = Pack(task, spec, shape)
    slot = pack.join(TrialJob("t", spec, 3, {}, {}), SlotState.load(tmp_path / "state"))
    assert_same(expected, (before + finish(pack, slot), pack.state(slot)))


def test_what_cannot_work_is_refused(make_spec: MakeSpec, sets: Any) -> None:
    with pytest.raises(InputError, match="no row has a paraphrased question"):
        load_task(spec_of(make_spec, augment={"choice": [None, "paraphrase"]}), sets)
    with pytest.raises(InputError, match=r"training\.layered 3: the forget rows have 2 groups"):
        load_task(spec_of(make_spec, layered={"choice": [None, 3]}), sets)
    with pytest.raises(SpecError, match=r"training\.layered: ga retains nothing"):
        parse_spec("{name: a, model: m, data: testbed, method: ga, training: {lr: 1, layered: 2}}", check_files=False)
