"""Pruning rules as what they are: a function of plain records, a file each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rayul.records import BASELINE, Evaluation
from rayul.sweep.pruning import criteria, dominance, halving, stall
from rayul.sweep.pruning.history import History, Rule, Stop
from rayul.sweep.pruning.rules import BUILT_IN, rules_of

BASE = {"forget.es": 0.8, "retain.es": 0.5}
LIMIT = 0.45
KEEP = {"criteria": [{"metric": "retain.es", "at_least": "90% of baseline", "patience": 1}]}
Make = Callable[..., Any]


def evaluation(trial: str, step: int, forget: float, retain: float, mixing: float = 1.0, **more: Any) -> Evaluation:
    violation = {"retain.es": (LIMIT - retain) / LIMIT}
    metrics = {"forget.es": forget, "retain.es": retain}
    return Evaluation(trial, step, mixing, metrics=metrics, violation=violation, feasible=retain >= LIMIT, **more)


def test_no_rule_knows_ray() -> None:
    modules = ", ".join(f"rayul.sweep.pruning.{name}" for name in ("rules", "history", "own"))
    code = f"import sys, {modules}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("pruning", "expected"),
    [
        ({}, [criteria, stall, dominance]),
        ({"criteria": False}, [dominance]),
        ({"budget": True}, [criteria, stall, dominance, halving]),
        ({"criteria": False, "dominance": False}, []),
    ],
)
def test_the_spec_says_which_are_asked_and_their_order_is_the_tables(
    make_spec: Make, pruning: dict[str, Any], expected: list[Any]
) -> None:
    found = [sys.modules[rule.__module__] for rule in rules_of(make_spec(pruning=pruning))]
    assert found == expected
    assert [sys.modules[make.__module__] for make in BUILT_IN if sys.modules[make.__module__] in expected] == expected


def test_criteria_name_the_metric_that_is_broken(make_spec: Make) -> None:
    spec = make_spec(control=KEEP)
    history = History(spec, BASE, [evaluation("0000", 0, 0.8, 0.5), evaluation("0000", 5, 0.4, 0.4)])
    assert criteria.verdict(history, "0000", 0) is None
    reason = "retain.es 0.4 < 0.45 (90% of baseline) at step 5"
    assert criteria.verdict(history, "0000", 5) == Stop("retain.es", reason)


def test_criteria_say_how_often_a_limit_was_broken(make_spec: Make) -> None:
    limit = {"metric": "general.ppl", "at_most": "120% of baseline", "patience": 2}
    spec = make_spec(control={"criteria": [limit]})
    base = BASE | {"general.ppl": 2.5}
    rows = [replace(evaluation("0000", step, 0.4, 0.5), metrics={"general.ppl": 3.0 + step / 10}) for step in (0, 1, 2)]
    history = History(spec, base, rows)
    assert criteria.verdict(history, "0000", 1) is None
    reason = "general.ppl 3.2 > 3 (120% of baseline) at step 2, for 2 evaluations"
    assert criteria.verdict(history, "0000", 2) == Stop("general.ppl", reason)


@pytest.mark.parametrize("mixing", [True, False])
def test_a_trial_is_judged_by_its_criteria_or_by_its_progress_never_by_both(make_spec: Make, mixing: bool) -> None:
    rows = [evaluation("0000", step, 0.1, 0.1) for step in range(10)]
    history = History(make_spec(control=KEEP | {"mixing": mixing}), BASE, rows)
    stopped = {rule for rule in (criteria, stall) if rule.verdict(history, "0000", 9) is not None}
    assert stopped == ({stall} if mixing else {criteria})


def test_stall_says_since_when_and_what_was_best(make_spec: Make) -> None:
    spec = make_spec(control=KEEP | {"mixing": True})
    rows = []
    for step, calibrated in enumerate([0.7, 0.6, *[0.65] * stall.STALL], 1):
        rows += [evaluation("0000", step, 0.0, 0.0), evaluation("0000", step, calibrated, 0.46, mixing=0.5)]
        rows += [evaluation("0000", step, 0.78, 0.48, mixing=0.25)]  # keeps the limit too, and has forgotten less
    history = History(spec, BASE, rows)
    last = 2 + stall.STALL
    assert stall.verdict(history, "0000", last - 1) is None
    reason = "calibrated forget.es has not improved for 4 evaluations (best: 0.600 at step 2)"
    assert stall.verdict(history, "0000", last) == Stop("stall", reason)


def test_a_point_that_is_exactly_at_one_of_several_limits_counts_against_stalling(make_spec: Make) -> None:
    """Of 90% and 96% of the baseline, each of the points keeps the first exactly, and each has forgotten more."""
    spec = make_spec(control={"tau": [0.9, 0.96], "mixing": True})
    rows = []
    for step in range(1, 2 + stall.STALL):
        rows += [evaluation("0000", step, 0.0, 0.0)]
        rows += [evaluation("0000", step, 0.7 - 0.02 * step, 0.9 * BASE["retain.es"], mixing=0.5)]
    assert stall.verdict(History(spec, BASE, rows), "0000", rows[-1].step) is None


def test_a_trial_that_has_utility_left_has_not_stalled(make_spec: Make) -> None:
    rows = [evaluation("0000", step, 0.8, 0.48) for step in range(2 + 2 * stall.STALL)]
    history = History(make_spec(control=KEEP | {"mixing": True}), BASE, rows)
    assert stall.verdict(history, "0000", rows[-1].step) is None


def test_stall_says_when_nothing_was_feasible(make_spec: Make) -> None:
    rows = [evaluation("0000", step, 0.1, 0.1) for step in range(1, 1 + stall.STALL)]
    history = History(make_spec(control=KEEP | {"mixing": True}), BASE, rows)
    reason = "calibrated forget.es has not improved for 4 evaluations (best: none was feasible)"
    assert stall.verdict(history, "0000", stall.STALL) == Stop("stall", reason)


def test_stall_of_an_objective_that_is_to_grow(make_spec: Make) -> None:
    """A perplexity on the forget rows, with a baseline row that counts for nothing."""
    spec = make_spec(control=KEEP | {"mixing": True}, objectives={"forget.ppl": "maximize", "retain.es": "maximize"})
    rows = [replace(evaluation("0000", 0, 0.8, 0.5), metrics={"forget.ppl": 99.0, "retain.es": 0.5})]
    for step, calibrated in enumerate([1.5, 1.7, *[1.6] * stall.STALL], 1):
        rows += [
            replace(evaluation("0000", step, 0.0, retain, mixing=a), metrics={"forget.ppl": ppl, "retain.es": retain})
            for a, ppl, retain in ((1.0, 50.0, 0.0), (0.5, calibrated, 0.46))
        ]
    history = History(spec, BASE | {"forget.ppl": 1.0}, rows)
    last = 2 + stall.STALL
    assert stall.verdict(history, "0000", last - 1) is None
    reason = "calibrated forget.ppl has not improved for 4 evaluations (best: 1.700 at step 2)"
    assert stall.verdict(history, "0000", last) == Stop("stall", reason)


@pytest.mark.parametrize("rule", [dominance.rule, halving.rule])
def test_a_rule_that_is_asked_late_knows_what_one_that_was_always_asked_knows(
    make_spec: Make, rule: Callable[[Any], Rule | None]
) -> None:
    """What they keep between two calls comes from the history alone: so it is after a resume."""
    training = {"steps": 40, "evaluate_every": 4}
    spec = make_spec(training=training, control=KEEP, pruning={"budget": {"reduction": 2, "first": 0.2}})
    always, history = rule(spec), History(spec, BASE)
    assert always is not None
    stops = 0
    for step in range(0, 41, 4):
        for trial, speed in enumerate((0.019, 0.0, 0.009, 0.001, 0.015)):
            history.add(evaluation(f"{trial:04d}", step, 0.8 - speed * step, 0.49))
            late = rule(spec)
            assert late is not None
            found = always(history, f"{trial:04d}", step)
            assert found == late(history, f"{trial:04d}", step)
            stops += found is not None
    assert stops > 3, "there must be something to agree on"


def test_the_history_keeps_what_the_journal_keeps(make_spec: Make) -> None:
    first, again = evaluation("0000", 5, 0.4, 0.5), evaluation("0000", 5, 0.3, 0.5)
    rows = [
        Evaluation(BASELINE, 0, metrics=BASE),
        evaluation("0001", 5, 0.7, 0.5),
        first,
        again,
        evaluation("0000", 5, 0.6, 0.5, mixing=0.5),
        evaluation("0000", 0, 0.8, 0.5),
        Evaluation("0000", 6),
    ]
    history = History(make_spec(), BASE, rows)
    assert history.rows == [rows[1], first, rows[4], rows[5]]
    assert history.of("0000", 9) == {0: [rows[5]], 5: [first, rows[4]]}
    assert list(history.of("0000", 9)) == [0, 5]
    assert history.of("0000", 4) == {0: [rows[5]]}
    assert set(history.trials) == {"0000", "0001"}
