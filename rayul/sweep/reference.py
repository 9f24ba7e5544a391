"""What is measured outside of trials: baseline and oracle before them, the exported adapters after them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from rayul.errors import RayulError
from rayul.records import BASELINE, ORACLE, Evaluation, adapter_folder, from_json, to_json
from rayul.spec import Spec
from rayul.sweep.cluster import Share
from rayul.sweep.driver_disk import DriverDisk
from rayul.unlearn.cost import Cost
from rayul.unlearn.data import Sets
from rayul.unlearn.export import TOLERANCE, largest_difference


def measure_references(spec: Spec, sets: Sets, share: Share, disk: DriverDisk) -> list[Evaluation]:
    """Rows of the baseline and, where the spec has one, of the oracle; measured where the trials will run."""
    task = ray.remote(**_options(share))(_measure)
    wanted = [(BASELINE, spec)]
    if spec.oracle is not None:
        wanted.append((ORACLE, spec.model_copy(update={"model": spec.oracle})))
    shipped = ray.put(sets)
    lines = result([task.remote(which, shipped, name, share.threads, disk) for name, which in wanted])
    return [from_json(line) for line in lines]


def verify_adapters(spec: Spec, sets: Sets, share: Share, disk: DriverDisk, points: Sequence[Evaluation]) -> list[str]:
    """Reload each exported adapter with PEFT, score it again, and note what the report sets say beside it.

    Writes rayul.json into each adapter's folder. Returns a line for each adapter whose scores differ from its record.
    """
    if not points:
        return []
    task = ray.remote(**_options(share))(_verify)
    lines: list[str] = result(task.remote(spec, sets, disk, [to_json(p) for p in points], share.threads))
    return lines


def measure_trial_cost(spec: Spec, sets: Sets, share: Share, disk: DriverDisk) -> Cost:
    """What a trial of a spec without a search costs where trials will run."""
    cost: Cost = result(ray.remote(**_options(share))(_cost).remote(spec, sets, share.threads, disk))
    return cost


def _cost(spec: Spec, sets: Sets, threads: int, disk: DriverDisk) -> Cost:
    import torch

    from rayul.unlearn.cost import measure_cost

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


def _measure(spec: Spec, sets: Sets, name: str, threads: int, disk: DriverDisk) -> str:
    import torch

    from rayul.unlearn.task import load_task
    from rayul.unlearn.trial import reference_evaluation

    torch.set_num_threads(threads)
    spec = disk.with_models(spec)
    return to_json(reference_evaluation(load_task(spec, sets), spec, name))


def _verify(spec: Spec, sets: Sets, disk: DriverDisk, points: list[str], threads: int) -> list[str]:
    import torch

    from rayul.unlearn.adapters import load_adapter
    from rayul.unlearn.model import detach_lora
    from rayul.unlearn.task import load_task
    from rayul.unlearn.trial import final_measurement

    torch.set_num_threads(threads)
    spec, folder = disk.with_models(spec), disk.adapters()
    task = load_task(spec, sets)
    problems = []
    for point in map(from_json, points):
        place = adapter_folder(folder, point)
        if not disk.get(place):
            problems.append(f"{place.name}: the adapter is missing (its node was lost before it was saved)")
            continue
        model = load_adapter(task.base, place)
        measured = final_measurement(model, task, spec)
        detach_lora(model)
        worst = largest_difference(measured, point.metrics)
        if worst > TOLERANCE:
            problems.append(f"{place.name}: reloaded, a metric differs by {worst:.2g} from its record")
        report = {k: m for k, m in measured.items() if k not in point.metrics}
        note = {
            "evaluation": json.loads(to_json(point)),
            "report_metrics": {k: m.value for k, m in report.items()},
            "report_stderr": {k: m.stderr for k, m in report.items()},
            "verified": worst <= TOLERANCE,
            "largest_difference": worst if math.isfinite(worst) else str(worst),
        }
        # Beside and renamed: a reader, or a driver killed here, must not meet half a note.
        temporary = place / "rayul.json.tmp"
        temporary.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        temporary.replace(place / "rayul.json")
        disk.send(place)
    return problems


def _options(share: Share) -> dict[str, Any]:
    return {"num_cpus": share.cpu, "num_gpus": share.gpu, "max_retries": 2}
