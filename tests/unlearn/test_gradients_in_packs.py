"""A trial with any gradient rule is the same to the bit whoever its neighbours are, and after it was restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packed import advance, assert_same, finish, with_nobody
from test_pack_independence import SHAPES

from rayul.records import FAILED
from rayul.spec import GRADIENTS
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.pack.slot import SlotState

MakeSpec = Callable[..., Any]
RULES = [rule for rule in GRADIENTS if rule != "plain"]
VARIANTS: dict[str, dict[str, Any]] = {
    "gd": {"method": {"name": "gd"}},
    "ga, capped, of odd batches": {
        "method": {"name": "ga"},
        "control": {"loss_cap": 6.0},
        "training": {"batch_size": 3},
    },
    "dpo, of small parts": {"method": {"name": "dpo"}, "training": {"micro_batch_size": 2}},
    "npo, dropped": {"method": {"name": "npo"}, "lora": {"dropout": 0.2, "r": 3}},
}


def spec_of(rule: str, variant: str, make_spec: MakeSpec, **more: Any) -> Any:
    sections = {key: dict(value) for key, value in VARIANTS[variant].items()}
    sections["method"]["gradient"] = rule
    sections["training"] = {"steps": 4} | sections.get("training", {})
    return make_spec(**sections, **more)


@pytest.mark.parametrize("shape", SHAPES, ids=["all slots", "groups"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rule", RULES)
def test_independent_of_neighbours(rule: str, variant: str, shape: Shape, task: Any, make_spec: MakeSpec) -> None:
    spec = spec_of(rule, variant, make_spec)
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    expected = with_nobody(task, spec, baseline, shape)
    pack = Pack(task, spec, shape)
    others = [{"name": "npo", "gradient": "sam"}, {"name": "gd", "gradient": "mask"}, {"name": "rmu"}]
    for number, method in enumerate(others):
        # The second ends on no number while the others are under way.
        training = {"steps": 9} | ({"lr": 1e25, "batch_size": 2} if number == 1 else {})
        pack.join(TrialJob(str(number), make_spec(method=method, training=training), number, {}, baseline))
    advance(pack)
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    rows = finish(pack, slot)
    exploded = pack.slots[1].ending
    assert exploded is not None
    assert exploded.state == FAILED
    assert_same(expected, (rows, pack.state(slot)))


@pytest.mark.parametrize("rule", RULES)
def test_a_restored_trial_goes_on_to_the_bit(rule: str, task: Any, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = spec_of(rule, "gd", make_spec)
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    rows, expected = with_nobody(task, spec, baseline, SHAPES[0])
    pack = Pack(task, spec, SHAPES[0])
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    before = [row for _ in range(2) for _, found in advance(pack) for row in found]
    pack.turn()  # in the middle of a step, where the rule has asked for one gradient of several
    assert pack.slots[slot].step == 2
    pack.state(slot).save(tmp_path / "state")
    pack = Pack(task, spec, SHAPES[0])
    pack.join(TrialJob("a", make_spec(method={"name": "gd", "gradient": "mask"}), 1, {}, baseline))
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline), SlotState.load(tmp_path / "state"))
    assert_same((rows, expected), (before + finish(pack, slot), pack.state(slot)))
