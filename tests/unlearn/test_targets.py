"""Several utility targets in one trial (control.tau as a list), and every control as something to search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayul.records import COMPLETED
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.trial import run_trial

MakeSpec = Callable[..., Any]

OBJECTIVES = {"forget.prob": "minimize", "retain.prob": "maximize"}
STRONG = {"lr": 0.01, "batch_size": 4, "steps": 4, "evaluate_every": 2}


def run(task: Any, spec: Any, params: dict[str, Any] | None = None) -> list[Any]:
    baseline = evaluate(task.base, task, ("es", "prob", "em", "ppl"), 64).values
    snapshots = list(run_trial(task, TrialJob("0000", spec.at(params or {}), 0, params or {}, baseline)))
    assert snapshots[-1].ending is not None
    assert snapshots[-1].ending.state == COMPLETED
    return [e for snapshot in snapshots for e in snapshot.evaluations], baseline  # type: ignore[return-value]


def test_every_step_has_a_calibrated_row_for_each_target(task: Any, make_spec: MakeSpec) -> None:
    taus = [0.92, 0.94, 0.96, 0.98]
    spec = make_spec(method="ga", training=STRONG, objectives=OBJECTIVES, control={"tau": taus, "mixing": True})
    rows, baseline = run(task, spec)
    for step in (2, 4):
        mine = {e.mixing: e.metrics["retain.prob"] / baseline["retain.prob"] for e in rows if e.step == step}
        assert mine[1.0] < 0.92, "unscaled it breaks every target, or there is nothing to see"
        assert len(mine) == sum(e.step == step for e in rows), "no coefficient is measured twice"
        for tau in taus:
            keeping = max(a for a, share in mine.items() if share >= tau)
            assert min(a for a in mine if a > keeping) - keeping <= 1 / 32, tau
        last = [e for e in rows if e.step == step][-1]
        assert last.mixing == max(a for a, share in mine.items() if share >= 0.92), "the smallest target's comes last"
        assert [e.feasible for e in rows if e.step == step] == [share >= 0.92 for share in mine.values()]


def test_a_single_share_is_the_criterion_it_stands_for(task: Any, make_spec: MakeSpec) -> None:
    given = {"criteria": [{"metric": "retain.prob", "at_least": "95% of baseline"}], "mixing": True}
    shape = {"method": "ga", "training": STRONG, "objectives": OBJECTIVES}
    short, _ = run(task, make_spec(**shape, control={"tau": 0.95, "mixing": True}))
    long, _ = run(task, make_spec(**shape, control=given))
    assert [(e.key, e.metrics, e.violation) for e in short] == [(e.key, e.metrics, e.violation) for e in long]


SEARCHED: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "control.loss_cap": ({"loss_cap": {"choice": [0.1, 50.0]}}, 0.1, 50.0),
    "control.token_cap": ({"token_cap": {"choice": [0.1, 50.0]}}, 0.1, 50.0),
    "control.temperature": ({"temperature": {"float": [0.5, 3.0]}}, 0.5, 3.0),
    "control.select_fraction": ({"select_fraction": {"float": [0.1, 1.0]}}, 0.1, 1.0),
    "control.select_by": (
        {"select_by": {"choice": ["smallest", "largest"]}, "select_fraction": 0.5}, "smallest", "largest",
    ),
    "control.ball": ({"ball": {"choice": [0.001, 10.0]}}, 0.001, 10.0),
    "control.ball_norm": (
        {"ball_norm": {"choice": ["frobenius", "elementwise"]}, "ball": 0.01}, "frobenius", "elementwise",
    ),
    "control.tau": ({"tau": {"float": [0.5, 0.99]}, "mixing": True}, 0.5, 0.99),
    "control.mixing": ({"mixing": {"choice": [True, False]}, "tau": 0.97}, True, False),
    "control.confidence": ({"confidence": {"choice": [None, 0.95]}, "tau": 0.97, "mixing": True}, None, 0.95),
}  # fmt: skip
"""By key of the space: the control section, and two values that it may draw."""


@pytest.mark.parametrize("key", SEARCHED)
def test_a_control_that_is_searched_reaches_the_trial(key: str, task: Any, make_spec: MakeSpec) -> None:
    control, one, other = SEARCHED[key]
    spec = make_spec(method="ga", training=STRONG, objectives=OBJECTIVES, control=control)
    assert list(spec.space) == [key]
    outcomes = []
    for value in (one, other):
        rows, _ = run(task, spec, {key: value})
        assert rows[-1].params == {key: value}
        outcomes.append([(e.key, e.metrics) for e in rows])
    assert outcomes[0] != outcomes[1]
