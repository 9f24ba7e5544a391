"""The verdict of the rules on histories, and how they sit in Tune."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from rayul.sweep import connection  # noqa: F401  before ray.tune, as everywhere
from rayul.sweep.result import TrialResult

# isort: split
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from rayul.records import Evaluation, Journal
from rayul.sweep.pruning.scheduler import PruningScheduler
from rayul.sweep.pruning.stall import STALL

BASE = {"forget.es": 0.8, "retain.es": 0.5}
Row = Callable[..., Evaluation]
Make = Callable[..., Any]


def keep(at_least: Any = "90% of baseline", **more: Any) -> dict[str, Any]:
    return {"criteria": [{"metric": "retain.es", "at_least": at_least, "patience": 1} | more]}


def stops(spec: Any, rows: list[Evaluation], history: list[Evaluation] | None = None) -> list[int]:
    """Steps at which the scheduler says STOP, asked as Tune asks it, result by result."""
    scheduler = PruningScheduler(spec, BASE, history or [])
    return [r.step for r in rows if decide(scheduler, r) == TrialScheduler.STOP]


def decide(scheduler: PruningScheduler, *rows: Evaluation) -> str:
    trial = SimpleNamespace(trial_id=rows[0].trial_id)
    return scheduler.on_trial_result(None, trial, TrialResult(rows).to_ray())  # type: ignore[arg-type]


def test_the_first_violation_stops_and_says_which_by_how_much_and_when(make_spec: Make, row: Row) -> None:
    spec = make_spec(control=keep())
    scheduler = PruningScheduler(spec, BASE)
    assert decide(scheduler, row(spec, 3, 0, 0.8, 0.5)) == TrialScheduler.CONTINUE
    assert decide(scheduler, row(spec, 3, 5, 0.6, 0.45)) == TrialScheduler.CONTINUE  # on the limit is within
    assert decide(scheduler, row(spec, 3, 10, 0.4, 0.4)) == TrialScheduler.STOP
    reason = scheduler.stops["0003"].reason
    assert "retain.es" in reason
    assert "0.4 < 0.45" in reason
    assert "90% of baseline" in reason
    assert "step 10" in reason


def test_patience_counts_violations_in_a_row(make_spec: Make, row: Row) -> None:
    spec = make_spec(control=keep(patience=3))
    bad, good = 0.4, 0.5
    utility = [good, bad, bad, good, bad, bad, bad]
    rows = [row(spec, 0, 5 * i, 0.5, u) for i, u in enumerate(utility)]
    assert stops(spec, rows) == [30]


def test_grace_forgives_the_first_steps_and_counts_from_there(make_spec: Make, row: Row) -> None:
    spec = make_spec(control=keep(grace=10, patience=2))
    rows = [row(spec, 0, step, 0.5, 0.1) for step in (0, 5, 10, 15, 20)]
    assert stops(spec, rows) == [20]


@pytest.mark.parametrize("seed", range(5))
def test_patience_and_grace_against_a_plain_count(make_spec: Make, row: Row, seed: int) -> None:
    draw = random.Random(seed)
    patience, grace = draw.randint(1, 4), draw.randint(0, 12)
    spec = make_spec(control=keep(patience=patience, grace=grace))
    utility = [draw.choice([0.3, 0.5]) for _ in range(40)]
    rows = [row(spec, 0, step, 0.5, u) for step, u in enumerate(utility)]
    text = "".join("x" if u < 0.45 and step > grace else "." for step, u in enumerate(utility))
    first = text.find("x" * patience)
    found = stops(spec, rows)
    assert (found[0] if found else -1) == (first + patience - 1 if first >= 0 else -1)


def test_at_most_is_the_mirror(make_spec: Make) -> None:
    spec = make_spec(
        control={"criteria": [{"metric": "forget.ppl", "at_most": 100, "patience": 1}]},
        evaluate={"metrics": ["es", "prob", "ppl"]},
    )
    scheduler = PruningScheduler(spec, {"forget.ppl": 2.0})
    rows = [Evaluation("0000", s, metrics={"forget.ppl": v}) for s, v in ((0, 2.0), (1, 100.0), (2, 101.0))]
    assert [decide(scheduler, r) for r in rows] == ["CONTINUE", "CONTINUE", "STOP"]
    assert "101 > 100" in scheduler.stops["0000"].reason


@pytest.mark.parametrize("side", ["at_least", "at_most"])
def test_not_a_number_is_a_violation(make_spec: Make, side: str) -> None:
    spec = make_spec(control={"criteria": [{"metric": "retain.es", side: 0.3, "patience": 1}]})
    value = Evaluation("0000", 5, metrics={"retain.es": math.nan}, violation={"retain.es": math.inf}, feasible=False)
    assert stops(spec, [value]) == [5]


def test_two_criteria_on_one_metric_each_keep_their_own_patience(make_spec: Make, row: Row) -> None:
    """90% with patience, and a floor of 50% at once: a value between the two is the first one's matter alone."""
    spec = make_spec(
        control={
            "criteria": [
                {"metric": "retain.es", "at_least": "90% of baseline", "patience": 3},
                {"metric": "retain.es", "at_least": "50% of baseline", "patience": 1},
            ]
        }
    )
    between = [row(spec, 0, step, 0.5, 0.4) for step in (1, 2, 3)]
    assert stops(spec, between) == [3]
    assert stops(spec, [*between[:1], row(spec, 0, 2, 0.5, 0.2)]) == [2]


def test_without_criteria_nothing_stops(make_spec: Make, row: Row) -> None:
    spec = make_spec(control={"criteria": []})
    assert stops(spec, [row(spec, 0, step, 0.0, 0.0) for step in range(20)]) == []


def test_trials_do_not_count_for_each_other(make_spec: Make, row: Row) -> None:
    spec = make_spec(control=keep(patience=2))
    rows = [row(spec, trial, step, 0.5, 0.1) for step in (1, 2) for trial in (0, 1, 2)]
    scheduler = PruningScheduler(spec, BASE)
    assert [decide(scheduler, r) for r in rows] == ["CONTINUE"] * 3 + ["STOP"] * 3


def test_a_searched_limit_is_the_trials_own(make_spec: Make, row: Row) -> None:
    spec = make_spec(control=keep({"choice": [0.2, 0.45]}))
    scheduler = PruningScheduler(spec, BASE)
    strict = row(spec, 0, 5, 0.5, 0.3, params={"control.criteria.0.at_least": 0.45})
    loose = row(spec, 1, 5, 0.5, 0.3, params={"control.criteria.0.at_least": 0.2})
    assert decide(scheduler, strict) == TrialScheduler.STOP
    assert decide(scheduler, loose) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(
    ("key", "tight", "loose"),
    [("control.criteria.0.patience", 1, 3), ("control.criteria.0.grace", 0, 20), ("control.tau", 0.9, 0.5)],
)
def test_a_searched_patience_grace_or_target_is_the_trials_own(
    make_spec: Make, row: Row, key: str, tight: Any, loose: Any
) -> None:
    choice = {"choice": [tight, loose]}
    control = {"tau": choice} if key == "control.tau" else keep(**{key.rpartition(".")[2]: choice})
    spec = make_spec(control=control)
    scheduler = PruningScheduler(spec, BASE)
    decisions = {}
    for trial, value in enumerate((tight, loose)):
        for step in (5, 10):
            decisions[value] = decide(scheduler, row(spec, trial, step, 0.5, 0.3, params={key: value}))
    assert decisions == {tight: TrialScheduler.STOP, loose: TrialScheduler.CONTINUE}


@pytest.mark.parametrize("cut", range(8))
def test_patience_survives_a_restart_at_any_evaluation(make_spec: Make, row: Row, journal: Journal, cut: int) -> None:
    """A trial that starts again repeats its evaluations from step 0: the same decisions, wherever it was cut."""
    spec = make_spec(control=keep(patience=3))
    utility = [0.5, 0.4, 0.4, 0.5, 0.4, 0.4, 0.4, 0.4]
    rows = [row(spec, 0, 5 * i, 0.5, u) for i, u in enumerate(utility)]
    for r in rows[:cut]:
        journal.append(r)
    whole = stops(spec, rows)
    assert stops(spec, rows, history=list(Journal(journal.path)))[:1] == whole[:1] == [30]


def test_a_repeated_evaluation_counts_once_and_as_it_was_first(make_spec: Make, row: Row) -> None:
    """Another device may repeat it with other numbers; the journal keeps the first, so the verdict does, too."""
    spec = make_spec(control=keep(patience=2))
    scheduler = PruningScheduler(spec, BASE)
    assert decide(scheduler, row(spec, 0, 5, 0.5, 0.4)) == TrialScheduler.CONTINUE
    assert decide(scheduler, row(spec, 0, 5, 0.5, 0.4)) == TrialScheduler.CONTINUE
    assert decide(scheduler, row(spec, 0, 5, 0.5, 0.5)) == TrialScheduler.CONTINUE
    assert decide(scheduler, row(spec, 0, 10, 0.5, 0.4)) == TrialScheduler.STOP


def test_reference_rows_and_failed_rows_are_no_history(make_spec: Make, row: Row, baseline: Evaluation) -> None:
    spec = make_spec(control=keep())
    failed = Evaluation("0000", 3, feasible=False)
    assert stops(spec, [row(spec, 0, 4, 0.5, 0.5)], history=[baseline, failed]) == []


def test_mixing_stops_when_the_calibrated_value_stalls_and_not_for_a_violation(make_spec: Make, row: Row) -> None:
    spec = make_spec(control=keep() | {"mixing": True})
    scheduler = PruningScheduler(spec, BASE)

    def at(step: int, calibrated: float) -> str:
        """Broken at mixing 1, repaired at 0.5."""
        return decide(scheduler, row(spec, 0, step, 0.0, 0.0), row(spec, 0, step, calibrated, 0.46, mixing=0.5))

    improving = [0.7, 0.6, 0.6, 0.5]
    stalled = [0.5, 0.55, 0.5, 0.5]
    assert len(stalled) == STALL
    decisions = [at(step, value) for step, value in enumerate([*improving, *stalled], 1)]
    assert decisions == ["CONTINUE"] * 7 + ["STOP"]
    assert "forget.es" in scheduler.stops["0000"].reason
    assert "0.5" in scheduler.stops["0000"].reason
    assert "step 4" in scheduler.stops["0000"].reason


def test_mixing_stops_a_trial_that_is_never_feasible(make_spec: Make, row: Row) -> None:
    spec = make_spec(control=keep() | {"mixing": True})
    rows = [row(spec, 0, step, 0.1, 0.1) for step in range(0, 10)]
    assert stops(spec, rows)[0] == STALL


def test_of_several_targets_progress_at_one_is_progress(make_spec: Make, row: Row) -> None:
    """The smallest share's best stands still, that of 90% goes on falling; then both stand still."""
    spec = make_spec(control={"tau": [0.5, 0.9], "mixing": True}, pruning={"dominance": False})
    scheduler = PruningScheduler(spec, BASE)
    decisions = []
    for step, strict in enumerate([0.7, 0.6, 0.5, 0.45, 0.42, 0.41, *[0.41] * STALL], 1):
        broken, loose = row(spec, 0, step, 0.0, 0.0), row(spec, 0, step, 0.3, 0.26, mixing=0.7)
        decisions.append(decide(scheduler, broken, row(spec, 0, step, strict, 0.46, mixing=0.4), loose))
    assert decisions == ["CONTINUE"] * (6 + STALL - 1) + ["STOP"]


def test_mixing_may_be_searched_too(make_spec: Make, row: Row) -> None:
    """A trial without it is judged by the criteria, one with it by its calibrated value."""
    spec = make_spec(control=keep() | {"mixing": {"choice": [True, False]}})
    scheduler = PruningScheduler(spec, BASE)
    off, on = ({"control.mixing": value} for value in (False, True))
    assert decide(scheduler, row(spec, 0, 5, 0.1, 0.2, params=off)) == TrialScheduler.STOP
    calibrated = row(spec, 1, 5, 0.4, 0.46, mixing=0.5, params=on)
    assert decide(scheduler, row(spec, 1, 5, 0.1, 0.2, params=on), calibrated) == TrialScheduler.CONTINUE


def test_confidence_judges_the_bound_that_the_row_carries(make_spec: Make, row: Row) -> None:
    """The mean is within the limit, its pessimistic bound is not."""
    spec = make_spec(control=keep() | {"confidence": 0.95})
    judged = replace(row(spec, 0, 5, 0.5, 0.46), violation={"retain.es": 0.01}, feasible=False)
    assert stops(spec, [judged]) == [5]


@pytest.mark.parametrize("seed", range(5))
def test_trials_start_in_the_order_of_tunes_own_scheduler(make_spec: Make, seed: int) -> None:
    draw = random.Random(seed)
    ended = [Trial.TERMINATED, Trial.ERROR]
    trials: Any = [
        SimpleNamespace(status=draw.choice([Trial.PENDING, Trial.RUNNING, *ended]), config={"number": number})
        for number in range(30)
    ]
    live = [trial for trial in trials if trial.status not in ended]
    draw.shuffle(live)  # Tune keeps them as a set
    controller: Any = SimpleNamespace(get_trials=lambda: trials, get_live_trials=lambda: live)
    ours, tunes = PruningScheduler(make_spec(), BASE), FIFOScheduler()
    chosen = []
    while (trial := tunes.choose_trial_to_run(controller)) is not None:
        assert ours.choose_trial_to_run(controller) is trial
        chosen.append(trial)
        trial.status = Trial.RUNNING
    assert chosen
    assert ours.choose_trial_to_run(controller) is None
