"""The searcher: what is proposed, what Optuna is told, and that closing and reopening changes neither."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from rayul.records import COMPLETED, FAILED, PRUNED, Ending, Evaluation
from rayul.sweep.search.samplers import grid
from rayul.sweep.search.searcher import open_study

Row = Callable[..., Evaluation]
Make = Callable[..., Any]

SAMPLERS = ("tpe", "trajectory", "nsga2", "gp", "random")

CONDITIONAL = {
    "method": {
        "name": {"choice": ["ga", "gd", "npo"]},
        "retain_weight": {"float": [0.0, 4.0]},
        "beta": {"float": [0.05, 1.0]},
    },
    "lora": {"r": {"int": [2, 8], "log": True}},
    "training": {"lr": {"float": [1e-4, 1e-2], "log": True}},
    "control": {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline"}]},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_lie_in_the_space_and_a_method_has_its_own_parameters_only(
    make_spec: Make, begin: Any, sampler: str
) -> None:
    spec = make_spec(**CONDITIONAL, search={"sampler": sampler, "startup_trials": 6})
    of_method = {"ga": set(), "gd": {"method.retain_weight"}, "npo": {"method.retain_weight", "method.beta"}}
    seen: Counter[str] = Counter()
    for number, params in begin(spec).run(16):
        seen[params["method.name"]] += 1
        wanted = {"method.name", "lora.r", "training.lr"} | of_method[params["method.name"]]
        assert set(params) == wanted, number
        for key, value in params.items():
            assert spec.space[key].contains(value), (key, value)
        assert spec.at(params).space == {}
    assert len(seen) > 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_seed_one_sequence_however_often_the_sweep_is_closed(make_spec: Make, begin: Any, sampler: str) -> None:
    """Once in one go, and once closed and reopened before every trial: the same proposals, and no random draw twice."""
    spec = make_spec(**CONDITIONAL, search={"sampler": sampler, "startup_trials": 5, "seed": 3})
    whole = begin(spec).run(9)
    interrupted = begin(spec)
    assert [interrupted.open().run(1)[0] for _ in range(9)] == whole
    assert len({params["training.lr"] for _, params in whole[:5]}) == 5
    other = make_spec(**CONDITIONAL, search={"sampler": sampler, "startup_trials": 5, "seed": 4})
    assert begin(other).run(3) != whole[:3]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trial_cut_off_before_its_parameters_were_stored_draws_the_same_again(
    make_spec: Make, begin: Any, sampler: str
) -> None:
    """The driver is killed between `ask` and the last `suggest`: the study then holds a trial without parameters."""
    spec = make_spec(**CONDITIONAL, search={"sampler": sampler, "startup_trials": 4, "seed": 1})
    whole = begin(spec).run(7)
    cut = begin(spec)
    cut.run(6)
    cut.study.ask()  # number 6, without parameters
    assert cut.open().ask() == whole[6]


def test_leftover_trials_are_taken_up_under_their_numbers_and_ended_ones_are_told(make_spec: Make, begin: Any) -> None:
    spec = make_spec(**CONDITIONAL)
    sweep = begin(spec, limit=6)
    first = [sweep.ask() for _ in range(4)]
    sweep.end(*first[1])  # ended and told
    sweep.end(*first[2], tell=False)  # ended; the driver was killed before Optuna heard of it
    sweep.journal.append(sweep.row(spec, 3, 0, 0.8, 0.5, params=first[3][1]))  # begun
    assert sweep.searcher.remaining == 5
    sweep.open()
    states = [t.state for t in sweep.study.trials]
    assert states == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING]
    assert sweep.searcher.remaining == 4
    again = [sweep.ask() for _ in range(4)]
    assert again[:2] == [first[0], first[3]]
    assert [number for number, _ in again] == [0, 3, 4, 5]
    for number, params in again:
        sweep.end(number, params)
    assert sweep.searcher.remaining == 0
    assert len(sweep.study.trials) == 6


def test_tune_ending_a_trial_tells_nothing(make_spec: Make, begin: Any) -> None:
    """Tune says so for a trial that was only interrupted, too, and for a failed one before its row is written."""
    sweep = begin(make_spec(**CONDITIONAL))
    sweep.ask()
    sweep.searcher.on_trial_complete("tune's own id")
    sweep.searcher.on_trial_complete("tune's own id", error=True)
    assert [t.state for t in sweep.study.trials] == [TrialState.RUNNING]


def test_what_is_told_is_seen_by_any_optuna_program(make_spec: Make, begin: Any, row: Row) -> None:
    spec = make_spec(**CONDITIONAL, search={"tell": "best"})
    sweep = begin(spec)
    asked = [sweep.ask() for _ in range(4)]
    write = sweep.journal.append
    params = [p for _, p in asked]
    write(row(spec, 0, 5, 0.6, 0.49, params=params[0]))
    pruned, violating = row(spec, 0, 10, 0.1, 0.2, params=params[0]), row(spec, 1, 5, 0.3, 0.3, params=params[1])
    write(pruned, pruned.ended(PRUNED, "retain.es", "retain.es 0.2 < 0.45"))
    write(violating, violating.ended(PRUNED))
    write(Ending("0002", FAILED, "out of memory", "out of memory: lower it", params=params[2]))
    whole = row(spec, 3, 5, 0.7, math.inf, params=params[3])
    write(whole, whole.ended(COMPLETED))
    for number in range(4):
        sweep.searcher.tell(number)

    storage = JournalStorage(JournalFileBackend(str(sweep.folder / "study.journal")))
    study = optuna.load_study(study_name=spec.name, storage=storage)
    assert [d.name for d in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert study.metric_names == ["forget.es", "retain.es"]
    solved, violated, failed, infinite = study.trials
    assert solved.values == [0.6, 0.49]
    assert (solved.user_attrs["step"], solved.user_attrs["mixing"], solved.user_attrs["state"]) == (5, 1.0, PRUNED)
    assert solved.user_attrs["reason"] == "retain.es 0.2 < 0.45"
    assert solved.user_attrs["rule"] == "retain.es"
    assert violated.values == [0.3, 0.3]
    (kept,), (broken,) = solved.constraints.values(), violated.constraints.values()
    assert kept < 0 < broken
    assert (kept, broken) == tuple(t.user_attrs["violation.retain.es"] for t in (solved, violated))
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["reason"] == "out of memory: lower it"
    assert (failed.user_attrs["state"], failed.user_attrs["rule"]) == (FAILED, "out of memory")
    assert failed.params == params[2]
    assert infinite.state == TrialState.COMPLETE
    assert all(math.isfinite(v) for v in infinite.values)
    assert [t.number for t in study.best_trials if t.number != 3] == [0]  # the violated one is not among the best
    assert solved.params == params[0]


def test_a_utility_that_is_no_number_is_a_failure(make_spec: Make, begin: Any, row: Row) -> None:
    spec = make_spec(**(CONDITIONAL | {"control": {}}))
    sweep = begin(spec)
    number, params = sweep.ask()
    last = row(spec, number, 5, 0.4, math.nan, params=params)
    sweep.journal.append(last, last.ended(COMPLETED))
    sweep.searcher.tell(number)
    assert sweep.study.trials[0].state == TrialState.FAIL


def test_tpe_learns_the_way_back_from_violations(make_spec: Make, begin: Any) -> None:
    """The stronger half of the learning rates breaks the criterion; proposals move to where it is kept."""
    spec = make_spec(**(CONDITIONAL | {"method": "ga"}), search={"sampler": "tpe", "startup_trials": 10})
    sweep = begin(spec)
    sweep.run(40)
    feasible = [all(v <= 0 for v in t.constraints.values()) for t in sweep.study.trials]
    assert any(feasible)
    assert sum(feasible[20:]) >= sum(feasible[:20])


GRID = {
    "method": {"name": {"choice": ["ga", "gd"]}, "retain_weight": {"choice": [1.0, 2.0, 4.0]}},
    "lora": {"r": {"int": [2, 8], "step": 2}},
    "training": {"lr": {"float": [0.1, 0.3], "step": 0.1}},
}


@pytest.mark.parametrize("sampler", ["tpe", "trajectory", "nsga2", "gp"])
def test_the_first_trials_follow_a_prior_and_later_ones_what_was_found(
    make_spec: Make, begin: Any, sampler: str
) -> None:
    """A prior at the wrong end: what trials come to grows with the learning rate."""
    prior = {"center": 2e-4, "spread": 1.5}
    plain = {"float": [1e-4, 1e-2], "log": True}
    search = {"sampler": sampler, "startup_trials": 8, "seed": 1}

    def rates(count: int, **more: Any) -> list[float]:
        spec = make_spec(method="ga", lora={"r": {"int": [2, 8]}}, training={"lr": plain | more}, search=search)
        return [params["training.lr"] for _, params in begin(spec).run(count)]

    primed = rates(20 if sampler in ("tpe", "trajectory") else 8, prior=prior)
    first, later = primed[:8], primed[8:]
    assert sum(lr < 4e-4 for lr in first) >= 5 > sum(lr < 4e-4 for lr in rates(8))
    assert not later or sum(lr > 2e-3 for lr in later) > sum(lr < 4e-4 for lr in later)


def test_a_prior_where_nothing_is_forgotten_is_given_up(make_spec: Make, begin: Any) -> None:
    lr = {"float": [1e-4, 1e-2], "log": True, "prior": {"center": 1e-4, "spread": 1.05}}
    sweep = begin(make_spec(method="ga", training={"lr": lr}, search={"startup_trials": 8}))
    rates = [params["training.lr"] for _, params in sweep.run(14)]
    by_prior = [t.number for t in sweep.study.get_trials() if "by_prior" in t.user_attrs]
    assert len(by_prior) == 3
    assert all(rates[number] < 1.3e-4 for number in by_prior)
    later = rates[by_prior[-1] + 1 :]
    assert sum(rate < 1.3e-4 for rate in later) <= 1
    assert [t.user_attrs["solved"] for t in sweep.study.get_trials()] == [rate > 10**-3.9 for rate in rates]


def test_a_grid_has_every_cell_once_and_inactive_parameters_open_no_cells(make_spec: Make) -> None:
    cells = list(grid(make_spec(**GRID)))
    ga = itertools.product([2, 4, 6, 8], [0.1, 0.2, 0.3])
    gd = itertools.product([1.0, 2.0, 4.0], [2, 4, 6, 8], [0.1, 0.2, 0.3])
    wanted = {("ga", None, *c) for c in ga} | {("gd", *c) for c in gd}
    found = [(c["method.name"], c.get("method.retain_weight"), c["lora.r"], round(c["training.lr"], 12)) for c in cells]
    assert len(found) == 4 * 3 + 3 * 4 * 3
    assert set(found) == wanted


def test_a_grid_is_proposed_cell_by_cell_and_closing_loses_none(make_spec: Make, begin: Any) -> None:
    spec = make_spec(**GRID, search={"sampler": "grid"})
    cells = list(grid(spec))
    sweep = begin(spec)
    assert sweep.searcher.total == sweep.searcher.remaining == len(cells) == 48
    asked = sweep.run(10)
    asked += sweep.open().run(20)
    asked += sweep.open().run(sweep.searcher.remaining)
    assert [params for _, params in asked] == cells
    assert [number for number, _ in asked] == list(range(48))
    assert sweep.open().searcher.remaining == 0


def test_a_grid_larger_than_the_number_of_trials_stops_there(make_spec: Make, begin: Any) -> None:
    sweep = begin(make_spec(**GRID, search={"sampler": "grid"}), limit=5)
    assert sweep.searcher.total == 5
    sweep.run(5)
    assert sweep.searcher.remaining == 0


def test_a_grid_of_more_cells_than_could_be_listed_gives_the_first(make_spec: Make, begin: Any) -> None:
    """10^18 of them; a resume with more trials has the next."""
    space = {"lora": {"r": {"int": [1, 10**9]}, "alpha": {"int": [1, 10**9]}}}
    sweep = begin(make_spec(**space, search={"sampler": "grid", "trials": 3}), limit=3)
    assert [params["lora.alpha"] for _, params in sweep.run(3)] == [1, 2, 3]
    assert sweep.searcher.remaining == 0
    sweep.spec, sweep.limit = make_spec(**space, search={"sampler": "grid", "trials": 5}), 5
    assert [params["lora.alpha"] for _, params in sweep.open().run(2)] == [4, 5]
    assert sweep.searcher.remaining == 0


def test_a_grid_that_was_cut_off_while_it_was_written_is_completed(make_spec: Make, begin: Any) -> None:
    spec = make_spec(**GRID, search={"sampler": "grid"})
    sweep = begin(spec)
    path = sweep.folder / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[len(lines) // 2][:9])
    sweep.open()
    assert [params for _, params in sweep.run(48)] == list(grid(spec))


@pytest.mark.parametrize("kept", [1, 15, -1])
def test_half_a_line_and_a_lock_that_a_killed_driver_left_do_not_stand_in_the_way(
    make_spec: Make, begin: Any, kept: int
) -> None:
    sweep = begin(make_spec(**CONDITIONAL))
    whole = sweep.run(3)
    path = sweep.folder / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(path.read_bytes() + lines[-1][:kept])
    (sweep.folder / "study.journal.lock").touch()
    sweep.open()
    assert [t.params for t in sweep.study.trials] == [params for _, params in whole]
    assert sweep.run(2)[0][0] == 3


def test_what_waits_comes_next_whenever_it_was_put_there(make_spec: Make, tmp_path: Path) -> None:
    """The storage looks for it only where something may wait."""
    spec = make_spec(**CONDITIONAL)
    study = open_study(tmp_path / "study.journal", spec)
    assert [study.ask().number for _ in range(2)] == [0, 1]
    study.enqueue_trial({"training.lr": 2e-3})
    study.enqueue_trial({"training.lr": 3e-3})
    assert study.ask().number == 2
    again = open_study(tmp_path / "study.journal", spec)
    waiting = again.get_trials(states=(TrialState.WAITING,))
    assert [trial.number for trial in waiting] == [3]
    asked = again.ask()
    assert asked.number == 3
    assert asked.suggest_float("training.lr", 1e-4, 1e-2) == 3e-3
    assert again.get_trials(states=(TrialState.WAITING,)) == []
    assert again.ask().number == 4
    assert len(again.trials) == 5


@pytest.mark.parametrize("sampler", ["random", "grid"])
@pytest.mark.parametrize("kept", [0.0, 0.4, 0.8])
def test_a_study_that_is_behind_the_rows_is_made_good_from_them(
    make_spec: Make, begin: Any, sampler: str, kept: float
) -> None:
    """As after a loss of power, or where only the rows had been copied to a bucket: no trial is lost or run again."""
    sections = GRID if sampler == "grid" else CONDITIONAL
    sweep = begin(make_spec(**sections, search={"sampler": sampler}))
    whole = sweep.run(5)
    unfinished, params = sweep.ask()
    sweep.journal.append(sweep.row(sweep.spec, unfinished, 0, 0.8, 0.5, params=params))
    path = sweep.folder / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: int(kept * len(lines))]))
    sweep.open()
    states = [t.state for t in sweep.study.trials[:6]]
    assert states == [TrialState.COMPLETE] * 5 + [TrialState.RUNNING]
    assert [t.params for t in sweep.study.trials[:5]] == [p for _, p in whole]
    assert sweep.ask() == (unfinished, params), "it is the next to run, as it was"
    number, _ = sweep.ask()
    assert number == 6
