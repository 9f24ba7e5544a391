"""A pretrained model in packs: SmolLM2-135M with its chat template, tied embeddings, grouped-query attention and 49k
tokens, against PEFT alone."""

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


@pytest.mark.slow
@pytest.mark.skipif(
    not PACKAGED["smollm2"].files() or find_spec("gguf") is None, reason=f"needs {PACKAGED['smollm2'].command}"
)
def test_packed_trials_of_smollm2_equal_peft_alone(make_spec: Callable[..., Any], sets: Any) -> None:
    training = {"lr": 1e-3, "steps": 3, "evaluate_every": 3, "batch_size": 2}
    common = {"model": "smollm2", "lora": {"r": 4}, "training": training}
    specs = [make_spec(method=method, **common) for method in ("gd", "npo")]
    sets = {name: rows[:3] for name, rows in sets.items()}
    task = load_task(specs[0], sets)
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
