"""A pack driven by hand, without a device, and its trials against PEFT alone and against a pack without neighbours."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
import torch

from rayul.records import FAILED, Ending, Evaluation
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.pack.slot import SlotState
from rayul.unlearn.trial import run_trial

Weights = dict[str, tuple[torch.Tensor, torch.Tensor]]
Result = tuple[list[Evaluation], SlotState]
TWENTY = {"lr": 1e-3, "steps": 20, "evaluate_every": 5}


def advance(pack: Any, waiting: Collection[int] = ()) -> list[Any]:
    """Turns until some trials have something to report. Empty when there is nothing to train."""
    while pack.running(waiting):
        events: list[Any] = pack.turn(waiting)
        if events:
            return events
    return []


def finish(pack: Pack, slot: int) -> list[Evaluation]:
    """Advance until the trial in `slot` has ended; its rows."""
    rows: list[Evaluation] = []
    while not pack.slots[slot].ended:
        for k, found in advance(pack):
            if k == slot:
                rows += found
    return rows


def baseline_of(task: Any, spec: Any) -> dict[str, float]:
    return evaluate(task.base, task, spec.evaluate.metrics, 64).values


def alone(task: Any, spec: Any, seed: int) -> tuple[list[Evaluation], Weights, Ending]:
    """Rows, last adapter and ending of a trial without a pack."""
    rows: list[Evaluation] = []
    weights: Weights = {}
    ending = None
    for snapshot in run_trial(task, TrialJob("t", spec, seed, {}, baseline_of(task, spec))):
        ending = snapshot.ending
        rows += snapshot.evaluations
        if snapshot.update is not None:
            state = {k: v.detach().clone() for k, v in snapshot.update.model.named_parameters() if "lora_" in k}
            names = [k.removeprefix("base_model.model.").split(".lora_A")[0] for k in state if "lora_A" in k]
            weights = {
                n: tuple(state[f"base_model.model.{n}.lora_{x}.default.weight"] for x in "AB")  # type: ignore[misc]
                for n in names
            }
    assert ending is not None
    return rows, weights, ending


def ending_of(pack: Pack, slot: int) -> Ending:
    """Without the seconds, which differ."""
    ending = pack.slots[slot].ending
    assert ending is not None
    return replace(ending, train_seconds=0.0)


def assert_equal_trials(
    pack: Pack,
    slot: int,
    rows: list[Evaluation],
    task: Any,
    spec: Any,
    seed: int,
    nll: float = 1e-5,
    weights: float | None = 1e-4,
    apart: float = 0.0,
) -> None:
    """The trial that ended in `slot` is the one that trains alone through PEFT. nll: the largest difference of a set's
    mean NLL, in nats. weights: of a number of the last adapter, None where it is not compared: AdamW moves a weight
    whose gradient is all rounding as far as any other. apart: the share of the numbers that may differ by more."""
    expected_rows, expected, ending = alone(task, spec, seed)
    assert [r.step for r in rows] == [r.step for r in expected_rows]
    assert ending_of(pack, slot).state == ending.state
    for ours, theirs in zip(rows, expected_rows, strict=True):
        for name in ("forget", "retain"):
            key = f"{name}.ppl"
            assert math.log(ours.metrics[key]) == pytest.approx(math.log(theirs.metrics[key]), abs=nll), ours.step
    found = pack.layout.adapter(pack.state(slot).values, spec.lora.r)
    assert found.keys() == expected.keys()
    pairs = [pair for name in expected for pair in zip(found[name], expected[name], strict=True)]
    assert all(ours_.shape == theirs_.shape for ours_, theirs_ in pairs)
    if weights is not None:
        further = torch.cat([((ours_ - theirs_).abs() > weights).flatten() for ours_, theirs_ in pairs])
        assert float(further.float().mean()) <= apart


def with_nobody(task: Any, spec: Any, baseline: dict[str, float], shape: Shape) -> Result:
    """Rows and last state of a trial in a pack that it has for itself."""
    pack = Pack(task, spec, shape)
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    rows = finish(pack, slot)
    ending = pack.slots[slot].ending
    assert ending is not None
    assert ending.state != FAILED
    return rows, pack.state(slot)


def assert_same(a: Result, b: Result) -> None:
    """To the bit."""
    assert [(r.step, r.metrics) for r in a[0]] == [(r.step, r.metrics) for r in b[0]]
    assert torch.equal(a[1].values, b[1].values)
    assert a[1].kept.keys() == b[1].kept.keys()
    assert a[1].kept
    assert all(torch.equal(tensor, b[1].kept[name]) for name, tensor in a[1].kept.items())
