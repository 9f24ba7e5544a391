"""Tasks of lm-evaluation-harness on a model that is in memory. The extra `lm-eval`; loaded when a spec names tasks."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import torch

from rayul.errors import InputError
from rayul.spec import HarnessTask
from rayul.unlearn.forward import Model
from rayul.unlearn.measured import Measured

PREFIX = "lm_eval/"
"""Of the names under which tasks stand where sets stand: "lm_eval/wmdp_bio.acc"."""

LEAST = (0, 4, 13)


class Harness(NamedTuple):
    """measured: by "lm_eval/<task>.<metric>", with lm-evaluation-harness' own standard error and number of examples.
    notes: for each task its version, its numbers of examples, and the version of lm-evaluation-harness."""

    measured: dict[str, Measured]
    notes: tuple[str, ...]


def check_tasks(tasks: Sequence[HarnessTask]) -> None:
    """Raises InputError where lm-evaluation-harness is not installed or too old, and for tasks that it does not
    know."""
    for task in tasks:
        if task.task not in _known(task.include_path):
            where = f" and the folder {task.include_path}" if task.include_path else ""
            raise InputError(
                f"evaluate.lm_eval: lm-evaluation-harness {_version()}{where} has no task {task.task}",
                "`lm-eval ls tasks` lists the tasks; tasks of your own need include_path",
            )


def harness_metrics(model: Model, tokenizer: Any, tasks: Sequence[HarnessTask], batch_size: int) -> Harness:
    """Run the tasks. Whatever is drawn at random afterwards is what would have been drawn without them.

    Raises InputError as `check_tasks` does, and where a task cannot be run, such as one whose data cannot be loaded.
    """
    check_tasks(tasks)
    if not tasks:
        return Harness({}, ())
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    measured: dict[str, Measured] = {}
    notes: list[str] = []
    with _quiet(), _same_draws():
        loaded = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        for task in tasks:
            try:
                found: Any = simple_evaluate(
                    loaded,
                    tasks=[task.task],
                    num_fewshot=task.num_fewshot,
                    limit=task.limit,
                    task_manager=_manager(task.include_path),
                    log_samples=False,
                )
            except Exception as error:  # no network, a missing column, code of the task's own: anything
                why = " ".join(str(error).split()) or type(error).__name__
                raise InputError(
                    f"evaluate.lm_eval: {task.task} cannot be run: {why}",
                    "try it alone: lm-eval run --model hf --model_args pretrained=MODEL --tasks " + task.task,
                ) from error
            for name in _reported(task.task, found):
                measured |= _measured(name, found)
                notes.append(_note(name, found))
    return Harness(measured, tuple(notes))


def _reported(name: str, found: Any) -> list[str]:
    """The task, or the group where it has numbers of its own; else (a tag) what it stands for."""
    if any(isinstance(v, float) for v in found["results"].get(name, {}).values()):
        return [name]
    return [task for task in found["results"] if task in found["n-samples"]]


def _measured(name: str, found: Any) -> dict[str, Measured]:
    """Of one task, from keys such as "acc,none" and "acc_stderr,none": "none" is the filter that filters nothing."""
    results, examples = found["results"][name], _examples(name, found)
    measured = {}
    for key, value in results.items():
        metric, comma, filtered = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            error = results.get(f"{metric}_stderr,{filtered}")
            label = metric if filtered == "none" else f"{metric}_{filtered}"
            stderr = float(error) if isinstance(error, int | float) else math.nan
            measured[f"{PREFIX}{name}.{label}"] = Measured(float(value), stderr, examples, examples)
    return measured


def _examples(name: str, found: Any) -> int:
    if name in found["n-samples"]:
        return int(found["n-samples"][name]["effective"])
    return sum(_examples(child, found) for child in found["group_subtasks"].get(name, ()))


def _note(name: str, found: Any) -> str:
    of_task = found["versions"].get(name)
    return (
        f"{PREFIX}{name}: task version {of_task}, {_examples(name, found)} examples, lm-evaluation-harness {_version()}"
    )


@cache
def _manager(include_path: str | None) -> Any:
    """A second or two: it looks through all tasks."""
    if tuple(int(part) for part in _version().split(".")[:3] if part.isdigit()) < LEAST:
        raise InputError(f"evaluate.lm_eval: lm-evaluation-harness {_version()} is too old", _INSTALL)
    from lm_eval.tasks import TaskManager

    with _quiet():
        return TaskManager(include_path=include_path)


@cache
def _known(include_path: str | None) -> frozenset[str]:
    return frozenset(_manager(include_path).all_tasks)


_INSTALL = "pip install 'rayul[lm-eval]', on every node, or leave evaluate.lm_eval out"


def _version() -> str:
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        raise InputError("evaluate.lm_eval: lm-evaluation-harness is not installed", _INSTALL) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """It warns of every model that it did not load itself, and of every task of its own that has no version."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _same_draws() -> Iterator[None]:
    """It seeds the generators of the whole process."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what it seeds)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
