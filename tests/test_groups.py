"""Standard errors by group: against formulas, other estimators and simulation, and again from the records alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rayul.records import BASELINE, Evaluation, from_json, to_json, to_table, write_table
from rayul.records.groups import MOST, mean_over, pooled, stderr_over
from rayul.unlearn.evaluate import pessimistic
from rayul.unlearn.measured import mean, rounded
from rayul.unlearn.trial import reference_evaluation, run_trial

rng = np.random.default_rng(0)


def test_groups_of_one_have_the_usual_standard_error() -> None:
    values = rng.random(30)
    assert stderr_over(values, np.ones(30)) == pytest.approx(values.std(ddof=1) / math.sqrt(30), rel=1e-12)
    assert mean(values) == mean(values, np.arange(30)) == (pytest.approx(values.mean()), *mean(values)[1:])


def test_two_groups_are_enough_for_an_error() -> None:
    assert stderr_over([0.83, 0.71], [1, 1]) == pytest.approx(0.06)
    assert stderr_over([0.83, 3 * 0.71], [1, 3]) == pytest.approx(0.045)  # each is .09 beside the mean of .74


def test_groups_of_one_size_have_that_of_their_means() -> None:
    values, groups = rng.random(40), np.repeat(np.arange(8), 5)
    means = values.reshape(8, 5).mean(1)
    found = mean(values, groups)
    assert found == (pytest.approx(values.mean()), pytest.approx(means.std(ddof=1) / math.sqrt(8)), 40, 8)


def test_groups_of_different_sizes_agree_with_the_jackknife_that_leaves_a_group_out() -> None:
    sizes = rng.integers(3, 9, 60)
    groups = np.repeat(np.arange(60), sizes)
    values = rng.normal(0.8, 0.2, 60)[groups] + rng.normal(0, 0.05, len(groups))
    without = np.array([values[groups != k].mean() for k in range(60)])
    jackknife = math.sqrt(59 / 60 * np.square(without - without.mean()).sum())
    assert mean(values, groups).stderr == pytest.approx(jackknife, rel=0.03)


def test_the_error_of_rows_that_stand_together_is_that_of_drawing_groups_anew() -> None:
    def draw() -> np.ndarray:
        return np.repeat(rng.normal(0.7, 0.3, 12), 10) + rng.normal(0, 0.1, 120)

    groups = np.repeat(np.arange(12), 10)
    drawn = [draw() for _ in range(3000)]
    true = np.std([values.mean() for values in drawn])
    assert np.sqrt(np.mean([mean(values, groups).stderr ** 2 for values in drawn])) == pytest.approx(true, rel=0.05)
    assert np.mean([mean(values).stderr for values in drawn]) < true / 2, "row by row it would be far too small"


def test_a_bound_holds_as_often_as_it_says_also_with_few_groups() -> None:
    groups, broken = np.repeat(np.arange(6), 5), 0
    for _ in range(4000):
        values = np.repeat(rng.normal(0.5, 0.1, 6), 5) + rng.normal(0, 0.02, 30)
        broken += pessimistic(mean(values, groups), 0.9).low > 0.5
    assert broken / 4000 == pytest.approx(0.1, abs=0.015)


def test_the_bounds_of_a_single_group_are_its_value() -> None:
    assert pessimistic(mean(np.array([0.2, 0.4]), np.zeros(2, dtype=int)), 0.9) == (pytest.approx(0.3),) * 2
    assert math.isnan(mean(np.array([0.2, 0.4]), np.zeros(2, dtype=int)).stderr)


def test_pooled_groups_keep_the_mean_and_the_size_of_its_error() -> None:
    sizes = rng.integers(1, 4, 400)
    sums = rng.random(400) * sizes
    assert len(pooled(sums)) == MOST == 40
    assert mean_over(pooled(sums), pooled(sizes)) == pytest.approx(mean_over(sums, sizes))
    errors = [stderr_over(*(pooled(a[order]) for a in (sums, sizes))) for order in map(rng.permutation, [400] * 200)]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(stderr_over(sums, sizes), rel=0.05)


# --- from the records alone --------------------------------------------------------------------------------------


def recomputed(e: Evaluation, key: str) -> tuple[float, float]:
    rows = e.group_rows[key.partition(".")[0]]
    return mean_over(e.group_sums[key], rows), stderr_over(e.group_sums[key], rows)


def test_mean_and_error_follow_from_the_sums_that_a_trial_records(
    make_spec: Callable[..., Any], sets: Any, tmp_path: Path
) -> None:
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.task import load_task

    spec = make_spec(
        method="gd",
        objectives={"forget.prob": "minimize", "retain.prob": "maximize"},
        control={"criteria": [{"metric": "general.prob", "at_least": 0.0}]},
    )
    task = load_task(spec, sets)
    baseline = reference_evaluation(task, spec, BASELINE)
    job = TrialJob("0000", spec, 0, {}, baseline.metrics)
    rows = [e for snapshot in run_trial(task, job) for e in snapshot.evaluations]
    for e in (baseline, *(e for e in rows if e.step)):
        assert set(e.group_sums) == {"forget.prob", "retain.prob", "general.prob"}
        assert e.group_rows == {"forget": (3, 3), "retain": (3, 3), "general": (3,)}
        assert {name: e.groups[name] for name in e.group_rows} == {"forget": 2, "retain": 2, "general": 1}
        for key in e.group_sums:
            digits = 1e-4 * e.metrics[key]  # sums have five digits
            expected = pytest.approx((e.metrics[key], e.stderr[key]), abs=digits, nan_ok=True)
            assert recomputed(e, key) == expected
    assert to_json(from_json(to_json(rows[-1]))) == to_json(rows[-1])
    write_table(to_table(rows), tmp_path / "rows.parquet")
    last = pq.read_table(tmp_path / "rows.parquet").to_pylist()[-1]
    assert last["group_sums.retain.prob"] == list(rows[-1].group_sums["retain.prob"])
    assert last["group_rows.retain"] == [3, 3]
    assert last["groups.retain"] == 2


def test_the_sums_do_not_double_a_journal_however_many_groups_there_are() -> None:
    metrics = {f"{s}.{m}": rng.random() for s in ("forget", "retain", "general") for m in ("es", "prob", "em", "ppl")}
    plain = Evaluation(
        "0003",
        20,
        seed=3,
        params={"method.name": "gd", "lora.r": 16, "lora.alpha": 8, "training.lr": rng.random()},
        metrics=metrics,
        stderr=metrics,
        rows={"forget": 400, "retain": 400, "general": 217},
        violation={"retain.es": rng.random()},
        train_seconds=rng.random(),
        device="cpu",
        numerics="4 slots of 4 rows, 2 together, rank 16, 1 evaluated at a time, float32, 1 thread",
    )
    kept = replace(
        plain,
        groups=plain.rows,
        group_sums={key: rounded(pooled(rng.random(400))) for key in ("forget.es", "retain.es")},
        group_rows={name: tuple(map(int, pooled(np.ones(400)))) for name in ("forget", "retain")},
    )
    assert len(to_json(kept)) <= 2 * len(to_json(plain))


def test_a_journal_of_before_there_were_groups_is_read() -> None:
    line = '{"trial_id": "0001", "step": 5, "params": {}, "metrics": {"retain.es": 0.5}, "stderr": {}, "violation": {}}'
    assert (from_json(line).groups, from_json(line).group_sums) == ({}, {})


def test_what_has_no_group_column_counts_row_by_row() -> None:
    from rayul.unlearn.data import Row, group_numbers

    rows = [Row("a", "b"), Row("c", "d", group="x"), Row("e", "f"), Row("g", "h", group="x")]
    assert group_numbers(rows).tolist() == [0, 1, 2, 1]
    assert mean(rng.random(4), group_numbers(rows)).groups == 3
