"""Which rows each step takes: their order, `training.layered` and `training.augment`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import torch

from rayul.spec import GRADIENTS, Spec
from rayul.unlearn.data import group_numbers
from rayul.unlearn.task import Task
from rayul.unlearn.tokens import batches

Order = Iterator[tuple[list[int], list[int]]]
"""Of each step the forget and the retain rows, as indices into `Task.training`."""


def row_order(task: Task, spec: Spec, seed: int) -> Order:
    """Fixed by the seed; no retain rows for a method that reads none."""
    folds = spec.training.layered
    order = _shuffled(task, spec, seed) if folds is None else _layered(task, spec, seed, folds)
    return order if spec.training.augment is None else _reworded(order, task, seed)


def _shuffled(task: Task, spec: Spec, seed: int) -> Order:
    retain = list(range(task.own_rows["retain_train"]))
    return _batches(list(range(task.own_rows["forget"])), retain if needs(spec, "retain") else [], spec, seed)


def _layered(task: Task, spec: Spec, seed: int, folds: int) -> Order:
    """Stage i of k, each of a k-th of the steps, forgets the first i of k folds of the forget rows, and retains the
    others beside the retain rows (layered unlearning, Qian et al. 2025, arXiv 2505.09500). Ends with the last step."""
    fold = fold_of_rows(task, seed, folds)
    retain, steps = list(range(task.own_rows["retain_train"])), spec.training.steps
    begins = [-(-stage * steps // folds) for stage in range(folds + 1)]
    for stage in range(folds):
        forget = [i for i, of in enumerate(fold) if of <= stage]
        others = [task.held + i for i, of in enumerate(fold) if of > stage]
        order = _batches(forget, [*retain, *others], spec, seed + stage)
        for _ in range(begins[stage], begins[stage + 1]):
            yield next(order)


def fold_of_rows(task: Task, seed: int, folds: int) -> list[int]:
    """The fold of each forget row, from 0. The rows of a group are in one, and the groups are dealt out by the seed."""
    groups = group_numbers(task.sets["forget"])
    dealt = torch.randperm(int(groups.max()) + 1, generator=torch.Generator().manual_seed(seed + 2**29)).tolist()
    return [dealt[group] % folds for group in groups]


def _reworded(order: Order, task: Task, seed: int) -> Order:
    """Every row that has a paraphrased question is taken with it every other time, by chance."""
    generator = torch.Generator().manual_seed(seed + 2**30)
    own, held = task.reworded["forget"], task.held
    kept = task.reworded["retain_train"] | {held + row: held + other for row, other in own.items()}
    for forget, retain in order:
        coins = iter((torch.rand(len(forget) + len(retain), generator=generator) < 0.5).tolist())
        swapped = [own.get(i, i) if next(coins) else i for i in forget]
        yield swapped, [kept.get(i, i) if next(coins) else i for i in retain]


def _batches(forget: list[int], retain: list[int], spec: Spec, seed: int) -> Order:
    size = spec.training.batch_size
    forget_order = batches(len(forget), size, torch.Generator().manual_seed(seed))
    retain_order: Iterator[list[int]] = repeat([])
    if retain:
        # The generator reads the low 32 bits of a seed only: + 2**32 would draw the forget order once more.
        retain_order = batches(len(retain), size, torch.Generator().manual_seed(seed + 2**31))
    for f, r in zip(forget_order, retain_order, strict=True):
        yield [forget[i] for i in f], [retain[i] for i in r]


def needs(spec: Spec, what: str) -> bool:
    """Whether the method reads "retain" rows, "idk" rows, "hidden" states."""
    if what == "retain" and GRADIENTS[spec.method.gradients[0]].retain:
        return True
    return what in spec.method.of(spec.method.name).needs
