"""What the tests of the sweep share: rows as a trial would report them, and a study in a folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from study import Sweep

from rayul.records import BASELINE, Evaluation, Journal
from rayul.spec import violations

BASE = {"forget.es": 0.8, "retain.es": 0.5}


@pytest.fixture
def baseline() -> Evaluation:
    return Evaluation(BASELINE, 0, mixing=0.0, metrics=BASE)


@pytest.fixture
def row(make_spec: Callable[..., Any]) -> Callable[..., Evaluation]:
    """row(spec, trial, step, forget, retain, ...) -> an evaluation judged by the criteria of the spec."""

    def make(spec: Any, trial: int, step: int, forget: float, retain: float, **fields: Any) -> Evaluation:
        metrics = {"forget.es": forget, "retain.es": retain}
        params = fields.pop("params", {})
        violation = violations(spec.at(params).criteria, metrics, BASE)
        return Evaluation(
            f"{trial:04d}",
            step,
            params=params,
            metrics=metrics,
            violation=violation,
            feasible=all(v <= 0 for v in violation.values()),
            **fields,
        )

    return make


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "evaluations.jsonl")


@pytest.fixture
def begin(tmp_path: Path, row: Callable[..., Evaluation], baseline: Evaluation) -> Callable[..., Sweep]:
    """begin(spec, limit=..., earlier=...) -> a sweep in a folder of its own."""
    counter = itertools.count()

    def make(spec: Any, limit: int = 100, earlier: Sequence[Any] = ()) -> Sweep:
        folder = tmp_path / str(next(counter))
        folder.mkdir()
        return Sweep(folder, spec, row, baseline, limit, earlier)

    return make
