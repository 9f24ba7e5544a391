"""The device of a pack without Ray: trials join, report, start again and leave, and nothing of theirs is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devices import SHAPE, STEPS, join, of, reported
from packed import advance
from safetensors.torch import load_file

from rayul.records import BASELINE, Evaluation
from rayul.sweep.packs.device import CHECKPOINTS, Device
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack


def test_rows_are_those_of_a_pack(make_device: Callable[..., Device], task: Any) -> None:
    device = make_device()
    join(device, 0)
    found = reported(device, 0)
    pack, expected = Pack(task, device.spec, SHAPE), []
    pack.join(TrialJob("0000", device.spec, 0, {}, device.measure(BASELINE).metrics))
    while events := advance(pack):
        expected += [row for _, rows in events for row in rows]
    assert [row.step for row in found] == [0, 2, 4, 6]
    assert of(found) == of(expected)
    assert {row.numerics for row in found} == {"2 slots of 4 rows, rank 8, 1 evaluated at a time, float32, 1 thread"}


def test_it_starts_again_though_its_last_report_is_still_to_be_taken(make_device: Callable[..., Device]) -> None:
    """Its leaving and its joining reach the training thread together, and there is no other trial to wake that."""
    device = make_device()
    baseline = device.measure(BASELINE)
    device.join(0, {}, baseline)
    reported(device, 0, 1)
    with device.changed:
        device.changed.wait_for(lambda: device.seats[0].ready, timeout=60)
        device.join(0, {}, baseline)
    rows: list[Evaluation] = []
    thread = threading.Thread(target=lambda: rows.extend(reported(device, 0)), daemon=True)
    thread.start()
    thread.join(60)
    assert [row.step for row in rows] == [0, 2, 4, 6]


def test_a_torn_checkpoint_costs_a_new_start(make_device: Callable[..., Device], tmp_path: Path) -> None:
    first = make_device(checkpoint_every=0.0)
    join(first, 0)
    reported(first, 0, 3)
    path = tmp_path / CHECKPOINTS / "0000.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    second = make_device()
    join(second, 0)
    assert [row.step for row in reported(second, 0)] == [0, 2, 4, 6]


def test_a_trial_that_cannot_begin_fails(make_device: Callable[..., Device]) -> None:
    device = make_device(method={"name": "rmu", "layer": {"choice": [1, 99]}})
    for number, layer in ((0, 99), (1, 1)):
        join(device, number, {"method.layer": layer})
    result = device.next(0)
    assert (result.evaluations, result.ended) == ([], True)
    failed = result.ending
    assert failed is not None
    assert failed.state == "failed"
    assert failed.reason
    assert failed.params == {"method.layer": 99}
    assert reported(device, 1)[-1].step == STEPS["steps"]


def test_adapters_of_the_trials_own_front_are_in_the_results(
    make_device: Callable[..., Device], task: Any, tmp_path: Path
) -> None:
    """Those of the step that was reported, though the trial has trained on since."""
    device = make_device(objectives={"forget.prob": "minimize", "retain.prob": "maximize"})
    join(device, 0)
    rows = reported(device, 0, 2)
    pack = Pack(task, device.spec, SHAPE)
    pack.join(TrialJob("0000", device.spec, 0, {}, device.measure(BASELINE).metrics))
    advance(pack)
    advance(pack)
    pack.write_adapter(device.spec, pack.state(0).values, 1.0, tmp_path / "expected")
    assert rows[-1].step == 2
    saved = load_file(tmp_path / "adapters" / "0000-2-1" / "adapter_model.safetensors")
    expected = load_file(tmp_path / "expected" / "adapter_model.safetensors")
    assert saved.keys() == expected.keys()
    assert all((saved[name] == expected[name]).all() for name in saved)


OUT_OF_MEMORY = """
import resource, sys, pickle
import torch
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Packs, Shape
torch.set_num_threads(1)
task, spec, baseline = pickle.loads(sys.stdin.buffer.read())
packs = Packs(task, spec, Shape(slots=8, rank=4, rows=4))
for seed in range(8):
    packs.join(TrialJob(str(seed), spec, seed, {}, baseline))
packs.turn()  # step 0 of all
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]), -1))
ends = []
while (reports := packs.turn()) is not None:
    ends += [(r.trial_id, r.ending.state, r.ending.reason) for r in reports if r.ending is not None]
print(len(packs.splits), sorted(ends))
"""


def test_memory_that_runs_out_splits_the_pack_and_kills_no_trial(
    make_spec: Callable[..., Any], sets: Any, tmp_path: Path
) -> None:
    """A limit on the address space, set in a process of its own: a forward of 8 x 4 rows does not fit, one of fewer
    slots does. (Malloc must give back what it frees, or the second forward would find nothing.)"""
    import pickle

    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from rayul.unlearn.task import load_task

    spec = make_spec(training=STEPS | {"evaluate_every": 6}, lora={"r": 4, "alpha": 4}, evaluate={"batch_size": 1})
    task = load_task(spec, sets)
    torch.manual_seed(0)
    wide = LlamaConfig(
        vocab_size=len(task.tokenizer), hidden_size=64, intermediate_size=4096, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    task.base = AutoModelForCausalLM.from_config(wide).eval().requires_grad_(False)
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 1).values
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(130 * 2**20)],
        input=pickle.dumps((task, spec, baseline)),
        capture_output=True,
        timeout=250,
        check=False,
        env={"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    splits, _, ends = done.stdout.decode().strip().partition(" ")
    assert int(splits) > 0
    assert ends == str(sorted((str(seed), "completed", "") for seed in range(8)))
