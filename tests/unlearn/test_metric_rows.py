"""A metric is a row in `rayul/spec/metrics.py` and a function of its name: neither without the other."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rayul.spec import METRICS, Metric, parse_spec
from rayul.unlearn import metrics, suite_metrics
from rayul.unlearn.data import Sets
from rayul.unlearn.evaluate import measure, per_row
from rayul.unlearn.forward import TokenScores
from rayul.unlearn.measured import Measured
from rayul.unlearn.probe import Probe
from rayul.unlearn.suite import evaluate_model


def functions(module: ModuleType) -> set[str]:
    found = inspect.getmembers(module, inspect.isfunction)
    return {name for name, function in found if function.__module__ == module.__name__ and not name.startswith("_")}


def test_every_row_has_its_function_and_every_function_its_row() -> None:
    cheap = {name for name, row in METRICS.items() if row.needs == "forward"}
    assert functions(metrics) == cheap
    assert functions(suite_metrics) == METRICS.keys() - cheap


@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if row.needs == "forward"])
def test_a_metric_of_the_forward_is_the_mean_of_its_rows_as_its_row_says(name: str) -> None:
    options = np.log([0.6, 0.4])
    rows = [
        TokenScores(np.log(p), np.array(m), options, right)
        for right, (p, m) in enumerate((([0.5, 0.1], [True, False]), ([0.9], [True])))
    ]
    values = per_row(name, rows)
    assert values == pytest.approx([measure(name, [row]).value for row in rows])
    assert (measure(name, rows).value == pytest.approx(values.mean())) == METRICS[name].mean_of_rows
    assert measure(name, rows).rows == 2


def test_a_row_and_a_function_are_all_that_a_metric_costs(
    task: Any, sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(probe: Probe) -> Any:
        return np.array([len(row.answer.split()) for row in probe.rows])

    monkeypatch.setitem(METRICS, "words", Metric("higher", "words of the true answer", "passes"))
    monkeypatch.setattr(suite_metrics, "words", words, raising=False)
    text = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\nevaluate: {final: [words]}\n"
    spec = parse_spec(text)
    got = evaluate_model(task.base, task.tokenizer, sets, metrics=spec.evaluate.final)
    assert got.measured["forget.words"].value == np.mean([len(row.answer.split()) for row in sets["forget"]])
    assert got.measured["retain.words"].rows == len(sets["retain"])
    assert not got.skipped


def test_a_metric_of_some_sets_is_given_the_others(task: Any, sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    def apart(forget: Probe, probes: Any) -> Any:
        return Measured(forget.answer_logp.mean() - probes.of("retain").answer_logp.mean(), 0.0, 1, 1)

    row = Metric("lower", "gap", "passes", mean_of_rows=False, only=("forget",), bounded=False)
    monkeypatch.setitem(METRICS, "apart", row)
    monkeypatch.setattr(suite_metrics, "apart", apart, raising=False)
    got = evaluate_model(task.base, task.tokenizer, sets, metrics=["apart"])
    means = {key: Probe(task.base, task.tokenizer, sets[key]).answer_logp.mean() for key in ("forget", "retain")}
    assert list(got.measured) == ["forget.apart"]
    assert got.measured["forget.apart"].value == pytest.approx(means["forget"] - means["retain"])
