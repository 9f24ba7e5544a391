"""The budget rule: hypervolume contributions against a formula, and what the scheduler does with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from driver import endings, rows, sweep, write_spec

from rayul.records import Evaluation
from rayul.sweep import connection  # noqa: F401  before ray.tune, as everywhere
from rayul.sweep.result import TrialResult

# isort: split
from ray.tune.schedulers import TrialScheduler

from rayul.sweep.pruning.halving import merits, rungs, volume
from rayul.sweep.pruning.scheduler import PruningScheduler

BASE = {"forget.es": 0.8, "retain.es": 0.5}
Row = Callable[..., Evaluation]
Make = Callable[..., Any]


def area(points: np.ndarray[Any, Any]) -> float:
    """Of the union of boxes from the corner, by counting the cells of the grid that the points span."""
    x, y = (np.unique([0.0, *points[:, i]]) for i in range(2))
    total = 0.0
    for i in range(len(x) - 1):
        for j in range(len(y) - 1):
            covered = ((points[:, 0] >= x[i + 1]) & (points[:, 1] >= y[j + 1])).any()
            total += (x[i + 1] - x[i]) * (y[j + 1] - y[j]) * covered
    return total


@pytest.mark.parametrize("seed", range(8))
def test_merit_is_what_would_be_missing_and_what_the_trial_has_alone(seed: int) -> None:
    draw = np.random.default_rng(seed)
    points = {f"{i:04d}": draw.uniform(-0.1, 1, (draw.integers(0, 4), 2)).clip(0, 1) for i in range(6)}
    found = merits(points)
    everything = np.vstack(list(points.values()))
    for trial, mine in points.items():
        rest = np.vstack([p for t, p in points.items() if t != trial])
        assert found[trial][0] == pytest.approx(area(everything) - area(rest), abs=1e-12)
        assert found[trial][1] == pytest.approx(area(mine) if len(mine) else 0, abs=1e-12)
    assert volume([]) == 0


def scheduler_of(spec: Any, history: list[Evaluation] | None = None) -> PruningScheduler:
    return PruningScheduler(spec, BASE, history or [])


def decide(scheduler: PruningScheduler, *rows: Evaluation) -> str:
    trial = SimpleNamespace(trial_id="tune's")
    return scheduler.on_trial_result(None, trial, TrialResult(rows).to_ray())  # type: ignore[arg-type]


@pytest.fixture
def spec(make_spec: Make) -> Any:
    return make_spec(
        training={"steps": 40, "evaluate_every": 4},
        control={"criteria": [{"metric": "retain.es", "at_least": "90% of baseline", "patience": 1}]},
        pruning={"dominance": False, "budget": {"reduction": 2, "first": 0.25}},
    )


def test_at_a_rung_the_trials_that_add_least_are_stopped_with_their_numbers(spec: Any, row: Row) -> None:
    """Rungs at steps 10 and 20 of 40: judged at the evaluations of steps 12 and 20. Each trial covers the next."""
    scheduler = scheduler_of(spec)
    forgets = (0.3, 0.4, 0.5)
    decisions = {
        step: [decide(scheduler, row(spec, trial, step, forget, 0.49)) for trial, forget in enumerate(forgets)]
        for step in (4, 8, 12)
    }
    assert decisions[4] == decisions[8] == ["CONTINUE"] * 3
    assert decisions[12] == ["CONTINUE", "STOP", "STOP"]
    alone = (1 - 0.5 / 0.8) * (0.49 / 0.5 - 0.9) / 0.1
    assert scheduler.stops["0002"].reason == (
        f"budget at step 12: its hypervolume contribution 0.0000 (alone {alone:.4f}) is behind 2 of the 3 trials that "
        "got there, and 2 go on"
    )
    assert decide(scheduler, row(spec, 3, 12, 0.2, 0.49)) == TrialScheduler.CONTINUE
    assert decide(scheduler, row(spec, 0, 16, 0.29, 0.49)) == TrialScheduler.CONTINUE, "between two rungs"


def test_ties_stop_nobody(spec: Any, row: Row) -> None:
    """Nothing is forgotten yet: all contribute nothing."""
    scheduler = scheduler_of(spec)
    assert [decide(scheduler, row(spec, trial, 12, 0.8, 0.5)) for trial in range(9)] == ["CONTINUE"] * 9


def test_each_rung_is_judged_once(spec: Any, row: Row) -> None:
    """Alone at step 12, trial 0 passes the rung of step 10. That others are ahead by now matters at that of 20."""
    scheduler = scheduler_of(spec)
    assert decide(scheduler, row(spec, 0, 4, 0.7, 0.49)) == TrialScheduler.CONTINUE
    assert decide(scheduler, row(spec, 0, 12, 0.6, 0.49)) == TrialScheduler.CONTINUE
    for trial in (1, 2):
        for step in (4, 12, 16, 20, 24):
            decide(scheduler, row(spec, trial, step, 0.2 + trial / 20, 0.49))
    assert decide(scheduler, row(spec, 0, 16, 0.5, 0.49)) == TrialScheduler.CONTINUE
    assert decide(scheduler_of(spec, scheduler_rows(spec, row)), row(spec, 0, 24, 0.5, 0.49)) == TrialScheduler.CONTINUE
    assert decide(scheduler, row(spec, 0, 20, 0.5, 0.49)) == TrialScheduler.STOP


def test_a_rung_at_the_first_step_is_judged(make_spec: Make, row: Row) -> None:
    spec = make_spec(
        training={"steps": 4, "evaluate_every": 1},
        control={"criteria": [{"metric": "retain.es", "at_least": "90% of baseline"}]},
        pruning={"dominance": False, "budget": {"reduction": 2, "first": 0.25}},
    )
    scheduler = scheduler_of(spec)
    assert decide(scheduler, row(spec, 0, 1, 0.3, 0.49)) == TrialScheduler.CONTINUE
    assert decide(scheduler, row(spec, 1, 1, 0.6, 0.49)) == TrialScheduler.STOP


def scheduler_rows(spec: Any, row: Row) -> list[Evaluation]:
    """Trial 0 has been judged at the rung of step 20 already, alone; two others are ahead since."""
    return [row(spec, 0, 20, 0.6, 0.49), *(row(spec, trial, 24, 0.2, 0.49) for trial in (1, 2))]


def test_what_others_found_later_does_not_count(spec: Any, row: Row) -> None:
    scheduler = scheduler_of(spec)
    for step, forget in ((12, 0.7), (16, 0.2), (20, 0.1)):
        decide(scheduler, row(spec, 0, step, forget, 0.49))
    assert decide(scheduler, row(spec, 1, 12, 0.6, 0.49)) == TrialScheduler.CONTINUE
    assert decide(scheduler, row(spec, 1, 20, 0.6, 0.49)) == TrialScheduler.STOP


def test_a_resume_judges_as_the_whole_run(spec: Any, row: Row) -> None:
    rows = [row(spec, trial, 12, forget, 0.49) for trial, forget in enumerate((0.3, 0.4, 0.5))]
    whole = scheduler_of(spec)
    decisions = [decide(whole, r) for r in rows]
    resumed = scheduler_of(spec, rows[:2])
    assert decide(resumed, rows[2]) == decisions[2] == TrialScheduler.STOP
    assert resumed.stops["0002"].reason == whole.stops["0002"].reason


def test_criteria_come_first(spec: Any, row: Row) -> None:
    scheduler = scheduler_of(spec)
    decide(scheduler, row(spec, 0, 12, 0.3, 0.49))
    assert decide(scheduler, row(spec, 1, 12, 0.7, 0.2)) == TrialScheduler.STOP
    assert "retain.es 0.2 < 0.45" in scheduler.stops["0001"].reason


@pytest.mark.parametrize(
    ("rule", "expected"),
    [({}, [10, 30]), ({"reduction": 2, "first": 0.1}, [4, 8, 16, 32]), ({"reduction": 2, "first": 0.25}, [10, 20])],
)
def test_rungs(make_spec: Make, rule: dict[str, Any], expected: list[int]) -> None:
    budget = make_spec(pruning={"budget": rule}).pruning.budget
    assert rungs(40, budget.first, budget.reduction) == pytest.approx(expected)


def test_it_is_off_unless_asked_for(make_spec: Make) -> None:
    assert make_spec().pruning.budget is None
    assert make_spec(pruning={"budget": True}).pruning.budget.reduction == 3
    assert make_spec(pruning={"budget": False}).pruning.budget is None


@pytest.mark.slow
def test_a_real_sweep_records_rule_and_numbers(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> None:
    spec = write_spec(
        tmp_path / "tiny.yaml",
        tiny_folder,
        data_folder,
        control=[],
        pruning={"criteria": False, "dominance": False, "budget": {"reduction": 3, "first": 0.5}},
        search={"sampler": "random", "trials": 8},
    )
    done = sweep(spec, tmp_path)
    assert done.returncode == 0, done.stderr
    pruned = [end for end in endings(tmp_path / "tiny").values() if end["state"] == "pruned"]
    assert pruned
    last = {row["trial_id"]: row["step"] for row in rows(tmp_path / "tiny")}
    for end in pruned:
        assert last[end["trial_id"]] == 4
        assert end["rule"] == "budget"
        assert end["reason"].startswith("budget at step 4: its hypervolume contribution 0.")
