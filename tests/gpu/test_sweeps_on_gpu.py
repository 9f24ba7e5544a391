"""Sweeps on a card: devices measure the references and verify the adapters, and kills lose and repeat nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from devices import devices_of
from driver import LONG, children_of, ended, key, rows, start, sweep, write_spec
from packed import baseline_of
from test_faults import finished_is_kept, kill, wait

from rayul.spec import load_spec
from rayul.unlearn.data import load_sets
from rayul.unlearn.task import load_task

pytestmark = pytest.mark.gpu

__all__ = ["kill"]  # a fixture


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data_folder: Path) -> Path:
    sections: dict[str, Any] = {
        "training": LONG | {"steps": 24},
        "search": {"sampler": "random", "trials": 8, "seed": 0},
        "pruning": {"criteria": False, "dominance": False},
        "resources": {"trials_per_gpu": 4, "checkpoint_every": "0.1s"},
        "oracle": str(tiny_folder),
    }
    return write_spec(tmp_path_factory.mktemp("spec") / "tiny.yaml", tiny_folder, data_folder, **sections)


@pytest.fixture(scope="module")
def undisturbed(spec_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = sweep(spec_file, folder)
    assert done.returncode == 0, done.stderr
    assert "packs of 4" in done.stderr
    return folder / "tiny"


def test_devices_measure_references_and_verify_adapters(undisturbed: Path, spec_file: Path) -> None:
    spec = load_spec(spec_file)
    task = load_task(spec, load_sets(spec.data))
    expected = baseline_of(task, spec)
    references = rows(undisturbed)[:2]
    assert [row["trial_id"] for row in references] == ["baseline", "oracle"]
    for row in references:  # the same model
        shared = row["metrics"].keys() & expected.keys()
        assert {"forget.prob", "retain.prob"} <= shared
        assert {n: row["metrics"][n] for n in shared} == pytest.approx({n: expected[n] for n in shared}, rel=1e-4)
    trained = [row for row in rows(undisturbed) if row["step"]]
    assert {row["device"] for row in trained} == {device_name()}
    assert all(row["numerics"].startswith("4 slots") for row in trained)
    notes = list((undisturbed / "adapters").glob("*/rayul.json"))
    assert notes
    assert all(json.loads(note.read_text())["verified"] for note in notes)


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def test_kill_9_of_device_and_driver_loses_and_repeats_nothing(
    undisturbed: Path, spec_file: Path, kill: Callable[..., None], tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    driver = start(spec_file, tmp_path)
    wait(lambda: len(rows(folder)) >= 8, driver)
    victims = devices_of(driver.pid)
    assert victims, children_of(driver.pid)
    os.kill(victims[0], signal.SIGKILL)
    enough = len(rows(folder)) + 8
    wait(lambda: len(rows(folder)) >= enough, driver)
    kill(driver)
    before = (folder / "evaluations.jsonl").read_bytes().split(b"\n")[:-1]
    final = sweep(spec_file, tmp_path, "--resume")
    assert final.returncode == 0, final.stderr
    finished_is_kept(before, folder)
    assert ended(folder) == ended(undisturbed)
    expected = {key(row): row for row in rows(undisturbed)}
    found = {key(row): row for row in rows(folder)}
    assert found.keys() == expected.keys()
    for k, row in found.items():
        assert row["params"] == expected[k]["params"]
        assert row["metrics"] == pytest.approx(expected[k]["metrics"], rel=1e-3), k
