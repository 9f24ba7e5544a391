"""`evaluate_every: auto`: evaluations that read nothing say what reading would have said, and never what counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from packed import baseline_of, finish

from rayul.records import Evaluation
from rayul.spec import SpecError
from rayul.unlearn.cadence import Watch, evaluation_steps
from rayul.unlearn.forward import forward
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.tokens import collate
from rayul.unlearn.trial import run_trial

MakeSpec = Callable[..., Any]
LIMIT = {"criteria": [{"metric": "retain.es", "at_least": "50% of baseline"}]}


@pytest.fixture
def memorised(task: Any) -> Any:
    """The tiny model, trained until it has all rows by heart."""
    rows = [*task.training["forget"], *task.training["retain_train"], *task.evaluated()["retain"]]
    batch = collate(rows, task.pad, "cpu")
    parameters = list(task.base.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(150):
        answers = forward(task.base, batch)
        loss = torch.nn.functional.cross_entropy(answers.logits[answers.mask], answers.labels[answers.mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
    assert loss < 0.05
    return task


def spec_of(make_spec: MakeSpec, every: int | str, **sections: Any) -> Any:
    training = {"lr": 1e-4, "batch_size": 4, "steps": 60, "evaluate_every": every}
    return make_spec(training=training, control=LIMIT, **sections)


def rows_alone(task: Any, spec: Any) -> list[Evaluation]:
    job = TrialJob("t", spec, 3, {}, baseline_of(task, spec))
    return [row for snapshot in run_trial(task, job) for row in snapshot.evaluations]


def rows_packed(task: Any, spec: Any) -> list[Evaluation]:
    pack = Pack(task, spec, Shape(slots=2, rank=16, rows=4))
    neighbour = spec.model_copy(update={"training": spec.training.model_copy(update={"lr": 5e-3})})
    pack.join(TrialJob("n", neighbour, 0, {}, baseline_of(task, spec)))
    return finish(pack, pack.join(TrialJob("t", spec, 3, {}, baseline_of(task, spec))))


@pytest.mark.parametrize("run", [rows_alone, rows_packed])
def test_what_is_not_read_is_as_it_was_and_all_else_is_read_as_ever(
    run: Callable[[Any, Any], list[Evaluation]], memorised: Any, make_spec: MakeSpec
) -> None:
    full, auto = (run(memorised, spec_of(make_spec, every)) for every in (5, "auto"))
    assert [row.step for row in auto] == [row.step for row in full]
    repeated = [i for i, row in enumerate(auto) if row.step and not row.rows]
    assert 2 <= len(repeated) <= 10
    assert auto[-1].rows
    for i, (ours, theirs) in enumerate(zip(auto, full, strict=True)):
        if i in repeated:
            assert ours.metrics.keys() == {"forget.es", "retain.es"}
            # one of the six rows may have turned with the very last update, which no step has read
            assert ours.metrics["forget.es"] == pytest.approx(theirs.metrics["forget.es"], abs=1 / 6)
            assert ours.feasible
        else:
            assert ours.metrics == theirs.metrics
        assert ours.terms == theirs.terms
    assert min(row.metrics["forget.es"] for row in auto) < 0.9


def test_a_metric_that_moves_before_the_first_choice_does_is_always_read(memorised: Any, make_spec: MakeSpec) -> None:
    objectives = {"forget.prob": "minimize", "retain.es": "maximize"}
    rows = rows_alone(memorised, spec_of(make_spec, "auto", objectives=objectives))
    assert len(rows) == 13
    assert all(row.rows for row in rows if row.step)


def test_a_model_that_never_knew_the_rows_is_read_once_they_become_less_likely(task: Any, make_spec: MakeSpec) -> None:
    rows = rows_alone(task, make_spec(training={"steps": 60, "evaluate_every": "auto"}))
    assert rows[-1].rows
    assert sum(bool(row.rows) for row in rows) > 6


def test_a_trial_that_goes_on_from_its_state_repeats_what_it_would_have_repeated(
    memorised: Any, make_spec: MakeSpec
) -> None:
    spec = spec_of(make_spec, "auto")
    job = TrialJob("t", spec, 3, {}, baseline_of(memorised, spec))
    pack = Pack(memorised, spec, Shape(slots=2, rank=16, rows=4))
    slot = pack.join(job)
    rows: list[Evaluation] = []
    while not rows or rows[-1].step < 5:
        rows += [row for _, found in pack.turn() for row in found]
    assert not rows[-1].rows
    again = Pack(memorised, spec, Shape(slots=2, rank=16, rows=4))
    later = finish(again, again.join(job, pack.state(slot)))
    undisturbed = finish(pack, slot)
    assert [(row.step, row.rows, row.metrics) for row in later] == [
        (row.step, row.rows, row.metrics) for row in undisturbed
    ]
    assert not later[0].rows


@pytest.mark.parametrize(
    ("now", "before", "repeats"),
    [
        ([0.9, 0.6], [0.99, 0.99], True),
        ([0.9, 0.4], [0.99, 0.99], False),
        ([0.9, 0.4], [0.99, 0.42], True),  # it was not sure before
        ([0.9, 0.3], [0.99, 0.42], False),
    ],
)
def test_a_token_is_lost_below_one_half_and_below_what_it_was(
    now: list[float], before: list[float], repeats: bool, make_spec: MakeSpec
) -> None:
    watch = Watch(spec_of(make_spec, "auto"))
    baseline = {"forget.es": 1.0, "retain.es": 1.0}
    first = Evaluation("t", 0, metrics=baseline, violation={"retain.es": -0.5})
    watch.reported([first], baseline)
    assert not watch.repeats(5)  # no step has read anything
    beyond = [[0.01, 1.0]]  # a token of the prompt, which does not count
    mask = torch.tensor([[True, True], [False, False]])
    watch.note(torch.tensor([now, *beyond]).log(), torch.tensor([before, [0.9, 1.0]]).log(), mask)
    assert watch.repeats(5) is repeats
    assert not watch.repeats(60)


def test_what_counts_is_not_repeated(make_spec: MakeSpec) -> None:
    baseline = {"forget.es": 1.0, "retain.es": 1.0}
    solution = Evaluation("t", 5, metrics={"forget.es": 0.94, "retain.es": 1.0}, violation={"retain.es": -0.5})
    broken = Evaluation("t", 5, metrics=baseline, violation={"retain.es": 0.1}, feasible=False)
    for row in (solution, broken):
        watch = Watch(spec_of(make_spec, "auto"))
        watch.reported([row], baseline)
        watch.note(torch.tensor([[math.log(0.9)]]), torch.tensor([[0.0]]), torch.tensor([[True]]))
        assert not watch.repeats(10)


def test_the_steps_of_auto_are_a_twelfth_and_with_mixing_a_quarter(make_spec: MakeSpec) -> None:
    def steps_of(steps: int, every: int | str, mixing: bool = False) -> list[int]:
        limits = [{"metric": "retain.es", "at_least": 0.5}]
        training = {"steps": steps, "evaluate_every": every}
        return evaluation_steps(make_spec(training=training, control={"criteria": limits, "mixing": mixing}))

    assert steps_of(60, "auto") == list(range(0, 61, 5))
    assert steps_of(5, "auto") == [0, 1, 2, 3, 4, 5]
    assert steps_of(60, "auto", mixing=True) == [0, 15, 30, 45, 60]
    assert steps_of(3, "auto", mixing=True) == [0, 1, 2, 3]
    assert steps_of(60, 20, mixing=True) == [0, 20, 40, 60], "what is asked for stays"
    with pytest.raises(SpecError, match="a whole number, auto or geometric"):
        spec_of(make_spec, "automatic")
