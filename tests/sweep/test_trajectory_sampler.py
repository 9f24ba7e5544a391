"""The trajectory sampler in a search: its space, what it reads of trials, and what it proposes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from study import Sweep, play

from rayul.pareto.hypervolume import hypervolume
from rayul.records import Evaluation
from rayul.spec import SpecError
from rayul.sweep.search.samplers import handed_over, sampler
from rayul.sweep.search.trajectory.evidence import Scoring, Tried, seen
from rayul.sweep.search.trajectory.sampler import Evidence, TrajectorySampler, propose
from rayul.sweep.search.trajectory.space import Space

Make = Callable[..., Any]
Begin = Callable[..., Sweep]
Row = Callable[..., Evaluation]

KEEP = {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline", "patience": 1}]}
EVERY: dict[str, Any] = {
    "method": {
        "name": {"choice": ["ga", "gd", "npo"]},
        "retain_weight": {"float": [0.0, 4.0], "step": 0.5},
        "beta": {"float": [0.05, 1.0], "log": True},
    },
    "lora": {"r": {"int": [2, 64], "log": True}, "alpha": {"choice": [8, 16, 64]}, "dropout": {"float": [0.0, 0.3]}},
    "training": {
        "lr": {"float": [1e-4, 1e-2], "log": True},
        "warmup_steps": {"int": [0, 9], "step": 3},
        "gradient_checkpointing": {"choice": [True, False]},
    },
    "control": KEEP,
}
"""Every kind of parameter there is, some of one method only."""


def test_every_configuration_is_one_of_the_space_and_its_row_says_which(make_spec: Make) -> None:
    spec = make_spec(**EVERY)
    space, rng = Space(spec), np.random.default_rng(0)
    drawn = space.draws(300, rng)
    near = space.near(drawn[:20], 10, rng)
    counts: dict[str, set[Any]] = {key: set() for key in spec.space}
    for x in [*drawn, *near, *space.filling(5, 1)]:
        params = space.decode(x)
        assert all(spec.space[key].contains(value) for key, value in params.items())
        assert spec.at(params).space == {}
        again = space.encode(params)
        assert again is not None
        assert np.allclose(again, x, equal_nan=True)
        for key, value in params.items():
            counts[key].add(value)
    for key in ("method.name", "method.retain_weight", "lora.alpha", "training.warmup_steps"):
        assert len(counts[key]) == spec.space[key].count
    assert space.encode({"method.name": "gd", "training.lr": 1e-3}) is None, "its other parameters are not known"
    moved = np.nan_to_num(near - np.repeat(drawn[:20], 10, axis=0), nan=1.0)
    assert (np.abs(moved) > 0).any(axis=1).mean() > 0.9
    assert np.median((np.abs(moved) > 0).sum(axis=1)) < 6


def test_numbers_have_their_place_on_the_scale_that_they_are_on(make_spec: Make) -> None:
    space = Space(make_spec(**EVERY))
    params = {"method.name": "gd", "method.retain_weight": 1.0, "lora.alpha": 16, "lora.dropout": 0.15}
    params |= {"lora.r": 2, "training.lr": 1e-3, "training.warmup_steps": 9, "training.gradient_checkpointing": False}
    x = dict(zip(space.keys, np.nan_to_num(space.encode(params), nan=-1.0), strict=True))
    assert x == pytest.approx(
        {
            "method.name": 1,
            "method.retain_weight": 0.25,
            "method.beta": -1,
            "lora.r": 0,
            "lora.alpha": 1 / 3,
            "lora.dropout": 0.5,
            "training.lr": 0.5,
            "training.warmup_steps": 1,
            "training.gradient_checkpointing": 1,
        }
    )


def test_the_first_trials_fill_the_space(make_spec: Make, begin: Begin) -> None:
    """In each eighth of the learning rate's range one of the first eight, and each method twice or more."""
    spec = make_spec(**EVERY, search={"sampler": "trajectory", "seed": 2})
    sweep = begin(spec)
    asked = [sweep.ask()[1] for _ in range(8)]
    eighths = {int(8 * (math.log10(params["training.lr"]) + 4) / 2) for params in asked}
    assert len(eighths) == 8
    names = [params["method.name"] for params in asked]
    assert min(names.count(name) for name in ("ga", "gd", "npo")) >= 2


def scores_of(make_spec: Make, baseline: Evaluation, rows: Any, **sections: Any) -> Any:
    scoring = Scoring(make_spec(**sections), baseline)
    return scoring, scoring.of_trial(rows)


def test_a_prior_has_as_many_within_its_spread_as_a_normal_distribution(make_spec: Make) -> None:
    """Of three quarters of the first configurations; the rest is spread evenly."""
    lr = {"float": [1e-6, 1.0], "log": True, "prior": {"center": 1e-3, "spread": 2.0}}
    r = {"int": [1, 101], "step": 10, "prior": {"center": 51, "spread": 10}}
    space = Space(make_spec(method="ga", lora={"r": r}, training={"lr": lr}))
    drawn = [space.decode(x) for number in range(0, 512, 64) for x in space.filling(number, 0)]
    within = np.mean([5e-4 <= params["training.lr"] <= 2e-3 for params in drawn])
    assert within == pytest.approx(0.75 * 0.683 + 0.25 * math.log(4) / math.log(1e6), abs=0.02)
    # Of the normal distribution what rounds to 51 has 0.383, and of the even spread 1 of 11.
    assert np.mean([params["lora.r"] == 51 for params in drawn]) == pytest.approx(0.75 * 0.383 + 0.25 / 11, abs=0.02)
    assert {params["lora.r"] for params in drawn} == set(range(1, 102, 10))
    later = [space.decode(x)["training.lr"] for x in space.draws(500, np.random.default_rng(0))]
    assert np.mean([5e-4 <= lr <= 2e-3 for lr in later]) < 0.2, "candidates for later trials are drawn without it"


def test_scores_are_what_the_hypervolume_is_computed_on(make_spec: Make, baseline: Evaluation, row: Row) -> None:
    spec = make_spec(control=KEEP)
    rows = [row(spec, 0, step, *point) for step, point in ((0, (0.8, 0.5)), (2, (0.4, 0.475)), (4, (0.2, 0.4)))]
    scoring, shown = scores_of(make_spec, baseline, rows, control=KEEP)
    assert shown.steps.tolist() == [2, 4]
    assert shown.scores == pytest.approx(np.array([[0.5, 0.5], [0.75, -1.0]]))
    assert shown.solved == pytest.approx(np.array([[0.5, 0.5]]))
    assert scoring.goal.limits == (1,)
    assert scoring.start.tolist() == pytest.approx([0.0, 1.0])
    assert shown.solved.prod() == pytest.approx(hypervolume(rows, baseline, spec.objectives, {"retain.es": 0.45}))


def test_without_criteria_no_score_is_a_limit(make_spec: Make, baseline: Evaluation, row: Row) -> None:
    scoring, shown = scores_of(make_spec, baseline, [row(make_spec(), 0, 2, 0.4, 0.1)])
    assert scoring.goal.limits == ()
    assert shown.scores == pytest.approx(np.array([[0.5, 0.2]]))
    assert shown.solved == pytest.approx(np.array([[0.5, 0.2]]))


def test_a_limit_that_no_objective_shows_has_a_score_of_its_own(
    make_spec: Make, baseline: Evaluation, row: Row
) -> None:
    """With a confidence the bounds are judged, not the means: the violation alone says whether the limit is kept."""
    control = KEEP | {"confidence": 0.9}
    rows = [Evaluation("0000", 2, metrics={"forget.es": 0.4, "retain.es": 0.48}, violation={"retain.es": 0.02})]
    scoring, shown = scores_of(make_spec, baseline, rows, control=control)
    assert scoring.goal.limits == (2,)
    assert shown.scores == pytest.approx(np.array([[0.5, 0.6, -0.02]]))
    assert scoring.start.tolist() == pytest.approx([0.0, 1.0, 1 / 9], abs=1e-9)


def test_with_mixing_a_step_is_its_best_evaluation_within_the_limit(
    make_spec: Make, baseline: Evaluation, row: Row
) -> None:
    spec = make_spec(control=KEEP | {"mixing": True})
    points = {1.0: (0.1, 0.3), 0.75: (0.3, 0.4), 0.5: (0.4, 0.48), 0.25: (0.6, 0.5), 0.625: (0.36, 0.452)}
    rows = [row(spec, 0, 2, *point, mixing=mixing) for mixing, point in points.items()]
    rows += [row(spec, 0, 4, 0.1, 0.2, mixing=mixing) for mixing in (1.0, 0.5)]
    rows[-1] = row(spec, 0, 4, 0.2, 0.3, mixing=0.5)
    _, shown = scores_of(make_spec, baseline, rows, control=KEEP | {"mixing": True})
    assert shown.scores == pytest.approx(np.array([[0.5, 0.6], [0.75, -1.0]]))
    assert len(shown.solved) == 3


def test_what_a_trial_that_began_again_adds_later_belongs_to_its_step(
    make_spec: Make, baseline: Evaluation, row: Row
) -> None:
    spec = make_spec(control=KEEP | {"mixing": True})
    late = row(spec, 0, 2, 0.6, 0.48, mixing=0.5)
    rows = [row(spec, 0, 2, 0.7, 0.48, mixing=0.25), row(spec, 0, 4, 0.4, 0.48), late]
    _, shown = scores_of(make_spec, baseline, rows, control=KEEP | {"mixing": True})
    assert shown.steps.tolist() == [2, 4]
    assert shown.scores[:, 0] == pytest.approx([0.25, 0.5])


def test_standard_errors_are_carried_in_units_of_the_scores(make_spec: Make, baseline: Evaluation) -> None:
    stderr = {"forget.es": 0.08, "retain.es": 0.01}
    one = Evaluation("0000", 2, metrics={"forget.es": 0.4, "retain.es": 0.48}, stderr=stderr)
    none = Evaluation("0000", 4, metrics={"forget.es": 0.4, "retain.es": 0.48})
    _, shown = scores_of(make_spec, baseline, [one, none], control=KEEP)
    assert shown.errors == pytest.approx(np.array([[0.1, 0.2], [0.0, 0.0]]))


def test_trajectories_are_read_at_common_steps_and_what_is_missing_stays_missing(
    make_spec: Make, baseline: Evaluation, row: Row
) -> None:
    """One trial was evaluated at every fourth step, one was pruned, one has not begun, one was not a number once."""
    spec = make_spec(control=KEEP)
    scoring = Scoring(spec, baseline)
    courses = [
        [(2, 0.72), (4, 0.64), (6, 0.48), (8, 0.4)],
        [(4, 0.6), (8, 0.4)],
        [(2, 0.4), (4, 0.2)],
        [],
        [(2, 0.8), (4, math.nan), (6, 0.4), (8, 0.4)],
    ]
    shown = [
        scoring.of_trial([row(spec, i, step, forget, 0.5) for step, forget in course])
        for i, course in enumerate(courses)
    ]
    trials = [Tried(np.zeros(1), one, len(one.steps) == 0) for one in shown]
    found = seen(trials, scoring.start)
    assert found.steps.tolist() == [2, 4, 6, 8]
    nan = math.nan
    wanted = [[0.1, 0.2, 0.4, 0.5], [0.125, 0.25, 0.375, 0.5], [0.5, 0.75, nan, nan], [nan] * 4, [0, 0.25, 0.5, 0.5]]
    assert found.y[..., 0] == pytest.approx(np.array(wanted), nan_ok=True)
    assert found.pending.tolist() == [False, False, False, True, False]


def smooth(params: dict[str, Any]) -> list[tuple[float, float]]:
    """Best at a rate of 2e-3 and a rank of 4: a narrow ridge between forgetting too little and keeping too little."""
    rate, rank = math.log10(params["training.lr"] / 2e-3), math.log2(params["lora.r"] / 4)
    pace = math.exp(0.8 * rate)
    waste = 0.05 * (rate**2 + 0.3 * rank**2)
    return [
        (0.8 * max(0.0, 1 - 0.8 * pace * share), 0.5 * (1 - waste - 0.12 * (pace * share) ** 2))
        for share in (1 / 3, 2 / 3, 1.0)
    ]


RIDGE: dict[str, Any] = {
    "training": {"lr": {"float": [1e-4, 1e-1], "log": True}, "steps": 15, "evaluate_every": 5},
    "lora": {"r": {"int": [1, 64], "log": True}},
    "control": KEEP,
    "pruning": {"criteria": False, "dominance": False},
}


def test_it_finds_more_than_random_draws_do(make_spec: Make, begin: Begin, baseline: Evaluation) -> None:
    found: dict[str, list[float]] = {"random": [], "trajectory": []}
    for name, volumes in found.items():
        for seed in range(4):
            sweep = begin(make_spec(**RIDGE, search={"sampler": name, "startup_trials": 5, "seed": seed}))
            play(sweep, smooth, 20)
            volumes.append(hypervolume(list(sweep.journal), baseline, sweep.spec.objectives, {"retain.es": 0.45}))
    assert np.mean(found["trajectory"]) > np.mean(found["random"])
    assert sum(a > b for a, b in zip(found["trajectory"], found["random"], strict=True)) >= 3


def test_a_search_of_several_at_a_time_goes_on_as_it_would_have(make_spec: Make, begin: Begin) -> None:
    """Closed with trials running: what is proposed next depends on the journal and the study alone."""
    spec = make_spec(**RIDGE, search={"sampler": "trajectory", "startup_trials": 4, "seed": 1})

    def course(closes: bool) -> list[Any]:
        sweep = begin(spec)
        asked = [sweep.ask() for _ in range(3)]
        running = list(asked)
        for _ in range(6):
            number, params = running.pop(0)
            sweep.end(number, params)
            for other, its in running:  # a running trial has shown its first evaluation
                sweep.journal.append(sweep.row(spec, other, 5, 0.6, 0.48, params=its))
            if closes:
                left = list(running)
                sweep.open()
                assert [sweep.ask() for _ in left] == left
            asked.append(sweep.ask())
            running.append(asked[-1])
        return asked

    assert course(closes=True) == course(closes=False)


def test_no_configuration_is_proposed_twice_while_there_are_others(make_spec: Make, begin: Begin) -> None:
    space = {"lr": {"choice": [1e-4, 3e-4, 1e-3, 3e-3]}, "warmup_steps": {"int": [0, 2]}, "steps": 15}
    spec = make_spec(training=space | {"evaluate_every": 5}, control=KEEP, search={"sampler": "trajectory"})
    sweep = begin(spec)
    play(sweep, lambda params: [(0.8 - 50 * params["training.lr"], 0.48)] * 3, 14)
    tried = [tuple(sweep.journal.of(trial)[0].params.items()) for trial in sweep.journal.endings]
    assert len(set(tried[:12])) == 12


def test_three_objectives_and_one(make_spec: Make, begin: Begin, baseline: Evaluation, row: Row) -> None:
    for objectives in ({"forget.es": "minimize"}, {"retain.es": "maximize"}, None):
        names = objectives or {"forget.es": "minimize", "retain.es": "maximize", "forget.prob": "minimize"}
        more = {"evaluate": {"metrics": ["es", "prob"]}, "objectives": names}
        spec = make_spec(**(RIDGE | more), search={"sampler": "trajectory", "startup_trials": 3})
        base = Evaluation("baseline", 0, mixing=0.0, metrics={"forget.es": 0.8, "retain.es": 0.5, "forget.prob": 0.9})
        evidence = Evidence(spec, base, lambda _: ())
        tried, rng = [], np.random.default_rng(0)
        for i, x in enumerate(evidence.space.draws(8, rng)):
            points = smooth(evidence.space.decode(x))
            rows = [
                Evaluation(
                    f"{i:04d}",
                    5 * k,
                    metrics={"forget.es": forget, "retain.es": retain, "forget.prob": 1.1 * forget},
                    violation={"retain.es": (0.45 - retain) / 0.45},
                    feasible=retain >= 0.45,
                )
                for k, (forget, retain) in enumerate(points, 1)
            ]
            tried.append(Tried(x, evidence.scoring.of_trial(rows), False))
        assert all(one.shown.solved.shape[1] == len(names) for one in tried)
        params = propose(evidence, tried, 8, 0, 3)
        assert spec.at(params).space == {}


def test_after_so_many_trials_another_sampler_takes_over_and_the_sweep_says_so(
    make_spec: Make, baseline: Evaluation
) -> None:
    spec = make_spec(**RIDGE, search={"sampler": "trajectory", "trials": 600})
    evidence = Evidence(spec, baseline, lambda _: ())
    assert isinstance(sampler(spec, 499, evidence), TrajectorySampler)
    assert isinstance(sampler(spec, 500, evidence), optuna.samplers.TPESampler)
    said = "trajectory proposes the first 500 trials of the study, TPESampler those after them"
    assert handed_over(spec.search, 0) == said
    assert handed_over(spec.search.model_copy(update={"trials": 500}), 1) == said
    assert handed_over(spec.search.model_copy(update={"trials": 500}), 0) == ""
    assert handed_over(spec.search.model_copy(update={"sampler": "tpe"}), 0) == ""


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"control": {"tau": {"float": [0.8, 0.95]}}},
            "trajectory judges all trials by one limit on retain.es, which is searched",
        ),
        (
            {
                "evaluate": {"metrics": ["es", "prob"]},
                "objectives": {
                    f"{s}.{m}": d for s, d in (("forget", "minimize"), ("retain", "maximize")) for m in ("es", "prob")
                },
            },
            "trajectory models at most 3 objectives, got 4",
        ),
    ],
)
def test_what_it_cannot_model_is_refused_by_name(make_spec: Make, sections: Any, said: str) -> None:
    make_spec(**sections)
    with pytest.raises(SpecError) as error:
        make_spec(**sections, search={"sampler": "trajectory"})
    assert [(problem.key, problem.text) for problem in error.value.problems] == [("search.sampler", said)]
