"""Devices of packs as tests call them, and their processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from driver import born, children_of

from rayul.records import BASELINE, COMPLETED, FAILED, Ending, Evaluation
from rayul.sweep.driver_disk import DriverDisk
from rayul.unlearn.pack import Shape

STEPS = {"lr": 1e-2, "steps": 6, "evaluate_every": 2, "batch_size": 4}
SHAPE = Shape(slots=2, rank=8, rows=4)


def arguments_of(
    make_spec: Callable[..., Any],
    sets: Any,
    folder: Path,
    *,
    shape: Shape = SHAPE,
    checkpoint_every: float = 60.0,
    **sections: Any,
) -> dict[str, Any]:
    """Of a `Device`, without its threads."""
    spec = make_spec(**{"training": STEPS, **sections})
    disk = DriverDisk(folder, folder / ".mark", "", {})
    return {"spec": spec, "sets": sets, "disk": disk, "shape": shape, "checkpoint_every": checkpoint_every}


def join(device: Any, number: int, params: dict[str, Any] | None = None) -> None:
    device.join(number, params or {}, device.measure(BASELINE))


def reported(device: Any, number: int, count: int | None = None) -> list[Evaluation]:
    """Rows of the trial's next results, without a count to its end, which has to be that it completed."""
    rows: list[Evaluation] = []
    while count is None or count > 0:
        result = device.next(number)
        rows += result.evaluations
        if result.ended:
            assert result.ending == rows[-1].ended(COMPLETED)
            break
        count = None if count is None else count - 1
    return rows


def failed(device: Any, number: int) -> Ending:
    """How a trial ended, which has to be that it failed."""
    while not (result := device.next(number)).ended:
        assert result.evaluations
    assert result.ending.state == FAILED
    assert not result.evaluations
    found: Ending = result.ending
    return found


def of(rows: list[Evaluation]) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, row.metrics) for row in rows]


def devices_of(pid: int) -> list[int]:
    return [child for child, line in children_of(pid).items() if line.startswith("ray::Device")]


def gone(processes: dict[int, str]) -> None:
    """Wait for the end of processes, each with when it was born."""
    deadline = time.monotonic() + 60
    while any(born(pid) == birth for pid, birth in processes.items()):
        assert time.monotonic() < deadline, "a device actor is still there"
        time.sleep(0.2)


HANGS = """
import time
from pathlib import Path

def mine(scores):
    while Path({file!r}).exists():
        time.sleep(0.05)
    return float(scores.match.mean())

mine.better = "higher"
"""
"""A custom metric that takes as long as a file is there."""
