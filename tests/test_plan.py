"""`rayul plan`: the space counted, the probe, the estimates, the history, the warnings, and that nothing is written."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayul.plan import Plan, plan_text
from rayul.plan.history import saved_by_pruning
from rayul.records import COMPLETED, FAILED, PRUNED, RUNNING, Evaluation, Journal
from rayul.spec import dump_yaml, heaviest
from rayul.unlearn.data import write_rows
from rayul.unlearn.measured import Measured
from tests.conftest import rows_of

# --- the space ---------------------------------------------------------------------------------------------------


def test_size_of_a_grid_is_its_number_of_cells(make_spec: Callable[..., Any]) -> None:
    from rayul.sweep.search.samplers import grid

    spec = make_spec(
        method={"name": {"choice": ["ga", "gd", "npo"]}, "retain_weight": {"float": [0, 1], "step": 0.25}},
        lora={"r": {"int": [4, 16], "step": 4}, "alpha": {"choice": [8, 16]}},
        search={"sampler": "grid"},
    )
    assert spec.size == (len(list(grid(spec))), ())


def test_size_counts_around_what_is_continuous(make_spec: Callable[..., Any]) -> None:
    spec = make_spec(
        method={
            "name": {"choice": ["ga", "npo"]},
            "beta": {"float": [0.1, 1.0]},
            "retain_loss": {"choice": ["nll", "kl"]},
        },
        training={"lr": {"float": [1e-4, 1e-2], "log": True}, "batch_size": {"choice": [2, 4, 6]}},
    )
    batch_sizes, retain_losses = 3, 2
    assert spec.size == (batch_sizes + retain_losses * batch_sizes, ("method.beta", "training.lr"))
    assert spec.conditional == ["method.beta", "method.retain_loss"]
    assert make_spec().size == (1, ())


def test_the_heaviest_corner_is_a_trial_of_the_space(make_spec: Callable[..., Any]) -> None:
    spec = make_spec(
        method={"name": {"choice": ["ga", "npo", "gd"]}, "beta": {"float": [0.1, 1.0]}},
        lora={"r": {"choice": [16, 4]}},
        training={
            "lr": {"float": [1e-4, 1e-2]},
            "batch_size": {"int": [2, 6]},
            "steps": {"choice": [10, 40]},
            "evaluate_every": {"choice": [5, 2, 10]},
            "micro_batch_size": {"choice": [1, None]},
        },
        control={"mixing": {"choice": [False, True]}, "select_by": {"choice": ["largest", "smallest"]}},
    )
    trial = spec.at(heaviest(spec))
    assert (trial.method.name, trial.lora.r, trial.control.mixing) == ("npo", 16, True)
    training = trial.training
    assert (training.lr, training.batch_size, training.steps, training.evaluate_every) == (1e-4, 6, 40, 2)
    assert training.micro_batch_size is None


# --- the probe and the estimates ---------------------------------------------------------------------------------


def test_the_probe_measures_the_baseline_and_the_adapter(make_spec: Callable[..., Any], sets: Any, task: Any) -> None:
    from rayul.unlearn.cost import measure_cost
    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.update.lora import attach_lora

    spec = make_spec(method="npo", training={"steps": 10, "evaluate_every": 4})
    cost = measure_cost(spec, sets)
    assert cost.steps == 10
    assert cost.evaluations == 3  # after 4, 8 and 10 steps
    assert min(cost.step, cost.evaluation, cost.load, cost.start) > 0
    expected = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    assert {k: m.value for k, m in cost.baseline.items()} == pytest.approx(expected, rel=1e-5)
    assert 0 < cost.held <= cost.memory < cost.device_memory
    model = attach_lora(task.base, spec.lora, 0)
    assert cost.saved == 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    model.unload()


def test_the_probe_of_a_full_update_counts_whole_models(make_spec: Callable[..., Any], sets: Any, task: Any) -> None:
    from rayul.unlearn.cost import measure_cost

    cost = measure_cost(make_spec(update="full", method="npo"), sets)
    assert cost.base == cost.trained == cost.saved == 4 * sum(p.numel() for p in task.base.parameters())
    half = {"path": make_spec().model.path, "dtype": "bfloat16"}
    halved = measure_cost(make_spec(update="full", model=half), sets)
    assert (halved.base, halved.trained, halved.saved) == (cost.base // 2, cost.trained, cost.saved)


@pytest.mark.slow
def test_the_memory_of_a_full_update_is_that_of_five_models(
    make_spec: Callable[..., Any], data_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """Of the peak of a process that probes an adapter, less than two are: base, and activations that both have."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "head_dim": 128}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_folder, **wide)).save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "wide")
    code = """
import sys
from rayul.spec import load_spec
from rayul.unlearn.cost import measure_cost
from rayul.unlearn.data import load_sets
spec = load_spec(sys.argv[1])
cost = measure_cost(spec, load_sets(spec.data))
print(cost.memory, cost.base, cost.trained)
"""
    found = {}
    for kind in ("lora", "full"):
        spec = make_spec(update=kind, model=str(tmp_path / "wide"), training={"batch_size": 2})
        (tmp_path / f"{kind}.yaml").write_text(dump_yaml(spec.resolved()))
        argv = [sys.executable, "-c", code, str(tmp_path / f"{kind}.yaml")]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        found[kind] = [int(word) for word in done.stdout.split()]
    (adapter, base, _), (full, _, trained) = found["lora"], found["full"]
    assert base == trained > 80 * 2**20
    assert 3.5 * trained < full - adapter < 5 * trained


@pytest.fixture
def make_plan(make_spec: Callable[..., Any], tmp_path: Path) -> Callable[..., Plan]:
    """make_plan(spec sections, slots=1, pack=1, gpu=0.0, baseline={...}, cost={...}) -> a plan as if measured."""
    from rayul.sweep.cluster import Allocation
    from rayul.unlearn.cost import Cost

    def make(
        *,
        slots: int = 1,
        pack: int = 1,
        gpu: float = 0.0,
        baseline: Any = None,
        rows: Any = None,
        cost: Any = None,
        **spec: Any,
    ) -> Plan:
        known = {"forget.es": (1.0, 0.0), "retain.es": (1.0, 0.0)} | (baseline or {})
        made = make_spec(**spec)
        measured = Cost(
            device="NVIDIA L4" if gpu else "cpu",
            load=0.0,
            start=1.0,
            step=2.0,
            evaluation=3.0,
            steps=10,
            evaluations=5,
            memory=2**30,
            device_memory=2**34,
            base=1000,
            trained=1000,
            saved=1000,
            baseline={key: Measured(value, error, 100, 100) for key, (value, error) in known.items()},
        )
        combinations, continuous = made.size
        return Plan(
            spec=made,
            results=tmp_path,
            combinations=combinations,
            continuous=continuous,
            rows={"forget": 6, "retain": 6} | (rows or {}),
            samples={"retain": ["a sample"]},
            probed=heaviest(made),
            cost=measured._replace(**(cost or {})),
            allocation=Allocation(1.0, gpu, slots, f"{slots} at a time", pack),
            saved=None,
            disk_free=10**12,
        )

    return make


def test_gpus_that_trials_do_not_see_are_a_warning(make_plan: Callable[..., Plan]) -> None:
    assert [line for line in make_plan(gpu=1.0, cost={"device": "cpu"}).warnings if "PyTorch sees none" in line]
    for seen in (make_plan(gpu=1.0), make_plan()):
        assert not [line for line in seen.warnings if "PyTorch" in line]


def test_times_add_up(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(search={"trials": 64}, slots=2)
    assert plan.trial_seconds == 1 + 10 * 2 + 5 * 3
    assert plan.seconds() == pytest.approx(32 * 36)
    assert plan.device_hours() == pytest.approx(64 * 36 / 3600)
    assert plan.device_hours(saved=0.75) == pytest.approx(16 * 36 / 3600)
    # four trials on one GPU: measured alone, so that sharing it gains nothing
    gpu = make_plan(search={"trials": 64}, slots=4, gpu=0.25)
    assert gpu.seconds() == pytest.approx(64 * 36)
    assert gpu.device_hours() == pytest.approx(64 * 36 / 3600)
    # two GPUs a trial
    assert make_plan(search={"trials": 4}, slots=2, gpu=2.0).device_hours() == pytest.approx(4 * 36 * 2 / 3600)
    # one trial is never shorter than itself
    assert make_plan(search={"trials": 1}, slots=8).seconds() == pytest.approx(36)


def test_finalists_are_counted_as_trials_that_run_to_their_end(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(finalists={"n": 3, "seeds": 4}, slots=2)
    assert plan.retrained == 12
    assert plan.retraining_seconds == pytest.approx(plan.cost.load + 12 / 2 * 36)
    assert "12 models trained again" in plan_text(plan)
    without = make_plan(slots=2)
    assert plan.disk - without.disk == 12 * plan.cost.saved
    assert make_plan(finalists={"points": ["0001", "0002-35"], "seeds": 5}).retrained == 10
    assert "trained again" not in plan_text(make_plan())


def test_calibration_costs_seven_evaluations_at_the_most(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(control={"mixing": True, "criteria": [{"metric": "retain.es", "at_least": "90% of baseline"}]})
    assert plan.measurements == 7 * 5
    cost = plan.cost
    assert plan.trial_seconds == cost.start + cost.steps * cost.step + 35 * cost.evaluation


def test_the_usual_time_is_that_of_the_evaluations_that_calibration_usually_takes(
    make_plan: Callable[..., Plan],
) -> None:
    """In results/smollm2, 12 trials with three targets and two evaluations took 49.5 min, which 164 evaluations of 12 s
    and 240 steps of 6 s explain; the upper bound is 86 min."""
    cost = {"load": 5.0, "start": 0.0, "step": 6.0, "steps": 20, "evaluation": 12.0, "evaluations": 2}
    asked = {"control": {"tau": [0.95, 0.9, 0.8], "mixing": True}, "search": {"trials": 12}}
    plan = make_plan(**asked, slots=2, pack=2, cost=cost)
    assert plan.seconds() / 60 == pytest.approx(86, abs=1)
    assert plan.usual_seconds() / 60 == pytest.approx(49.5, rel=0.15)
    page = " ".join(plan_text(plan).split())
    assert "at most 7 min: 20 steps, 26 evaluations with calibration, with a device to itself; usually 5 min" in page
    assert "12 trials usually 55 min, at most 86 min, " in page
    plain = make_plan(cost=cost)
    assert plain.usual_seconds() == plain.seconds()
    assert "usually" not in plan_text(plain)


def test_a_grid_with_fewer_cells_than_trials(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(lora={"r": {"choice": [4, 8]}}, search={"sampler": "grid", "trials": 64})
    assert plan.trials == 2


# --- earlier sweeps ----------------------------------------------------------------------------------------------


def test_pruning_of_earlier_sweeps_of_the_same_space(make_spec: Callable[..., Any], tmp_path: Path) -> None:
    def sweep(name: str, ends: list[tuple[str, int]], **sections: Any) -> None:
        spec = make_spec(training={"lr": {"float": [1e-4, 1e-2]}, "steps": 20}, **sections)
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.yaml").write_text(dump_yaml(spec.resolved()))
        journal = Journal(tmp_path / name / "evaluations.jsonl")
        for number, (state, step) in enumerate(ends):
            params = {"training.lr": 1e-3}
            last = Evaluation(f"{number:04d}", step, params=params, metrics={"forget.es": 0.5})
            journal.append(last, *([last.ended(state)] if state != RUNNING else []))

    spec = make_spec(training={"lr": {"float": [1e-4, 1e-2]}, "steps": 20}, search={"trials": 500})
    assert saved_by_pruning(spec, tmp_path) is None
    assert saved_by_pruning(spec, tmp_path / "absent") is None
    sweep("first", [(COMPLETED, 20), (PRUNED, 5), (RUNNING, 2), (FAILED, 1)])
    sweep("second", [(PRUNED, 5)], search={"seed": 3}, resources={"trials_per_gpu": 2})
    sweep("other", [(COMPLETED, 20)], lora={"r": 4})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "spec.yaml").write_text("not: a spec")
    saved = saved_by_pruning(spec, tmp_path)
    assert saved is not None
    assert (saved.sweeps, saved.trials) == (2, 3)
    assert saved.share == pytest.approx(1 - (20 + 5 + 5) / 60)


# --- warnings ----------------------------------------------------------------------------------------------------

NINETY = {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline"}]}
SEARCHED = {"lr": {"float": [1e-4, 1e-2]}}


def test_nothing_to_warn_of(make_plan: Callable[..., Plan]) -> None:
    assert make_plan(training=SEARCHED, control=NINETY, search={"trials": 64}).warnings == []


def test_the_trials_of_a_pack_share_a_model(make_plan: Callable[..., Plan]) -> None:
    cost = {"memory": 3 * 2**30, "held": 2**30, "device_memory": 24 * 2**30}
    packed = make_plan(slots=8, pack=4, cost=cost)
    assert packed.memory_of_a_device == 2 * (1 + 4 * 2) * 2**30, "two processes on two cores"
    assert packed.fit_on_a_device == 2 * 5
    assert make_plan(slots=8, cost=cost).memory_of_a_device == 8 * 3 * 2**30
    assert make_plan(slots=8, cost=cost).fit_on_a_device == 8
    card = make_plan(slots=8, pack=4, gpu=0.25, cost=cost)  # two cards: each has one pack
    assert (card.memory_of_a_device, card.fit_on_a_device) == (9 * 2**30, 11)
    small = make_plan(slots=8, pack=4, cost=cost | {"device_memory": 5 * 2**30})
    assert small.fit_on_a_device == 1


def test_what_fits_into_memory_is_said_where_it_is_a_limit(make_plan: Callable[..., Plan]) -> None:
    cost = {"memory": 3 * 2**30, "held": 2**30, "device_memory": 24 * 2**30}
    assert "8 fit into 24 GiB" in plan_text(make_plan(slots=8, cost=cost))
    assert "fit into" not in plan_text(make_plan(slots=2, cost=cost))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"training": {"batch_size": {"choice": [4, 8]}}}, "batch_size up to 8 is larger than the forget set of 6"),
        ({"training": SEARCHED, "search": {"trials": 10}}, "startup_trials is 10 of 10 trials"),
        ({"training": SEARCHED, "search": {"trials": 64}, "slots": 9}, "9 of 64 trials run at a time"),
        (
            {
                "method": {"name": {"choice": ["ga", "gd"]}, "retain_weight": {"float": [0, 1]}},
                "search": {"sampler": "gp"},
            },
            "no model for method.retain_weight",
        ),
        (
            {"objectives": {"forget.es": "maximize"}},
            "maximize asks for the worse: es is better higher on rows that are to",
        ),
        ({"objectives": {"forget.ppl": "minimize"}}, "kept, and these are to be forgotten"),
        ({"baseline": {"forget.es": (-3.1, 0.1)}}, "objective forget.es is -3.1 for the model before unlearning"),
        ({"method": "po", "control": {"token_cap": 3.0}}, "control.token_cap has no effect on po"),
        ({"method": {"name": {"choice": ["po", "rmu"]}}, "control": {"temperature": 2.0}}, "temperature has no effect"),
        ({"control": {"loss_cap_of": "sum"}}, "loss_cap_of has no effect without control.loss_cap"),
        ({"control": {"select_by": "largest"}}, "select_by has no effect"),
        ({"control": {"ball_norm": "elementwise"}}, "ball_norm has no effect"),
        ({"control": {"mixing": True}}, "mixing has no effect without criteria"),
        (
            {"control": {"mixing": True, "criteria": [{"metric": "retain.es", "at_least": 0.5, "patience": 3}]}},
            "criteria.0.patience has no effect with control.mixing",
        ),
        ({"method": {"name": "ga", "gru_gamma": 0.5}}, "gru_gamma has no effect"),
        ({"method": {"name": "undial", "beta": 0.1}}, "method.beta 0.1 is far from undial's default of 10"),
        (
            {"method": {"name": {"choice": ["npo", "wga"]}, "beta": {"float": [0.02, 10.0]}}},
            "method.beta 0.02 to 10 is far from npo's default of 0.1",
        ),
        ({"training": {"micro_batch_size": 8}}, "micro_batch_size 8 has no effect"),
        (
            {
                "training": {"lr": {"float": [1e-4, 1e-2], "prior": {"center": 1e-3, "spread": 1e-3}}},
                "search": {"sampler": "random"},
            },
            "the prior of training.lr has no effect on sampler random",
        ),
        ({"search": {"sampler": "random", "startup_trials": 3}}, "startup_trials has no effect on sampler random"),
        (
            {"control": NINETY, "baseline": {"retain.es": (0.0, 0.0)}},
            "90% of baseline has no meaning, the baseline is 0",
        ),
        (
            {
                "control": {"criteria": [{"metric": "retain.es", "at_least": 0.8}]},
                "baseline": {"retain.es": (0.6, 0.01)},
            },
            "does not keep retain.es ≥ 0.8: its retain.es is 0.6",
        ),
        (
            {
                "control": {"criteria": [{"metric": "retain.ppl", "at_most": 2.0}]},
                "baseline": {"retain.ppl": (2.5, 0.01)},
            },
            "does not keep retain.ppl ≤ 2",
        ),
        ({"baseline": {"forget.es": (0.05, 0.01)}}, "there is little to forget"),
        ({"slots": 4, "cost": {"memory": 5 * 2**30}}, "20.0 of 16.0 GiB"),
        ({"search": {"trials": 10_000}, "cost": {"saved": 10**10}}, "GiB are needed"),
    ],
)
def test_warnings(make_plan: Callable[..., Plan], sections: dict[str, Any], said: str) -> None:
    warnings = make_plan(**sections).warnings
    assert any(said in warning for warning in warnings), warnings


@pytest.mark.parametrize(
    "sections",
    [
        {"method": {"name": {"choice": ["npo", "tnpo"]}, "beta": {"float": [0.01, 2.0]}}},
        {"method": {"name": "wga", "beta": 0.0}},
        {"method": {"name": {"choice": ["po", "npo"]}}, "control": {"token_cap": 3.0}},
        {"control": {"select_by": "largest", "select_fraction": 0.5}},
        {"control": {"select_by": "largest", "select_fraction": {"float": [0.5, 1.0]}}},
        {"search": {"sampler": "random", "trials": 5}, "slots": 5},
        {"training": {"micro_batch_size": 2}},
    ],
)
def test_no_warning_where_a_key_has_its_effect(make_plan: Callable[..., Plan], sections: dict[str, Any]) -> None:
    assert make_plan(**sections).warnings == []


def test_a_limit_finer_than_the_rows_can_tell(make_plan: Callable[..., Plan]) -> None:
    def said(limit: str | float, error: float = 0.0, value: float = 1.0) -> list[str]:
        control = {"criteria": [{"metric": "retain.es", "at_least": limit}]}
        return make_plan(control=control, baseline={"retain.es": (value, error)}).warnings

    # rows of which each is kept (1) or lost (0), on average to 99.4%; the plan's sets have 100
    error = float(np.r_[np.ones(994), np.zeros(6)].std()) / 10
    (warning,) = said("99.4% of baseline")
    assert "lies 0.006 from the baseline's 1, and on 100 rows a model at the limit has" in warning
    assert f"a standard error of up to {error:.3g}: " in warning
    assert f"{math.ceil(100 * (error / 0.006) ** 2)} rows would resolve it" in warning
    assert said("98% of baseline") == []
    # a set that is not all memorised shows its spread at once
    (warning,) = said(0.55, error=0.0777, value=0.6)
    assert "about 0.0777: 242 rows" in warning
    assert said(0.5, error=0.08, value=0.6) == []


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_page_has_every_part_and_no_forget_row(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(training=SEARCHED | {"batch_size": 8}, search={"trials": 64})
    page = plan_text(plan)
    for part in (
        "Spec",
        "Space",
        "Rows",
        "Cost",
        "Warnings (1)",
        "continuous in training.lr",
        "--show-forget",
        "unknown",
    ):
        assert part in page
    assert all(len(line) <= 100 for line in page.splitlines())
    from rayul.plan.history import Saved

    whole = " ".join(
        plan_text(make_plan(update="full", cost={"base": 2**21, "trained": 2**22, "saved": 2**22})).split()
    )
    assert "16 MiB for what update: full trains (weights, gradient and Adam's two moments, 4 MiB each), 2 MiB" in whole
    assert "a saved model has 4 MiB" in whole
    pruned = plan_text(replace(plan, saved=Saved(0.6, 2, 40)))
    assert "with the pruning of 2 earlier sweeps (60% of the steps of 40 trials saved)" in " ".join(pruned.split())


@pytest.mark.slow
def test_rows_that_are_kept_back_for_later_requests_are_in_the_table(
    make_spec: Callable[..., Any], tmp_path: Path
) -> None:
    people = tuple(f"Person {letter}" for letter in "ABCDEFGHIJKLMNOPQRST")
    for name, whose in (("forget", people[:2]), ("retain", people[2:])):
        write_rows(tmp_path / f"{name}.jsonl", rows_of(whose))
    shares = {"train": 0.4, "select": 0.2, "certify": 0, "report": 0.1, "reserve": 0.3}
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain")}
    plain = make_spec().resolved() | {"data": files | {"split": shares}}
    (tmp_path / "spec.yaml").write_text(dump_yaml(plain))
    argv = [sys.executable, "-m", "rayul", "plan", "spec.yaml"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = {line.split()[0]: line for line in done.stdout.partition("Rows\n")[2].partition("\n\n")[0].splitlines()}
    assert "read by nothing: kept back for the certificates of later requests" in table["reserve"]
    counts = {name: int(line.split()[1]) for name, line in table.items() if " in " in line}
    assert counts["reserve"] == pytest.approx(0.3 * len(rows_of(people[2:])), abs=3)
    assert sum(counts.values()) == len(rows_of(people)), "every row of both files is in one line"


@pytest.mark.slow
def test_the_command_prints_forget_rows_only_when_asked_and_writes_nothing(
    make_spec: Callable[..., Any], sets: Any, tmp_path: Path
) -> None:
    spec = make_spec(
        training=SEARCHED, control={"criteria": [{"metric": "retain.prob", "at_least": "90% of baseline"}]}
    )
    (tmp_path / "spec.yaml").write_text(dump_yaml(spec.resolved()))

    def plan(*flags: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "rayul", "plan", "spec.yaml", *flags]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = plan("--trials", "32")
    assert done.returncode == 0, done.stderr
    assert "32 trials" in done.stdout
    assert "samples with --samples 3" in done.stdout
    assert not any(row.answer in done.stdout for rows in sets.values() for row in rows)
    asked = plan("--show-forget", "--samples", "1").stdout
    assert sets["forget"][0].answer in asked
    assert sets["retain"][0].answer in asked
    assert [p.name for p in tmp_path.iterdir()] == ["spec.yaml"]
    refused = plan("--set", "lora.target_modules=[nothing_of_the_kind]")
    assert refused.returncode == 2
    assert "nothing_of_the_kind" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_page_shows_where_an_answer_begins_and_what_a_chat_template_does(
    make_plan: Callable[..., Plan], task: Any, sets: Any
) -> None:
    from rayul.unlearn.cost import boundary

    row = sets["retain"][0]
    tokens = boundary(task.tokenizer, None, row)
    whole = task.tokenizer.tokenize(f"Question: {row.question}\nAnswer: {row.answer}")
    begin = len(task.tokenizer.tokenize(f"Question: {row.question}\nAnswer:"))
    parts = (whole[begin - 4 : begin], whole[begin : begin + 4], whole[-4:], ["<eos>"])
    before, first, last, after = (" ".join(map(repr, part)) for part in parts)
    assert tokens == f"{before} | {first} ... {last} | {after}"
    page = plan_text(replace(make_plan(), boundary=tokens, text_notices=("the chat template is told the date",)))
    assert tokens in " ".join(page.split())
    assert "Warnings (1)" in page
    assert "the chat template is told the date" in page


def test_what_was_not_measured_is_said(make_plan: Callable[..., Plan]) -> None:
    half = {"forget.es": Measured(0.9, 0.01, 100, 100)}
    rows = {"forget": 20, "retain": 80}
    plan = make_plan(
        control=NINETY, rows=rows, cost={"baseline": half, "timed": ((2, 16), (8, 100)), "evaluation": 50.0}
    )
    page = " ".join(plan_text(plan).split())
    assert "step 2 s, extrapolated from 2 of 16 rows" in page
    assert "evaluation 50 s (" in page
    assert "), extrapolated from 8 of 100 rows" in page
    assert "baseline forget.es 0.9; retain rows not measured: that takes 40 s" in page
    (warning,) = [w for w in plan.warnings if "took too long" in w]
    assert warning.startswith("retain.es of the model before unlearning took too long to measure here")
    assert "extrapolated" not in plan_text(make_plan())


def test_a_plan_with_probes_lines_up_and_says_how_long_answers_may_get(make_plan: Callable[..., Plan]) -> None:
    asked = {"metrics": ["rouge"], "max_new_tokens": 32}
    probes = {
        "facts": asked | {"forget": "forget.jsonl", "retain": "retain.jsonl"},
        "sayings_of_others": asked | {"rows": "others.jsonl"},
    }
    objectives = {"facts_forget.rouge": "minimize", "retain.es": "maximize"}
    counts = {"facts_forget": 12, "facts_retain": 1234, "sayings_of_others": 1}
    page = plan_text(make_plan(probes=probes, objectives=objectives, rows=counts))
    section = page.partition("\nRows\n")[2].partition("\n\n")[0].split("\n")
    lines = [line for line in section if line.strip().startswith((*counts, "forget ", "retain "))]
    assert len(lines) == 5
    assert len({line.index(" row") for line in lines}) == 1, lines
    words = " ".join(page.split())
    assert "and beyond one forward pass facts_forget.rouge (answers of up to 32 tokens)" in words
    assert "with the answers that probes ask for" in words
    assert "null" not in page.partition("probes")[2].partition("method")[0]


def test_what_comes_besides_the_trials_is_counted(make_plan: Callable[..., Plan]) -> None:
    cost = {"load": 5.0, "final": 7.0, "certify": 1.0}
    assert make_plan(search={"trials": 64}, cost=cost).ending_seconds == 5 + (1 + 10) * 7
    certified = make_plan(search={"trials": 64}, certify={"points": 3}, cost=cost)
    assert certified.ending_seconds == 5 + (1 + 10 + 3) * 7 + 3 * 20 * 1
    assert make_plan(search={"trials": 2}, cost=cost).ending_seconds == 5 + (1 + 2) * 7


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_plan_that_is_stopped_says_so_in_one_line(make_spec: Callable[..., Any], tmp_path: Path, number: str) -> None:
    import signal

    (tmp_path / "spec.yaml").write_text(dump_yaml(make_spec().resolved()))
    argv = [sys.executable, "-m", "rayul", "plan", "spec.yaml"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "elapsed" in line:
                break
        process.send_signal(getattr(signal, number))
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    said = [line for line in err.splitlines() if line and "elapsed" not in line and line != "stopping ..."]
    assert said == ["stopped: nothing was written"]


def test_a_search_that_ends_before_its_sampler_proposes_anything_is_told() -> None:
    from rayul.plan.spec_warnings import spec_warnings
    from rayul.spec import load_spec

    assert not [line for line in spec_warnings(load_spec("ga")) if "random" in line]
    (told,) = [line for line in spec_warnings(load_spec("ga", ["search.trials=8"])) if "random" in line]
    assert "search.trials 8: all of them are random" in told
    assert not [
        line for line in spec_warnings(load_spec("ga", ["search.trials=8", "search.sampler=random"])) if "all" in line
    ]


def test_targets_without_mixing_and_below_a_criterion_are_told() -> None:
    from rayul.plan.spec_warnings import spec_warnings
    from rayul.spec import load_spec

    told = " ".join(spec_warnings(load_spec("ga", ["control.mixing=false", "control.tau=[0.5, 0.95]"])))
    assert "control.tau without control.mixing" in told
    assert "the criterion retain.es at least 90% of baseline holds as well" in told
    below = load_spec("ga", ["control.mixing=false", "control.tau=[0.95, 0.9]"])
    assert "holds as well" not in " ".join(spec_warnings(below))
    same = load_spec("ga", ["control.mixing=false", "control.tau=[0.9, 0.95]"])
    assert [str(one.limit) for one in same.criteria] == ["retain.es ≥ 90% of baseline"], "asked once"
