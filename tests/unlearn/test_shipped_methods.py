"""Every shipped search space, on the testbed: some early draw lowers what can be extracted of the forget rows."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import torch

from rayul.spec import METHODS, load_spec
from rayul.sweep.search.samplers import suggest
from rayul.testbed import with_testbed
from rayul.unlearn.data import load_sets
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.trial import run_trial

SPACES = Path(__file__).resolve().parents[2] / "search_spaces"
DRAWS = 8
"""Random draws before a space counts as broken; most lower it with the first or second."""


@pytest.fixture(scope="module")
def bench() -> Task:
    torch.set_num_threads(1)
    spec = with_testbed(load_spec(SPACES / "gd.yaml"))
    return load_task(spec, load_sets(spec.data))


def test_every_method_has_a_space() -> None:
    assert {name for name in METHODS if (SPACES / f"{name}.yaml").exists()} == set(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, "control"])
def test_a_draw_of_the_space_lowers_forget_es(name: str, bench: Task) -> None:
    overrides = ["training.evaluate_every=20", "evaluate.metrics=[es]", "control.mixing=false"]
    spec = load_spec(SPACES / f"{name}.yaml", overrides)
    baseline = evaluate(bench.base, bench, ("es",), 64).values
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    lowest = 1.0
    for number in range(DRAWS):
        params = suggest(study.ask(), spec)
        for snapshot in run_trial(bench, TrialJob(f"{number:04d}", spec.at(params), number, params, baseline)):
            lowest = min([lowest, *(e.metrics["forget.es"] for e in snapshot.evaluations if e.metrics)])
        if lowest < 0.8 * baseline["forget.es"]:
            return
    pytest.fail(f"{DRAWS} draws of {name}.yaml leave forget.es at {lowest:.2f}")


@pytest.mark.slow
def test_uncontrolled_gradient_ascent_destroys_the_model_and_the_criterion_prevents_it(bench: Task) -> None:
    """The paper's finding, and its cure: without control forget and retain both collapse."""
    overrides = ["method={name: ga}", "training={lr: 3e-3, steps: 60, evaluate_every: 5}", "evaluate.metrics=[es]"]
    spec = load_spec(SPACES / "ga.yaml", [*overrides, "lora={r: 8, alpha: 16}"])
    baseline = evaluate(bench.base, bench, ("es",), 64).values
    rows = [e for s in run_trial(bench, TrialJob("0000", spec, 0, {}, baseline)) for e in s.evaluations]
    assert rows[-1].metrics["forget.es"] < 0.05
    assert rows[-1].metrics["retain.es"] < 0.05
    kept = [e for e in rows if e.feasible]
    assert kept
    assert all(e.metrics["retain.es"] >= 0.9 * baseline["retain.es"] for e in kept)
    assert not rows[-1].feasible
