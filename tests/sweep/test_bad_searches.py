"""Searches with nothing to find or nothing to choose from: they end in order and propose until they do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver import ended, rows, write_spec
from driver import sweep as run_sweep
from optuna.trial import TrialState
from study import Sweep, play

from rayul.pareto.front import front, least_violating
from rayul.pareto.hypervolume import hypervolume
from rayul.records import COMPLETED, PRUNED, Evaluation
from rayul.sweep.search.samplers import grid

Make = Callable[..., Any]
Begin = Callable[..., Sweep]

KEEP = {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline", "patience": 1}]}
SPACE: dict[str, Any] = {
    "training": {"lr": {"float": [1e-4, 1e-2], "log": True}, "steps": 15, "evaluate_every": 5},
    "lora": {"r": {"choice": [4, 8, 16]}},
    "control": KEEP,
}
MODELLING = ("tpe", "trajectory", "nsga2", "nsga3", "gp")


def states(sweep: Sweep) -> list[str]:
    return [ending.state for ending in sweep.journal.endings.values()]


def ruinous(params: dict[str, Any]) -> list[tuple[float, float]]:
    """Below the limit of 0.45 at once, the further the higher the learning rate."""
    kept = 0.4 - 0.1 * math.log10(params["training.lr"] / 1e-4)
    return [(0.3, kept), (0.2, kept - 0.1), (0.1, 0.0)]


@pytest.mark.parametrize("sampler", MODELLING)
def test_no_feasible_trial_and_every_trial_pruned_at_its_first_evaluation(
    make_spec: Make, begin: Begin, baseline: Evaluation, sampler: str
) -> None:
    spec = make_spec(**SPACE, search={"sampler": sampler, "startup_trials": 5})
    sweep = begin(spec)
    ends = play(sweep, ruinous, 14)
    assert [row.step for row in ends] == [5] * 14
    assert states(sweep) == [PRUNED] * 14
    assert front(sweep.journal, baseline, spec.objectives) == []
    assert hypervolume(list(sweep.journal), baseline, spec.objectives) == 0
    nearest = least_violating(sweep.journal)
    assert nearest[0].total_violation == min(row.total_violation for row in ends)
    assert all(t.state == TrialState.COMPLETE and max(t.constraints.values()) > 0 for t in sweep.study.trials)


@pytest.mark.parametrize("sampler", ["tpe", "trajectory"])
def test_without_anything_feasible_the_search_still_moves_towards_the_limit(
    make_spec: Make, begin: Begin, sampler: str
) -> None:
    sweep = begin(make_spec(**SPACE, search={"sampler": sampler, "startup_trials": 10}))
    ends = play(sweep, ruinous, 40)
    violations = [row.total_violation for row in ends]
    assert sum(violations[25:]) / 15 < sum(violations[:10]) / 10


@pytest.mark.parametrize("sampler", MODELLING)
@pytest.mark.parametrize("which", ["forget", "retain", "both"])
def test_a_constant_objective(make_spec: Make, begin: Begin, sampler: str, which: str) -> None:
    def course(params: dict[str, Any]) -> list[tuple[float, float]]:
        strength = math.log10(params["training.lr"] / 1e-4) / 2
        forget = 0.4 if which != "retain" else 0.7 * (1 - strength)
        return [(forget, 0.48 if which != "forget" else 0.5 - 0.04 * strength)] * 3

    spec = make_spec(**SPACE, search={"sampler": sampler, "startup_trials": 5})
    sweep = begin(spec)
    ends = play(sweep, course, 14)
    assert len(ends) == 14
    assert all(t.state == TrialState.COMPLETE for t in sweep.study.trials)
    assert all(spec.space["training.lr"].contains(row.params["training.lr"]) for row in ends)
    assert front(sweep.journal, sweep.baseline, spec.objectives)


@pytest.mark.parametrize("sampler", MODELLING)
def test_a_number_missing_in_one_objective(make_spec: Make, begin: Begin, sampler: str) -> None:
    """Of every third trial the utility is not a number at any evaluation, of the others at the second only."""
    count = itertools.count()

    def course(params: dict[str, Any]) -> list[tuple[float, float]]:
        never = next(count) % 3 == 0
        return [(0.6, math.nan if never else 0.49), (0.4, math.nan), (0.5, math.nan if never else 0.48)]

    spec = make_spec(**(SPACE | {"control": {}}), search={"sampler": sampler, "startup_trials": 4})
    sweep = begin(spec)
    play(sweep, course, 12)
    failed, whole = sweep.study.trials[::3], [t for i, t in enumerate(sweep.study.trials) if i % 3]
    assert all(t.state == TrialState.FAIL for t in failed)
    assert all(t.state == TrialState.COMPLETE and t.values == [0.5, 0.48] for t in whole)
    found = front(sweep.journal, sweep.baseline, spec.objectives)
    assert {(e.metrics["forget.es"], e.metrics["retain.es"]) for e in found} == {(0.6, 0.49), (0.5, 0.48)}


@pytest.mark.parametrize("sampler", ["tpe", "trajectory", "nsga2", "random"])
def test_more_trials_than_a_small_space_has_configurations(make_spec: Make, begin: Begin, sampler: str) -> None:
    """Duplicates are proposed, told and counted like any trial; each has a seed of its own, so none is for nothing."""
    spec = make_spec(
        training={"lr": {"choice": [1e-3, 2e-3]}, "steps": 10, "evaluate_every": 5},
        lora={"r": {"choice": [4, 8]}},
        control=KEEP,
        search={"sampler": sampler, "startup_trials": 4},
    )
    sweep = begin(spec)
    ends = play(sweep, lambda params: [(0.5, 0.48), (0.4, 0.46)], 15)
    assert states(sweep) == [COMPLETED] * 15
    assert 1 < len({tuple(row.params.items()) for row in ends}) <= 4
    assert len(front(sweep.journal, sweep.baseline, spec.objectives)) == 2, "equal points are one"


def test_a_grid_holds_no_configuration_twice(make_spec: Make, begin: Begin) -> None:
    spec = make_spec(
        training={"lr": {"choice": [1e-3, 2e-3]}, "steps": 10},
        lora={"r": {"choice": [4, 8]}},
        search={"sampler": "grid"},
    )
    sweep = begin(spec)
    ends = play(sweep, lambda params: [(0.5, 0.48)], sweep.searcher.remaining)
    assert [row.params for row in ends] == list(grid(spec))
    assert len(ends) == 4
    assert sweep.searcher.remaining == 0


@pytest.mark.parametrize("sampler", [*MODELLING, "random", "grid"])
@pytest.mark.parametrize("space", [{"choice": [1e-3]}, None], ids=["a choice of one", "nothing searched"])
def test_a_space_with_one_value(make_spec: Make, begin: Begin, sampler: str, space: Any) -> None:
    training = {"lr": space or 1e-3, "steps": 10, "evaluate_every": 5}
    spec = make_spec(training=training, control=KEEP, search={"sampler": sampler, "startup_trials": 2})
    sweep = begin(spec)
    count = 1 if sampler == "grid" else 6
    ends = play(sweep, lambda params: [(0.5, 0.48), (0.4, 0.46)], count)
    assert [row.params for row in ends] == [{"training.lr": 1e-3} if space else {}] * count


@pytest.mark.parametrize("sampler", [*MODELLING, "random", "grid"])
def test_one_trial(make_spec: Make, begin: Begin, sampler: str) -> None:
    spec = make_spec(
        **(SPACE | {"training": {"lr": {"choice": [1e-3, 1e-4]}, "steps": 10}}),
        search={"sampler": sampler, "trials": 1},
    )
    sweep = begin(spec, limit=1)
    assert sweep.searcher.remaining == 1
    play(sweep, lambda params: [(0.5, 0.48), (0.4, 0.46)], 1)
    assert states(sweep) == [COMPLETED]
    assert sweep.searcher.remaining == 0
    assert sweep.open().searcher.remaining == 0


def test_500_trials_in_the_study(make_spec: Make, begin: Begin) -> None:
    """Proposals stay in the space and keep to where the front is; how long they take: tests/benchmarks/suggest.py."""

    def course(params: dict[str, Any]) -> list[tuple[float, float]]:
        strength = math.log10(params["training.lr"] / 1e-4) / 2  # the limit is at 0.75
        return [(0.8 * (1 - strength), 0.5 - 0.05 * strength / 0.75)]

    spec = make_spec(**SPACE, search={"trials": 500})
    sweep = begin(spec, limit=500)
    ends = play(sweep, course, 500)
    assert len(ends) == len(sweep.study.trials) == 500
    assert sweep.searcher.remaining == 0
    assert all(spec.space["training.lr"].contains(row.params["training.lr"]) for row in ends)
    feasible = [row.feasible for row in ends]
    assert sum(feasible[250:]) > sum(feasible[:10]) / 10 * 250


@pytest.mark.slow
def test_a_real_sweep_in_which_every_trial_is_pruned_at_once(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    """It ends in order, with a report that says so and names the trials nearest to the limit."""
    impossible = {
        "control": [{"metric": "retain.prob", "at_least": "200% of baseline", "patience": 1}],
        "search": {"trials": 4},
    }
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, **impossible)
    done = run_sweep(spec, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No solution: the trials closest to the limits, by total violation." in done.stdout
    last = {row["trial_id"]: row["step"] for row in rows(tmp_path / "tiny") if row["params"]}
    assert list(last.values()) == [2] * 4
    assert ended(tmp_path / "tiny") == dict.fromkeys(last, "pruned")
    assert "Nothing was found within the limits." in (tmp_path / "tiny" / "report.html").read_text()


@pytest.mark.slow
def test_a_real_sweep_of_one_trial_with_nothing_to_search(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> None:
    training = {"lr": 1e-2, "batch_size": 4, "steps": 4, "evaluate_every": 2}
    single = {"method": "ga", "training": training, "control": [], "search": {"trials": 1, "sampler": "tpe"}}
    done = run_sweep(write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, **single), tmp_path)
    assert done.returncode == 0, done.stderr
    assert ended(tmp_path / "tiny") == {"0000": "completed"}
