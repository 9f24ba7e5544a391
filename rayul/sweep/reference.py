"""What is measured outside of trials: baseline and oracle before them, the saved points after them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.exceptions import RayTaskError

from rayul.errors import RayulError
from rayul.files import write_json
from rayul.records import ORACLE, Evaluation, adapter_folder, from_json, to_json
from rayul.spec import Spec
from rayul.sweep.driver_disk import DriverDisk
from rayul.unlearn.cost import Cost, measure_cost
from rayul.unlearn.data import Sets
from rayul.unlearn.export import TOLERANCE, largest_difference
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.trial import final_measurement, reference_evaluation
from rayul.unlearn.update.saved import loaded

if TYPE_CHECKING:  # a device imports this module, and no Tune
    from rayul.sweep.cluster import Allocation

Ask = Callable[[str, Any], Any]
"""ask("measure", name) and ask("verify", points): a reference to what `reference_row` and `verified` return."""


def measure_references(names: Sequence[str], ask: Ask) -> dict[str, Evaluation]:
    """Rows of the baseline, of the oracle, by name; measured where the trials will run."""
    return dict(zip(names, map(from_json, result([ask("measure", name) for name in names])), strict=True))


def verify_adapters(points: Sequence[Evaluation], ask: Ask) -> list[str]:
    """Reload each point of the front from its folder, score it again, and note what the report sets say beside it.

    Writes rayul.json into each folder. Returns a line for each point whose scores differ from its record.
    """
    lines: list[str] = result(ask("verify", [to_json(p) for p in points])) if points else []
    return lines


def ask_a_process(spec: Spec, sets: Sets, allocation: Allocation, disk: DriverDisk) -> Ask:
    """Each question has a process of its own, which loads the model and takes a trial's share of the device."""
    task = ray.remote(**_options(allocation))(_alone)
    shipped = ray.put(sets)
    return lambda method, argument: task.remote(spec, shipped, allocation.threads, disk, method, argument)


def measure_trial_cost(spec: Spec, sets: Sets, allocation: Allocation, disk: DriverDisk) -> Cost:
    """What a trial of a spec without a search costs where trials will run."""
    cost: Cost = result(ray.remote(**_options(allocation))(_cost).remote(spec, sets, allocation.threads, disk))
    return cost


def _cost(spec: Spec, sets: Sets, threads: int, disk: DriverDisk) -> Cost:
    torch.set_num_threads(threads)
    return measure_cost(disk.with_models(spec), sets)


def result(pending: Any) -> Any:
    """`ray.get`, with an error for the user as it was raised, not inside the traceback of a worker."""
    try:
        return ray.get(pending)
    except RayTaskError as error:
        if isinstance(error.cause, RayulError):
            raise error.cause from None
        raise


def reference_row(spec: Spec, sets: Sets, disk: DriverDisk, name: str, task: Task | None = None) -> str:
    """The row of the baseline or the oracle, as JSON. task: that of the spec, where this process has it."""
    if name == ORACLE:
        spec, task = spec.model_copy(update={"model": spec.oracle}), None
    spec = disk.with_models(spec)
    return to_json(reference_evaluation(task or load_task(spec, sets), spec, name))


def verified(spec: Spec, sets: Sets, disk: DriverDisk, points: list[str], task: Task | None = None) -> list[str]:
    """`verify_adapters` in the process that does it. points: as JSON. task: as for `reference_row`."""
    spec, folder = disk.with_models(spec), disk.adapters()
    task = task or load_task(spec, sets)
    problems = []
    for point in map(from_json, points):
        place = adapter_folder(folder, point)
        if not disk.get(place):
            problems.append(f"{place.name}: it is missing (its node was lost before it was saved)")
            continue
        with loaded(task.base, place) as model:
            found = final_measurement(model, task, spec)
        worst = largest_difference(found, point.metrics)
        if worst > TOLERANCE:
            problems.append(f"{place.name}: reloaded, a metric differs by {worst:.2g} from its record")
        report = {k: m for k, m in found.items() if k not in point.metrics}
        note = {
            "evaluation": json.loads(to_json(point)),
            "report_metrics": {k: m.value for k, m in report.items()},
            "report_stderr": {k: m.stderr for k, m in report.items()},
            "verified": worst <= TOLERANCE,
            "largest_difference": worst,
        }
        write_json(place / "rayul.json", note)
        disk.send(place)
    return problems


def _alone(spec: Spec, sets: Sets, threads: int, disk: DriverDisk, method: str, argument: Any) -> Any:
    torch.set_num_threads(threads)
    answers: dict[str, Callable[..., Any]] = {"measure": reference_row, "verify": verified}
    return answers[method](spec, sets, disk, argument)


def _options(allocation: Allocation) -> dict[str, Any]:
    return {"num_cpus": allocation.cpu, "num_gpus": allocation.gpu, "max_retries": 2}
