"""What every process that trains does with the driver's disk: load the task here, keep a trial's adapters there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from rayul.errors import ResultsUnwritable
from rayul.pareto.front import front
from rayul.records import Evaluation, adapter_folder
from rayul.spec import Spec
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.losses import root_cause
from rayul.unlearn.data import Sets
from rayul.unlearn.task import Task, load_task


def load_here(spec: Spec, sets: Sets, disk: DriverDisk) -> Task:
    """The task, its model from where this node has it. Adapters name their base as the driver does."""
    here = disk.with_models(spec)
    task = load_task(here, sets)
    if here != spec:
        task.base.name_or_path = spec.model.path
    return task


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """What keeps the results from being written becomes ResultsUnwritable: it stops the sweep, and no trial failed."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        why = root_cause(error)
        raise ResultsUnwritable.at(place, getattr(why, "strerror", None) or why) from error


class KeptAdapters:
    """Adapters of one trial's own front: in the results while it runs, before their rows are. The driver keeps those of
    the sweep's front. folder: of `disk.adapters`."""

    def __init__(self, spec: Spec, disk: DriverDisk, folder: Path, baseline: Evaluation) -> None:
        self.spec, self.disk, self.folder, self.baseline = spec, disk, folder, baseline
        self.kept: list[Evaluation] = []

    def add(self, rows: Sequence[Evaluation], save: Callable[[Evaluation, Path], None]) -> None:
        """Save the adapters of rows that are on the front now, and drop those that no longer are. Raises
        ResultsUnwritable."""
        before = {e.key for e in self.kept}
        self.kept = front([*self.kept, *rows], self.baseline, self.spec.objectives)
        for e in self.kept:
            if e.key not in before:
                place = adapter_folder(self.folder, e)
                with writing(place):
                    save(e, place)
                    self.disk.send(place)
        for key in before - {e.key for e in self.kept}:
            self.disk.drop(adapter_folder(self.folder, Evaluation(*key)))
