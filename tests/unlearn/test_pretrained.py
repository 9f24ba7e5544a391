"""Pretrained models in packs, against PEFT alone: SmolLM2-135M with its chat template and 49k tokens, and Gemma 3 270M
with sliding windows and 262k tokens; both with tied embeddings and grouped-query attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
from packed import advance, alone, baseline_of

from rayul.spec import PACKAGED
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.task import load_task


def installed(name: str) -> Any:
    here = PACKAGED[name].files() and find_spec("gguf")
    return pytest.param(name, marks=pytest.mark.skipif(not here, reason=f"needs {PACKAGED[name].command}"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [installed(name) for name in PACKAGED])
def test_packed_trials_equal_peft_alone(name: str, make_spec: Callable[..., Any], sets: Any) -> None:
    training = {"lr": 1e-3, "steps": 3, "evaluate_every": 3, "batch_size": 2}
    common = {"model": name, "lora": {"r": 4}, "training": training}
    specs = [make_spec(method=method, **common) for method in ("gd", "npo")]
    sets = {name: rows[:3] for name, rows in sets.items()}
    task = load_task(specs[0], sets)
    if name == "smollm2":
        assert "<|im_start|>system" in task.tokenizer.decode(task.examples["forget"][0].ids)
    baseline = baseline_of(task, specs[0])
    pack = Pack(task, specs[0], Shape(slots=2, rank=4, rows=2))
    slots = [pack.join(TrialJob(f"{seed}", spec, seed, {}, baseline)) for seed, spec in enumerate(specs)]
    last = {}
    while not all(pack.slots[slot].ended for slot in slots):
        last |= {slot: rows[-1] for slot, rows in advance(pack) if rows}
    for seed, (slot, spec) in enumerate(zip(slots, specs, strict=True)):
        ours, theirs = last[slot].metrics, alone(task, spec, seed)[0][-1].metrics
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if key.endswith(".ppl"):
                assert math.log(ours[key]) == pytest.approx(math.log(value), abs=1e-4), "NLL in nats"
            else:
                assert ours[key] == pytest.approx(value, abs=1e-5), key
        assert ours["forget.ppl"] > baseline["forget.ppl"], "it has trained"
