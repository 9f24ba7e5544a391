"""An adapter on the disk that cannot be loaded any more: set aside with a line, and in nobody's way."""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from devices import join, reported
from rich.console import Console

from rayul.errors import InputError, ResultsUnwritable
from rayul.progress import ProgressBar
from rayul.records import ADAPTERS, BASELINE, CHECKPOINTS, Evaluation, adapter_folder
from rayul.sweep.driver_disk import DAMAGED, DriverDisk
from rayul.sweep.point_note import complaint, noted_difference
from rayul.sweep.reference import reference_row, verified
from rayul.sweep.run import _verified
from rayul.unlearn.export import TOLERANCE

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def cut(adapter: Path) -> None:
    content = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(content[: len(content) // 2])


def zero(adapter: Path) -> None:
    (adapter / WEIGHTS).write_bytes(bytes((adapter / WEIGHTS).stat().st_size))


def empty(adapter: Path) -> None:
    (adapter / WEIGHTS).write_bytes(b"")


def no_weights(adapter: Path) -> None:
    (adapter / WEIGHTS).unlink()


def break_config(adapter: Path) -> None:
    (adapter / CONFIG).write_text('{"r": ')


def other_rank(adapter: Path) -> None:
    """PEFT has put its layers on the base by the time it sees that the weights do not fit."""
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps(config | {"r": 3}))


@pytest.fixture
def points(make_device: Callable[..., Any], tmp_path: Path) -> tuple[Any, list[Evaluation]]:
    """A device, and the points of a trial's front with their adapters in the results."""
    device = make_device(objectives={"forget.prob": "minimize", "retain.prob": "maximize"})
    join(device, 0)
    found = [row for row in reported(device, 0) if adapter_folder(tmp_path, row).exists()]
    assert len(found) > 1
    device.leave(0)
    return device, found


@pytest.mark.parametrize("damage", [cut, zero, empty, no_weights, break_config, other_rank])
def test_it_is_set_aside_and_the_others_are_verified(
    damage: Callable[[Path], None], points: tuple[Any, list[Evaluation]], tmp_path: Path
) -> None:
    device, rows = points
    broken = adapter_folder(tmp_path, rows[0])
    damage(broken)
    before = {path.name: path.read_bytes() for path in broken.iterdir()}
    (line,) = device.verify(rows)
    aside = tmp_path / ADAPTERS / DAMAGED / broken.name
    assert str(broken) in line
    assert f"it was moved to {aside}" in line
    assert "\n" not in line
    assert not broken.exists()
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    for row in rows[1:]:
        note = json.loads((adapter_folder(tmp_path, row) / "rayul.json").read_text())
        assert note["verified"]
    assert device.measure(BASELINE).metrics == reference_row(device.spec, device.sets, device.disk, BASELINE).metrics
    (again,) = device.verify(rows)
    assert "it is missing" in again, "what is aside is not looked at again"


def test_what_an_earlier_run_measured_is_known_by_its_note_and_its_weights(
    points: tuple[Any, list[Evaluation]], tmp_path: Path
) -> None:
    device, rows = points
    places = [adapter_folder(tmp_path, row) for row in rows]
    assert [noted_difference(place, row, 0) for place, row in zip(places, rows, strict=True)] == [None] * len(rows)
    assert device.verify(rows) == []
    noted = [noted_difference(place, row, 0) for place, row in zip(places, rows, strict=True)]
    assert all(difference is not None and difference <= TOLERANCE for difference in noted)
    assert noted_difference(places[0], rows[0], 5) is None, "samples are asked for that it has not"
    assert noted_difference(places[0], replace(rows[0], metrics={"forget.es": 0.5}), 0) is None, "another record"
    shutil.copyfile(places[1] / WEIGHTS, places[0] / WEIGHTS)
    assert noted_difference(places[0], rows[0], 0) is None, "other weights"
    (line,) = device.verify(rows[:1])
    assert line.startswith(f"{places[0].name}: reloaded, a metric differs by ")
    assert complaint(places[0], noted_difference(places[0], rows[0], 0) or 0.0) == line, "it is said again"


def test_a_sweep_that_goes_on_measures_only_what_no_run_has_measured(
    points: tuple[Any, list[Evaluation]], tmp_path: Path
) -> None:
    device, rows = points
    assert device.verify(rows[1:]) == []
    asked: list[Evaluation] = []

    class Measurer:
        def verify(self, points: list[Evaluation]) -> Iterator[str]:
            asked.extend(points)
            return iter(["it is gone"] * len(points))

    with ProgressBar(Console(file=io.StringIO())) as bar:
        problems = list(_verified(device.spec, tmp_path, Measurer(), rows, bar))  # type: ignore[arg-type]
    assert asked == rows[:1]
    assert problems == ["it is gone"]


def test_a_whole_model_that_is_cut_off_is_set_aside(
    make_spec: Callable[..., Any], sets: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    spec = make_spec(update="full")
    disk = DriverDisk(tmp_path, tmp_path / ".mark", "", {})
    point = Evaluation("0000", 2, metrics={"forget.es": 0.5})
    place = adapter_folder(tmp_path, point)
    shutil.copytree(tiny_folder, place)
    weights = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(weights[:100])
    (line,) = verified(spec, sets, disk, [point])
    assert f"it was moved to {tmp_path / ADAPTERS / DAMAGED / place.name}" in line
    assert not place.exists()


@pytest.mark.parametrize("name", [ADAPTERS, CHECKPOINTS])
def test_a_place_that_cannot_be_written_is_no_failure_of_the_trial(
    name: str, make_device: Callable[..., Any], tmp_path: Path
) -> None:
    """A file stands where the folder should be; what the trial then says stops the sweep."""
    device = make_device(objectives={"forget.prob": "minimize", "retain.prob": "maximize"}, checkpoint_every=0.0)
    (tmp_path / name).touch()
    join(device, 0)
    with pytest.raises(ResultsUnwritable, match=f"cannot write {tmp_path / name}/") as caught:
        reported(device, 0)
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("full"), OSError(errno.EIO, "Input/output error")])
def test_memory_or_a_disk_that_fails_while_it_is_loaded_damages_no_adapter(
    error: Exception, points: tuple[Any, list[Evaluation]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, rows = points
    before = {row.key: sorted(adapter_folder(tmp_path, row).iterdir()) for row in rows}

    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(peft.PeftModel, "from_pretrained", fails)
    with pytest.raises(type(error) if isinstance(error, RuntimeError) else InputError, match=str(error.args[-1])):
        device.verify(rows)
    assert {row.key: sorted(adapter_folder(tmp_path, row).iterdir()) for row in rows} == before
