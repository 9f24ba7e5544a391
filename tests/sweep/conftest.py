"""What the tests of the sweep share: rows as a trial would report them, and a study in a folder."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from driver import LONG, TRIALS, born, write_spec
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


@pytest.fixture
def make_spec_file(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> Callable[..., Path]:
    def make(metrics: tuple[str, ...] = ("es", "prob"), **resources: Any) -> Path:
        sections: dict[str, Any] = {"training": LONG, "search": {"sampler": "random", "trials": TRIALS, "seed": 0}}
        sections["pruning"] = {"criteria": False, "dominance": False}
        sections["resources"] = {"trials_per_gpu": 4} | resources
        sections["evaluate"] = {"metrics": list(metrics)}
        sections["oracle"] = str(tiny_folder)
        return write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, **sections)

    return make


@pytest.fixture
def families() -> Iterator[dict[int, str]]:
    """When each process was born that a test saw; those that outlive it are ended by pid."""
    seen: dict[int, str] = {}
    yield seen
    for pid, birth in seen.items():
        if birth and born(pid) == birth:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def make_device(make_spec: Callable[..., Any], sets: Any, tmp_path: Path) -> Callable[..., Any]:
    """make_device(shape=..., checkpoint_every=..., section={...}) -> a device in this process."""
    from devices import arguments_of

    from rayul.sweep.packs.device import Device

    def make(**more: Any) -> Any:
        return Device(**arguments_of(make_spec, sets, tmp_path, **more), threads=1)

    return make
