"""Sweeps in packs: the rows of trials alone, thin clients, and device actors that live as long as the driver needs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from devices import HANGS, devices_of, gone
from driver import TRIALS, born, children_of, ended, key, rows, start, sweep
from test_faults import wait

from rayul.sweep.packs.packing import unpackable


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """Holds up whoever measures."""
    file = tmp_path / "hang"
    (tmp_path / "hangs.py").write_text(HANGS.format(file=str(file)))
    return file


def is_client(line: str) -> bool:
    """A process by its title: that of its class, or the one that Tune makes of it for its resources."""
    return line.startswith(("ray::PackedTrial", "ray::ResourceTrainable"))


def measuring(pid: int) -> list[int]:
    return [child for child, line in children_of(pid).items() if line.startswith("ray::DeviceActor.measure")]


@pytest.mark.slow
def test_packs_give_the_rows_of_trials_that_run_alone(make_spec_file: Callable[..., Path], tmp_path: Path) -> None:
    packed = sweep(make_spec_file(), tmp_path / "packed")
    assert packed.returncode == 0, packed.stderr
    assert "packs of 4" in packed.stderr
    alone = sweep(make_spec_file(packs=False), tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    mine, theirs = ({key(r): r for r in rows(tmp_path / name / "tiny")} for name in ("packed", "alone"))
    assert mine.keys() == theirs.keys()
    assert len({key(r)[0] for r in mine.values()} - {"baseline", "oracle"}) == TRIALS
    assert ended(tmp_path / "packed" / "tiny") == ended(tmp_path / "alone" / "tiny")
    for k, row in mine.items():
        assert (row["params"], row["seed"]) == (theirs[k]["params"], theirs[k]["seed"])
        assert row["metrics"] == pytest.approx(theirs[k]["metrics"], rel=1e-3), k
        if k[0] in ("baseline", "oracle"):
            assert row["metrics"] == theirs[k]["metrics"], "measured by a device, to the last bit"
        else:
            assert row["numerics"].startswith("4 slots")
            assert theirs[k]["numerics"].startswith("alone")
    assert not (tmp_path / "packed" / "tiny" / "checkpoints").exists()


@pytest.mark.slow
def test_trials_are_thin_clients(make_spec_file: Callable[..., Path], tmp_path: Path) -> None:
    """No process but the driver and its devices ever has torch in its memory, and no place has a second device:
    the one that measured the references trains the trials and verifies their adapters."""
    driver = start(make_spec_file(), tmp_path / "results")
    titles: dict[int, set[str]] = {}
    with_torch: set[int] = set()
    while driver.poll() is None:
        for pid, line in children_of(driver.pid).items():
            with suppress(OSError):
                titles.setdefault(pid, set()).add(line.partition(" ")[0])
                if "libtorch" in Path(f"/proc/{pid}/maps").read_text():
                    with_torch.add(pid)
        time.sleep(0.5)
    _, err = driver.communicate(timeout=250)
    assert driver.returncode == 0, err
    devices = {pid for pid, lines in titles.items() if any(line.startswith("ray::Device") for line in lines)}
    assert 1 <= len(devices) <= (os.cpu_count() or 1), titles
    assert with_torch == devices, titles
    assert any(is_client(line) for lines in titles.values() for line in lines)
    notes = list((tmp_path / "results" / "tiny" / "adapters").glob("*/rayul.json"))
    assert notes
    assert all(json.loads(note.read_text())["verified"] for note in notes)


@pytest.mark.slow
def test_a_device_that_is_killed_while_it_measures_a_reference_is_replaced(
    make_spec_file: Callable[..., Path], hanging: Path, tmp_path: Path
) -> None:
    hanging.touch()
    driver = start(make_spec_file(metrics=("prob", f"{tmp_path}/hangs.py:mine")), tmp_path / "results")
    wait(lambda: bool(measuring(driver.pid)), driver)
    for victim in measuring(driver.pid):
        os.kill(victim, signal.SIGKILL)
    hanging.unlink()
    _, err = driver.communicate(timeout=250)
    assert driver.returncode == 0, err
    folder = tmp_path / "results" / "tiny"
    assert set(ended(folder).values()) == {"completed"}
    assert [row["trial_id"] for row in rows(folder)[:2]] == ["baseline", "oracle"]


@pytest.mark.slow
def test_no_device_outlives_a_driver_that_is_killed_while_it_measures(
    make_spec_file: Callable[..., Path], hanging: Path, tmp_path: Path, families: dict[int, str]
) -> None:
    hanging.touch()
    driver = start(make_spec_file(metrics=("prob", f"{tmp_path}/hangs.py:mine")), tmp_path / "results")
    wait(lambda: bool(measuring(driver.pid)), driver)
    devices = {pid: born(pid) for pid in devices_of(driver.pid)}
    families |= {pid: born(pid) for pid in children_of(driver.pid)}
    driver.kill()
    driver.wait(timeout=60)
    gone(devices)
    assert not (tmp_path / "results" / "tiny" / "spec.yaml").exists()


@pytest.mark.slow
def test_a_model_that_cannot_carry_the_adapters_is_refused_and_leaves_nothing(
    make_spec_file: Callable[..., Path], tmp_path: Path
) -> None:
    done = sweep(make_spec_file(), tmp_path / "results", "--set", "lora.target_modules=[no_such_layer]")
    assert done.returncode == 2, done.stderr
    assert "lora.target_modules: ['no_such_layer']" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results" / "tiny").exists()


@pytest.mark.slow
def test_a_killed_device_costs_its_trials_what_came_after_their_checkpoints(
    make_spec_file: Callable[..., Path], tmp_path: Path
) -> None:
    undisturbed = sweep(make_spec_file(), tmp_path / "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    driver = start(make_spec_file(checkpoint_every="0.1s"), tmp_path / "results")
    folder = tmp_path / "results" / "tiny"
    wait(lambda: len(rows(folder)) >= 30, driver)
    victims = devices_of(driver.pid)
    assert victims
    checkpoints = list((folder / "checkpoints").iterdir())
    assert checkpoints
    os.kill(victims[0], signal.SIGKILL)
    _, err = driver.communicate(timeout=250)
    assert driver.returncode == 0, err
    assert set(ended(folder).values()) == {"completed"}
    assert set(ended(folder)) == {f"{n:04d}" for n in range(TRIALS)}
    keys = [key(row) for row in rows(folder)]
    assert len(set(keys)) == len(keys)
    expected = {key(row): row for row in rows(tmp_path / "undisturbed" / "tiny")}
    assert set(keys) == set(expected)
    for row in rows(folder):
        # One that went on from a checkpoint is the one that was never interrupted, to the last bit.
        assert row["metrics"] == expected[key(row)]["metrics"], key(row)


@pytest.mark.slow
def test_a_killed_client_frees_its_slot(make_spec_file: Callable[..., Path], tmp_path: Path) -> None:
    driver = start(make_spec_file(), tmp_path / "results")
    folder = tmp_path / "results" / "tiny"
    wait(lambda: len(rows(folder)) >= 20, driver)
    clients = [pid for pid, line in children_of(driver.pid).items() if is_client(line)]
    assert clients
    os.kill(clients[0], signal.SIGKILL)
    _, err = driver.communicate(timeout=250)
    assert driver.returncode == 0, err
    assert set(ended(folder).values()) == {"completed"}
    keys = [key(row) for row in rows(folder)]
    assert len(set(keys)) == len(keys)


@pytest.mark.slow
def test_auto_is_recorded_and_says_why(make_spec_file: Callable[..., Path], tmp_path: Path) -> None:
    done = sweep(make_spec_file(trials_per_gpu="auto", compile="auto"), tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert "per device, unmeasured: training is too short" in done.stderr
    recorded = json.loads((tmp_path / "results" / "tiny" / "run.json").read_text())["pack"]
    written = recorded["shape"] or {"slots": 1}
    slots = {row["numerics"].split(",")[0] for row in rows(tmp_path / "results" / "tiny") if row["step"]}
    assert slots == {f"{written['slots']} slots of {written.get('rows')} rows" if written["slots"] > 1 else "alone"}


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"method": {"name": "gd", "gradient": "gru"}}, None),
        ({"method": {"name": "gd", "gradient": {"choice": ["plain", "gru"]}}}, None),
        ({"resources": {"gpu": 2}}, "several GPUs"),
        ({"resources": {"packs": False}}, "resources.packs"),
        ({}, None),
    ],
)
def test_what_cannot_be_packed_says_so(
    sections: dict[str, Any], reason: str | None, make_spec: Callable[..., Any]
) -> None:
    found = unpackable(make_spec(**sections))
    assert found is None if reason is None else reason in str(found)
