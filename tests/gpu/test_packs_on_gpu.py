"""Packs on a card: against PEFT, to the bit beside others, and when its memory runs out."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import (
    TWENTY,
    advance,
    alone,
    assert_equal_trials,
    assert_same,
    baseline_of,
    finish,
    with_nobody,
)
from transformers import AutoModelForCausalLM, LlamaConfig

from rayul.records import COMPLETED
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Packs, Shape
from rayul.unlearn.task import load_task

pytestmark = pytest.mark.gpu

MakeSpec = Callable[..., Any]
# On a CPU the slow tests of tests/unlearn compile, which takes its compiler half a minute.
COMPILED = [False] if os.environ.get("RAYUL_TOY") == "1" else [False, True]
NLL = {"float32": 1e-4, "bfloat16": 5e-2}
"""In nats. The two sum in different orders, and bfloat16 has 8 bits: rows of a batch alone differ by as much."""


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("dtype", NLL)
@pytest.mark.parametrize("method", ["gd", "npo"])
def test_a_packed_trial_equals_peft_alone(
    method: str, dtype: str, compiled: bool, make_spec: MakeSpec, sets: Any, tiny_folder: Path
) -> None:
    sections = {"model": {"path": str(tiny_folder), "dtype": dtype}, "resources": {"compile": compiled}}
    spec = make_spec(method=method, lora={"r": 4}, training=TWENTY, **sections)
    neighbour = make_spec(method="gd", training=TWENTY, **sections)
    task = load_task(spec, sets)
    pack = Pack(task, spec, Shape(slots=3, rank=8, rows=2, compiled=compiled))
    pack.join(TrialJob("n", neighbour, 0, {}, baseline_of(task, spec)))
    slot = pack.join(TrialJob("t", spec, 7, {}, baseline_of(task, spec)))
    rows = finish(pack, slot)
    weights = 1e-3 if dtype == "float32" else None
    assert_equal_trials(pack, slot, rows, task, spec, 7, nll=NLL[dtype], weights=weights)
    assert rows[-1].metrics["forget.ppl"] > rows[0].metrics["forget.ppl"], "it has trained"


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("dtype", NLL)
def test_neighbours_slot_and_join_step_change_no_bit(
    dtype: str, compiled: bool, make_spec: MakeSpec, sets: Any, tiny_folder: Path
) -> None:
    sections = {"model": {"path": str(tiny_folder), "dtype": dtype}, "resources": {"compile": compiled}}
    spec = make_spec(method="gd", training={"steps": 4}, **sections)
    task = load_task(spec, sets)
    baseline = baseline_of(task, spec)
    shape = Shape(slots=4, rank=8, rows=2, compiled=compiled)
    expected = with_nobody(task, spec, baseline, shape)
    pack = Pack(task, spec, shape)
    for seed, (method, lr) in enumerate((("npo", 1e-3), ("gd", 1e25), ("kl", 1e-2))):
        pack.join(TrialJob(method, make_spec(method=method, training={"lr": lr, "steps": 9}, **sections), seed, {}, {}))
    advance(pack)
    slot = pack.join(TrialJob("t", spec, 3, {}, baseline))
    assert_same(expected, (finish(pack, slot), pack.state(slot)))


def test_memory_that_runs_out_splits_the_pack_and_kills_no_trial(
    make_spec: MakeSpec, sets: Any, card_only: None
) -> None:
    """The card gives this process half of what one turn of all eight slots takes; four of them fit."""
    training = {"lr": 1e-2, "steps": 6, "evaluate_every": 6, "batch_size": 4}
    spec = make_spec(training=training, lora={"r": 4, "alpha": 4}, evaluate={"batch_size": 1})
    task = load_task(spec, sets)
    wide = LlamaConfig(
        vocab_size=len(task.tokenizer), hidden_size=256, intermediate_size=32768, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    task.base = AutoModelForCausalLM.from_config(wide).to(task.device).eval().requires_grad_(False)

    def begun() -> Packs:
        packs = Packs(task, spec, Shape(slots=8, rank=4, rows=4))
        for seed in range(8):
            packs.join(TrialJob(str(seed), spec, seed, {}, baseline_of(task, spec)))
        packs.turn()  # step 0 of all
        free_memory()
        return packs

    def free_memory() -> None:
        gc.collect()
        torch.cuda.empty_cache()

    packs = begun()
    torch.cuda.reset_peak_memory_stats()
    packs.turn()
    peak = torch.cuda.max_memory_reserved()
    del packs
    packs = begun()
    held = torch.cuda.memory_reserved()
    assert peak - held > 2**26, "a turn takes memory that can be missed"
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((held + (peak - held) / 2) / total)
    ends = {}
    try:
        while (reports := packs.turn()) is not None:
            ends |= {report.trial_id: report.ending.state for report in reports if report.ending is not None}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        free_memory()
    assert packs.splits
    assert ends == {str(seed): COMPLETED for seed in range(8)}


def test_a_trial_trains_on_a_base_in_four_bits(
    make_spec: MakeSpec, sets: Any, tiny_folder: Path, card_only: None
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    spec = make_spec(model={"path": str(tiny_folder), "quantize": "4bit"}, training=TWENTY)
    rows, weights, ending = alone(load_task(spec, sets), spec, 0)
    assert ending.state == COMPLETED
    assert all(bool(b.abs().max() > 0) for _, b in weights.values())
    assert rows[-1].metrics["forget.ppl"] > rows[0].metrics["forget.ppl"]
