"""Costs of many rows from runs of a few, and what a plan says where it could not afford them all."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from rayul.unlearn import stopwatch
from rayul.unlearn.extrapolate import at_size
from rayul.unlearn.stopwatch import time_evaluation, time_step


def test_all_rows_are_run_where_there_is_time() -> None:
    run: list[int] = []
    found = at_size(lambda count: run.append(count) or [count**2], 11, allowance=60.0, nothing=[0.0])  # type: ignore[func-returns-value]
    assert run == [1, 2, 4, 8, 11]
    assert found == ([121.0], 11)


def test_beyond_the_last_run_numbers_go_on_along_a_line() -> None:
    def run(count: int) -> list[float]:
        time.sleep(0.02 * count)
        return [3.0 + 2.0 * count, 7.0, -float(count)]

    numbers, rows = at_size(run, 1000, allowance=0.5, nothing=[3.0, 7.0, 0.0])
    assert 1 <= rows <= 16  # together 0.02 (1 + 2 + ... + 16) s are more than the allowance
    assert numbers[:2] == pytest.approx([2003.0, 7.0])
    assert numbers[2] == -rows  # it does not fall any further
    numbers, rows = at_size(run, 1000, allowance=0.0, nothing=[3.0, 7.0, 0.0])
    assert rows == 1
    assert numbers[:2] == pytest.approx([2003.0, 7.0])


def test_a_baseline_that_takes_too_long_is_absent_and_never_guessed(
    make_spec: Callable[..., Any], task: Any, sets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayul.unlearn.evaluate import evaluate

    spec = make_spec(training={"batch_size": 6})
    whole = time_evaluation(task.base, task, spec)
    assert whole.rows == whole.of == len(task.examples["forget"]) + len(task.examples["retain"])
    monkeypatch.setattr(stopwatch, "EVALUATION", 0.0)
    parts = time_evaluation(task.base, task, spec)
    assert (parts.rows, parts.of) == (1, whole.of)
    expected = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    for found in (whole, parts):  # row by row of the sets that are scored
        assert {key: m.value for key, m in found.baseline.items()} == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(stopwatch, "BASELINE", 0.0)
    assert time_evaluation(task.base, task, spec).baseline == {}


@pytest.mark.parametrize("method", ["npo", "dpo", "kl", "rmu", "undial"])
def test_a_step_is_timed_on_few_rows(
    make_spec: Callable[..., Any], task: Any, sets: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from rayul.unlearn.update import attach

    spec = make_spec(method=method, training={"batch_size": 100})
    update = attach(task, spec, seed=0)
    try:
        whole = time_step(update, task, spec, sets)
        assert whole.rows == whole.of == len(task.examples["forget"])  # a step has no more
        monkeypatch.setattr(stopwatch, "STEP", 0.0)
        few = time_step(update, task, spec, sets)
    finally:
        update.detach()
    assert (few.rows, few.of) == (1, whole.of)
    assert few.seconds > 0
    assert few.memory > 0
