"""Dials walked on the certify rows, in a process that has the model: what a certificate is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rayul.errors import InputError, RayulError
from rayul.records import Evaluation, adapter_folder
from rayul.records.certificate import Dial, Reading
from rayul.records.recall import Found
from rayul.spec import Criterion, Spec, known_limits, violations
from rayul.sweep.dial_tests import DialTests, DialWalk
from rayul.sweep.driver_disk import DriverDisk
from rayul.unlearn.data import Sets
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.forward import Model, score
from rayul.unlearn.pack.base import PackedBase
from rayul.unlearn.pack.saved import stacked
from rayul.unlearn.pack.scorer import Scorer
from rayul.unlearn.recall import Recaller
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.trial import REPORTED, is_out_of_memory
from rayul.unlearn.update.saved import scalable


def walk_dials(
    spec: Spec,
    sets: Sets,
    disk: DriverDisk,
    reading: Reading,
    points: Sequence[Evaluation],
    baseline: Mapping[str, float],
    task: Task | None = None,
    recaller: Recaller | None = None,
    part: slice = slice(None),
) -> tuple[Found, ...]:
    """The dials of a reading, walked, and what each certified model measures and recalls.

    points: of all its dials, in their order. part: those that are walked here, at the level of the whole reading.
    baseline: metrics of the model before unlearning. task, recaller: those of the spec, where this process has them.
    Raises RayulError for an adapter that is missing, and InputError for a group whose metric is not a number.
    """
    spec, folder = disk.with_models(spec), disk.adapters()
    dials, points = reading.dials[part], points[part]
    places = [adapter_folder(folder, point) for point in points]
    for place in places:
        if not disk.get(place):
            raise RayulError(f"{place}: the adapter to certify is missing", "restore it, and run rayul certify again")
    task, batch = task or load_task(spec, sets), spec.evaluate.batch_size
    limits = [known_limits(_criteria(spec, point, dial)) for dial, point in zip(dials, points, strict=True)]
    tests = DialTests(task, spec, limits, reading.level, baseline)
    walks = [DialWalk(dial, one, tests) for dial, one in zip(dials, limits, strict=True)]
    if _share_forwards(spec) and not tests.generates:
        walk_together(task, walks, places, batch)
    recaller = recaller or Recaller(task, spec)  # before an adapter is loaded
    found = []
    for walk, point, place in zip(walks, points, places, strict=True):
        if walk.ended and not walk.passed:
            found.append(Found(walk.found()))
            continue
        with scalable(task.base, place) as at:
            while not walk.ended:
                (scale,) = walk.next(1)
                with at(scale) as model:
                    walk.add(score(model, tests.examples, task.pad, batch), tests.further(model))
            one = Found(walk.found())
            if walk.passed:
                with at(one.dial.scales[walk.passed - 1]) as model:
                    one = _certified(one.dial, point, task, spec, model, baseline, recaller)
        found.append(one)
    return tuple(found)


def walk_together(task: Task, walks: Sequence[DialWalk], places: Sequence[Path], size: int) -> None:
    """Walk the dials of saved adapters by forwards of a pack, of `size` lines. On a GPU the adapters share them; where
    their rows leave room, further coefficients of each fill it, and scores beyond the end of a walk are thrown away
    unread. On a CPU each adapter is merged into a copy of the weights: that takes five sixths of the time of the
    testbed's model, and as long at the width of SmolLM2-135M.

    Where packs cannot carry the adapters, or memory runs out, walks are left without their end.
    """
    examples = walks[0].tests.examples
    try:
        adapters = stacked(task.base, places)
        base = PackedBase(task.base, [one.name for one in adapters.layout.linears])
    except InputError:
        return
    # In a lower precision than the adapter's, small updates would vanish in the sum.
    merging = task.device.type == "cpu" and task.base.dtype == torch.float32
    scorer = Scorer(base, adapters.layout, examples, task.pad, size, merging)
    lanes = 1 if merging else size
    try:
        while going := [i for i, walk in enumerate(walks) if not walk.ended]:
            ahead = max(1, lanes // (len(going) * len(examples)))
            asked = [(i, a) for i in going for a in walks[i].next(ahead)]
            for begin in range(0, len(asked), lanes):
                part = asked[begin : begin + lanes]
                scored = scorer.score(adapters.rows[[i for i, _ in part]], [a for _, a in part])
                for (i, _), scores in zip(part, scored, strict=True):
                    if not walks[i].ended:
                        walks[i].add(scores)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    if task.device.type == "cuda":
        torch.cuda.empty_cache()


def _criteria(spec: Spec, point: Evaluation, dial: Dial) -> tuple[Criterion, ...]:
    own = spec.at(point.params)
    return own.criteria if dial.target is None else own.criteria_at(dial.target)


def _share_forwards(spec: Spec) -> bool:
    """Whether packs can carry the adapters of a spec, as far as it tells."""
    return spec.resources.packs and spec.resources.gpu <= 1 and spec.update_kind.adapter and not spec.model.quantize


def _certified(
    dial: Dial,
    point: Evaluation,
    task: Task,
    spec: Spec,
    model: Model,
    baseline: Mapping[str, float],
    recaller: Recaller,
) -> Found:
    """model: at the last coefficient that passed."""
    measurement = evaluate(model, task, spec.evaluate.reported, spec.evaluate.batch_size, REPORTED)
    measured = measurement.measured
    metrics = {key: m.value for key, m in measured.items()}
    violation = violations(_criteria(spec, point, dial), metrics, baseline)
    certified = replace(
        point,
        mixing=dial.mixing_at(dial.passed),
        metrics=metrics,
        stderr={key: m.stderr for key, m in measured.items()},
        rows={key.split(".")[0]: m.rows for key, m in measured.items()},
        groups={key.split(".")[0]: m.groups for key, m in measured.items()},
        group_sums={},
        group_rows={},
        violation=violation,
        feasible=all(v <= 0 for v in violation.values()),
        notes=(),
    )
    return Found(replace(dial, certified=certified), recaller.of(model, measurement))
