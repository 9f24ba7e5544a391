"""What is measured outside of trials: baseline and oracle before them, the saved points after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import ray
import torch
from ray.exceptions import RayTaskError

from rayul.errors import RayulError
from rayul.records import BASELINE, ORACLE, Evaluation, adapter_folder
from rayul.records.certificate import Reading
from rayul.records.recall import Found
from rayul.spec import Spec
from rayul.sweep.dials import walk_dials
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.losses import as_they_come, fetch, of_own_code
from rayul.sweep.point_note import complaint, write_note
from rayul.unlearn.cost import Cost, measuring
from rayul.unlearn.data import Sets
from rayul.unlearn.recall import Recaller
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.trial import final_measurement, reference_evaluation
from rayul.unlearn.update.lora import check_targets
from rayul.unlearn.update.received import Damaged
from rayul.unlearn.update.saved import loaded
from rayul.words import first_line

if TYPE_CHECKING:  # a device imports this module, and no Tune
    from rayul.sweep.cluster import Allocation


class Measurer(Protocol):
    """Measures models outside of trials, where the trials run. All methods wait for their answer, and raise the
    RayulError of whoever measures, such as of a model that cannot be loaded."""

    def measure(self, names: Sequence[str]) -> dict[str, Evaluation]:
        """The rows of the baseline and the oracle, as far as they are named, each measured on its own."""

    def verify(self, points: Sequence[Evaluation]) -> Iterator[str]:
        """Reload each point of the front from its folder, score it again, and note what the report sets say beside it.

        Writes rayul.json and recall.json into each folder, point by point. Yields a text for each as it is done: what
        is wrong with it, or "".
        """

    def walk(self, reading: Reading, points: Sequence[Evaluation], baseline: Mapping[str, float]) -> tuple[Found, ...]:
        """`dials.walk_dials`: the certify rows are read."""


class ProcessMeasurer:
    """A `Measurer`. Each question has a process of its own, which loads the model and takes a trial's share of the
    device."""

    def __init__(self, spec: Spec, sets: Sets, allocation: Allocation, disk: DriverDisk) -> None:
        self.spec, self.sets, self.allocation, self.disk = spec, ray.put(sets), allocation, disk

    def measure(self, names: Sequence[str]) -> dict[str, Evaluation]:
        return dict(zip(names, fetch([self._ask(reference_row, name) for name in names]), strict=True))

    def verify(self, points: Sequence[Evaluation]) -> Iterator[str]:
        processes = max(1, min(self.allocation.slots, len(points)))
        task = _share(self.allocation, _each, num_returns="streaming")
        fixed = (self.allocation.threads, verified, self.spec, self.sets, self.disk)
        yield from as_they_come([task.remote(*fixed, points[i::processes]) for i in range(processes)])

    def walk(self, reading: Reading, points: Sequence[Evaluation], baseline: Mapping[str, float]) -> tuple[Found, ...]:
        found: tuple[Found, ...] = fetch(self._ask(walk_dials, reading, points, baseline))
        return found

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return _process(self.allocation, function, self.spec, self.sets, self.disk, *arguments)


def measure_trial_cost(
    spec: Spec,
    sets: Sets,
    allocation: Allocation,
    disk: DriverDisk,
    say: Callable[[str], None] = lambda part: None,
) -> Cost:
    """What a trial of a spec without a search costs where trials will run. say: hears what is being done."""
    arguments = (allocation.threads, spec, sets, disk, allocation.pack > 1)
    for part in _share(allocation, _cost, num_returns="streaming").remote(*arguments):
        try:
            found = fetch(part)
        except RayTaskError as error:
            raise of_own_code(error, spec.method.code) or error from None
        if isinstance(found, Cost):
            return found
        say(found)
    raise RayulError("the process that measured a trial ended without an answer", "run the command again")


def _cost(threads: int, spec: Spec, sets: Sets, disk: DriverDisk, packed: bool) -> Iterator[str | Cost]:
    torch.set_num_threads(threads)
    yield (yield from measuring(disk.with_models(spec), sets, packed))


def _process(allocation: Allocation, function: Callable[..., Any], *arguments: Any) -> Any:
    """A reference to what the function returns in a process with a trial's share of the device."""
    return _share(allocation, _with_threads).remote(allocation.threads, function, *arguments)


def _share(allocation: Allocation, function: Callable[..., Any], **options: Any) -> Any:
    """The function as a task of Ray's with a trial's share of the device."""
    return ray.remote(num_cpus=allocation.cpu, num_gpus=allocation.gpu, max_retries=2, **options)(function)


def _with_threads(threads: int, function: Callable[..., Any], *arguments: Any) -> Any:
    torch.set_num_threads(threads)
    return function(*arguments)


def _each(threads: int, function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
    torch.set_num_threads(threads)
    yield from function(*arguments)


def reference_row(spec: Spec, sets: Sets, disk: DriverDisk, name: str, task: Task | None = None) -> Evaluation:
    """The row of the baseline or the oracle. task: that of the spec, where this process has it (and a pack on it).

    Raises InputError where the baseline cannot be adapted as the spec asks: before it is measured, and any trial."""
    if name == ORACLE:
        spec, task = spec.model_copy(update={"model": spec.oracle}), None
    spec = disk.with_models(spec)
    if task is None:
        task = load_task(spec, sets)
        if name == BASELINE and spec.update_kind.adapter:
            check_targets(task.base, spec.lora)
    return reference_evaluation(task, spec, name)


def verified(
    spec: Spec, sets: Sets, disk: DriverDisk, points: Sequence[Evaluation], recaller: Recaller | None = None
) -> Iterator[str]:
    """`Measurer.verify` in the process that does it. recaller: of the spec's task, where this process has one. An
    adapter that cannot be loaded is set aside."""
    spec, folder = disk.with_models(spec), disk.adapters()
    recaller = recaller or Recaller(load_task(spec, sets), spec)  # before an adapter is loaded: that changes the base
    for point in points:
        place = adapter_folder(folder, point)
        if not disk.get(place):
            yield f"{place.name}: it is missing (its node was lost before it was saved)"
            continue
        try:
            with loaded(recaller.task.base, place) as model:
                measurement = final_measurement(model, recaller.task, spec)
                recall = recaller.of(model, measurement)
        except Damaged as error:
            aside = disk.set_aside(place)
            yield f"{first_line(error)}; it was moved to {aside}, and its point has none now"
            continue
        worst = write_note(place, point, measurement, recall, spec)
        disk.send(place)
        yield complaint(place, worst)
