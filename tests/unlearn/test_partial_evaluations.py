"""With mixing, a scaled adapter that breaks a limit is measured on the rows of the limits alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.trial import run_trial

MakeSpec = Callable[..., Any]

STRONG = {"lr": 0.01, "batch_size": 4, "steps": 4, "evaluate_every": 2}
LIMIT = {"metric": "retain.prob", "at_least": "97% of baseline"}
METRICS = ("es", "prob", "em", "ppl")


def calibrated(task: Any, spec: Any) -> tuple[list[Any], list[dict[str, float]]]:
    """The rows of a trial behind step 0, and beside each all metrics of the adapter that it is of, by a forward of its
    own."""
    baseline = evaluate(task.base, task, METRICS, 64).values
    rows, whole = [], []
    for snapshot in run_trial(task, TrialJob("0000", spec, 0, {}, baseline)):
        for e in snapshot.evaluations:
            if e.step:
                with snapshot.update.mixed(e.mixing):  # type: ignore[union-attr]
                    whole.append(evaluate(snapshot.update.model, task, spec.evaluate.metrics, 64).values)  # type: ignore[union-attr]
                rows.append(e)
    return rows, whole


def test_what_breaks_a_limit_below_mixing_1_is_read_as_far_as_the_limit(task: Any, make_spec: MakeSpec) -> None:
    objectives = {"forget.prob": "minimize", "retain.prob": "maximize"}
    control = {"criteria": [LIMIT], "mixing": True}
    rows, whole = calibrated(task, make_spec(method="ga", training=STRONG, objectives=objectives, control=control))
    read = [set(e.rows) for e in rows]
    complete = {"forget", "retain"}
    for e, sets, known in zip(rows, read, whole, strict=True):
        assert sets == (complete if e.feasible or e.mixing == 1 else {"retain"}), e.key
        assert {key.partition(".")[0] for key in e.metrics} == sets
        assert e.metrics == pytest.approx({key: known[key] for key in e.metrics}, rel=1e-5, abs=1e-6)
    assert {"retain"} in read, "something must break the limit, or there is nothing to leave out"
    assert sum(sets == complete and e.mixing < 1 for e, sets in zip(rows, read, strict=True)) > 1


@pytest.mark.parametrize("own_rule", [False, True])
def test_where_everything_may_count_every_evaluation_is_whole(
    own_rule: bool, task: Any, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Where limits are on all sets that are read, and where a rule of the user's own may look at any."""
    rules = {"rules": [f"{tmp_path / 'mine.py'}:never"]} if own_rule else {}
    (tmp_path / "mine.py").write_text("def never(trial, others, baseline):\n    return None\n")
    limits = [LIMIT] if own_rule else [LIMIT, {"metric": "forget.ppl", "at_most": 1e9}]
    control = {"criteria": limits, "mixing": True}
    rows, whole = calibrated(task, make_spec(method="ga", training=STRONG, control=control, pruning=rules))
    assert any(e.mixing < 1 and not e.feasible for e in rows)
    assert all(set(e.metrics) == set(known) for e, known in zip(rows, whole, strict=True))
