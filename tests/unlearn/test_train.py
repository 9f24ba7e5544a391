"""The loop against a plain PEFT + torch loop; seeds, micro-batches, adapters, divergence."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import finish
from peft import PeftModel

from rayul.records import BASELINE, COMPLETED, FAILED
from rayul.spec import METHODS
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.forward import score
from rayul.unlearn.gradients import Ask, Memory
from rayul.unlearn.gradients.gru import gru
from rayul.unlearn.job import TrialJob
from rayul.unlearn.model import load_model
from rayul.unlearn.order import row_order
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.task import load_task
from rayul.unlearn.tokens import batches
from rayul.unlearn.train import accumulate_gradient, evaluation_steps, train
from rayul.unlearn.trial import reference_evaluation, run_trial
from rayul.unlearn.update.lora import LoraUpdate, attach_lora
from rayul.unlearn.update.saved import detach_adapter, load_adapter

MakeSpec = Callable[..., Any]


def trained(task: Any, spec: Any, seed: int = 3) -> dict[str, torch.Tensor]:
    model = attach_lora(task.base, spec.lora, seed)
    for _ in train(LoraUpdate(model), task, spec, seed):
        pass
    state = {k: v.detach().clone() for k, v in model.named_parameters() if "lora_" in k}
    detach_adapter(model)
    return state


def test_equals_a_plain_peft_and_adamw_loop_with_transformers_own_loss(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(training={"weight_decay": 0.01, "warmup_steps": 3})
    seed = 3
    ours = trained(task, spec, seed)

    model = attach_lora(task.base, spec.lora, seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    order = batches(len(task.examples["forget"]), 4, torch.Generator().manual_seed(seed))
    for step in range(1, 7):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, step / 3)
        loss = torch.zeros(())
        rows = next(order)
        for i in rows:
            e = task.examples["forget"][i]
            labels = [-100] * e.start + list(e.ids[e.start : e.stop]) + [-100] * (len(e.ids) - e.stop)
            loss = loss - model(input_ids=torch.tensor([e.ids]), labels=torch.tensor([labels])).loss / len(rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    theirs = {k: v.detach().clone() for k, v in model.named_parameters() if "lora_" in k}
    detach_adapter(model)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=1e-5), name


@pytest.mark.parametrize("method", ["gd", "rmu", "kl"])
def test_gradient_checkpointing_computes_layers_again_and_changes_nothing(
    method: str, task: Any, make_spec: MakeSpec
) -> None:
    calls = []
    handle = task.base.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    plain = trained(task, make_spec(method=method))
    forwards = len(calls)
    again = trained(task, make_spec(method=method, training={"gradient_checkpointing": True}))
    handle.remove()
    assert len(calls) - forwards > forwards, "the backward pass computes the layer once more"
    assert all(torch.allclose(plain[k], again[k], atol=1e-6) for k in plain)
    assert not any(module.training for module in task.base.modules())


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(method={"name": "gd", "retain_weight": 1.0})
    first, again, other = trained(task, spec, 1), trained(task, spec, 1), trained(task, spec, 2)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_the_adapter_only(name: str, task: Any, make_spec: MakeSpec) -> None:
    before = {k: v.clone() for k, v in task.base.state_dict().items()}
    state = trained(task, make_spec(method=name, control={"temperature": 1.5, "token_cap": 30.0}))
    assert any(v.abs().sum() > 0 for k, v in state.items() if "lora_B" in k)
    assert all(torch.isfinite(v).all() for v in state.values())
    after = task.base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("name", ["gd", "npo", "rmu", "dpo"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(name: str, task: Any, make_spec: MakeSpec) -> None:
    gradients = []
    for size in (None, 2):
        spec = make_spec(method=name, training={"micro_batch_size": size})
        model = attach_lora(task.base, spec.lora, seed=0)
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(1))
        direction = torch.ones(32) if name == "rmu" else None
        accumulate_gradient(LoraUpdate(model), task, spec, [0, 1, 2, 3], [0, 1, 2, 3], direction)
        # rmu reads a middle layer, so the layers above it have no gradient at all
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad and p.grad is not None])
        detach_adapter(model)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def surgery(memory: Memory, u: torch.Tensor, r: torch.Tensor, gamma: float) -> torch.Tensor:
    rule = gru(torch.zeros_like(u), memory, 1, gru_gamma=gamma)
    assert next(rule) == Ask("loss")
    assert rule.send(u) == Ask("retain_nll")
    with pytest.raises(StopIteration) as end:
        rule.send(r)
    found: torch.Tensor = end.value.value
    return found


def test_gradient_surgery_projects_only_what_conflicts() -> None:
    r = torch.tensor([1.0, 1.0])
    # <u, r> = -1 < 0: u - (-1 / 2) r
    projected = surgery({}, torch.tensor([1.0, -2.0]), r, 1.0)
    assert projected.tolist() == [1.5, -1.5]
    assert float(projected @ r) == 0.0
    assert surgery({}, torch.tensor([3.0, -1.0]), r, 1.0).tolist() == [3.0, -1.0]


def test_gradient_surgery_smooths_the_retain_gradient() -> None:
    memory: Memory = {}
    for value, expected in ((4.0, 4.0), (0.0, 3.0)):
        surgery(memory, torch.tensor([1.0]), torch.tensor([value]), 0.25)
        assert memory["retain"].item() == expected


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (60, 5, list(range(0, 61, 5))),
        (7, 5, [0, 5, 7]),
        (1, 5, [0, 1]),
        (12, "geometric", [0, 1, 2, 3, 4, 6, 8, 11, 12]),
        (1, "geometric", [0, 1]),
    ],
)
def test_evaluation_steps(steps: int, every: int | str, expected: list[int], make_spec: MakeSpec) -> None:
    assert evaluation_steps(make_spec(training={"steps": steps, "evaluate_every": every})) == expected


def test_forget_and_retain_rows_are_drawn_independently(task: Any, make_spec: MakeSpec) -> None:
    assert len(task.examples["forget"]) == len(task.examples["retain_train"])
    orders = itertools.islice(row_order(task, make_spec(method="gd"), 0), 12)
    assert any(forget != retain for forget, retain in orders)


def test_batches_are_permutations_and_never_repeat_a_row_within_one() -> None:
    order = batches(5, 2, torch.Generator().manual_seed(0))
    seen = [i for _ in range(5) for i in next(order)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5))
    assert sorted(next(batches(3, 8, torch.Generator().manual_seed(0)))) == [0, 1, 2]


def test_a_trial_yields_its_evaluations_and_step_zero_is_the_baseline(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(control={"criteria": [{"metric": "retain.prob", "at_least": 0.0}]})
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    snapshots = list(run_trial(task, TrialJob("0000", spec, 5, {"training.lr": 1e-3}, baseline)))
    rows = [e for s in snapshots for e in s.evaluations]
    assert [r.step for r in rows] == [0, 2, 4, 6]
    assert [s.ending for s in snapshots] == [None] * 3 + [rows[-1].ended(COMPLETED)]
    assert rows[0].metrics == baseline
    assert rows[-1].metrics["forget.prob"] < baseline["forget.prob"]
    assert rows[-1].rows == {"forget": 6, "retain": 6}
    assert all(r.feasible and r.violation == {"retain.prob": pytest.approx(-r.metrics["retain.prob"])} for r in rows)
    # and a fresh adapter does change nothing, which is why the baseline may stand for step 0
    model = attach_lora(task.base, spec.lora, 5)
    assert evaluate(model, task, spec.evaluate.metrics, 64).values == pytest.approx(baseline, rel=1e-6)
    detach_adapter(model)


@pytest.mark.parametrize("rule", [False, True])
def test_a_trial_reads_the_sets_that_steer_and_those_that_the_spec_adds(
    sets: Any, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: bool
) -> None:
    """A pruning rule of one's own may look at any metric, so it has them all. What is not read has no key at all."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def rule(trial, others, baseline):\n    return None\n")
    only = {"objectives": {"forget.es": "minimize"}, "control": {"criteria": [{"metric": "forget.es", "at_most": 1}]}}
    spec = make_spec(**only, evaluate={"sets": ["general"]}, pruning={"rules": ["./mine.py:rule"] if rule else []})
    task = load_task(spec, sets)
    baseline = reference_evaluation(task, spec, BASELINE).metrics
    alone = [e for s in run_trial(task, TrialJob("t", spec, 5, {}, baseline)) for e in s.evaluations]
    pack = Pack(task, spec, Shape(2, 8, 4))
    packed = finish(pack, pack.join(TrialJob("t", spec, 5, {}, baseline)))
    read = {"forget", "general", "retain"} if rule else {"forget", "general"}
    for e in [*alone[1:], *packed[1:]]:
        assert e.rows.keys() == e.groups.keys() == read
        assert {key.partition(".")[0] for key in [*e.metrics, *e.stderr]} == read
    assert {"retain.es", "retain_report.es"} <= baseline.keys(), "a reference is measured whole"


def test_a_trial_that_diverges_fails_and_has_only_what_was_evaluated(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(training={"lr": 1e25})
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    *before, last = run_trial(task, TrialJob("0000", spec, 3, {"training.lr": 1e25}, baseline))
    rows = [e for s in before for e in s.evaluations]
    assert [s.ending for s in before] == [None] * len(before)
    assert (last.evaluations, last.update) == ([], None)
    assert last.ending is not None
    assert (last.ending.state, last.ending.rule) == (FAILED, "diverged")
    assert "diverged" in last.ending.reason
    assert (last.ending.trial_id, last.ending.seed, last.ending.params) == ("0000", 3, {"training.lr": 1e25})
    assert last.ending.train_seconds >= rows[-1].train_seconds
    assert len({r.key for r in rows}) == len(rows)
    assert all(r.metrics for r in rows)
    # the base is unharmed: the next trial in this process starts from the same model
    assert evaluate(task.base, task, spec.evaluate.metrics, 64).values == baseline


class Scarce:
    """A forward pass with more than `fits` rows runs out of memory, from the second step on."""

    def __init__(self, base: Any, fits: int, after: int = 3) -> None:
        self.fits, self.left = fits, after
        self.sizes: list[int] = []
        self.handle = base.register_forward_pre_hook(self.check, with_kwargs=True)

    def check(self, module: Any, args: Any, kwargs: Any) -> None:
        size = len(kwargs["input_ids"] if "input_ids" in kwargs else args[0])
        self.sizes.append(size)
        self.left -= 1
        if size > self.fits and self.left < 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_a_trial_that_runs_out_of_memory_begins_again_with_half_as_many_rows_and_says_so(
    task: Any, make_spec: MakeSpec
) -> None:
    spec = make_spec(method="gd", training={"steps": 4, "evaluate_every": 2}, evaluate={"batch_size": 4})
    calm = [s.evaluations[-1] for s in run_trial(task, TrialJob("0000", spec, 1, {}, {}))]
    memory = Scarce(task.base, fits=2)
    try:
        snapshots = list(run_trial(task, TrialJob("0000", spec, 1, {}, {})))
    finally:
        memory.handle.remove()
    rows = [s.evaluations[-1] for s in snapshots]
    assert [r.step for r in rows] == [0, 0, 2, 4], "it begins again"
    assert [s.ending for s in snapshots] == [None, None, None, rows[-1].ended(COMPLETED)]
    assert rows[0].notes == ()
    assert {r.notes for r in rows[1:]} == {("out of memory after step 0: started again with 2 rows per forward pass",)}
    for mine, other in zip(rows[1:], calm, strict=True):
        assert mine.metrics == pytest.approx(other.metrics, rel=1e-4), "the gradient is accumulated"
    assert max(memory.sizes[-6:]) <= 2


def test_a_trial_that_runs_out_of_memory_twice_fails(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(training={"steps": 4, "evaluate_every": 2}, evaluate={"batch_size": 4})
    memory = Scarce(task.base, fits=1)
    try:
        *before, last = run_trial(task, TrialJob("0000", spec, 1, {}, {}))
    finally:
        memory.handle.remove()
    assert [s.ending for s in before] == [None] * len(before)
    assert last.ending is not None
    assert (last.ending.state, last.ending.rule) == (FAILED, "out of memory")
    assert last.ending.reason.startswith("out of memory: lower training.batch_size")
    assert sum(e.step == 0 for s in before for e in s.evaluations) == 2, "it was begun again once"


def test_an_error_inside_a_trial_is_a_failure_with_its_reason(task: Any, make_spec: MakeSpec) -> None:
    spec = make_spec(lora={"target_modules": ["no_such_layer"]})
    (only,) = run_trial(task, TrialJob("0000", spec, 0, {}, {}))
    assert only.evaluations == []
    assert only.ending is not None
    assert (only.ending.state, only.ending.rule) == (FAILED, "InputError")
    assert "no_such_layer" in only.ending.reason


@pytest.mark.parametrize("mixing", [1.0, 0.4])
def test_a_saved_adapter_gives_the_same_scores_through_peft(
    mixing: float, task: Any, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(training={"lr": 1e-2})
    model = attach_lora(task.base, spec.lora, 0)
    for _ in train(LoraUpdate(model), task, spec, 0):
        pass
    with LoraUpdate(model).mixed(mixing):
        expected = score(model, task.examples["retain"], task.pad)
    LoraUpdate(model).save(mixing, tmp_path / "adapter")
    detach_adapter(model)
    fresh, _ = load_model(spec.model)
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    ours = load_adapter(load_model(spec.model)[0], tmp_path / "adapter")
    for other in (loaded, ours):
        for a, b in zip(expected, score(other, task.examples["retain"], task.pad), strict=True):
            assert a.logp == pytest.approx(b.logp, abs=1e-5)
            assert (a.match == b.match).all()
    assert not list((tmp_path / "adapter").glob("*.bin")), "no pickle is written"
