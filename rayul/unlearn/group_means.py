"""A metric of each group of a set: what a certificate counts, since rows of a group stand or fall together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rayul.spec import metric_name
from rayul.unlearn.evaluate import measurable, measure
from rayul.unlearn.forward import TokenScores
from rayul.unlearn.task import Task

Values = dict[str, NDArray[np.float64]]
"""By "<set>.<metric>" the value in each group [n]."""


def group_means(scores: Mapping[str, Sequence[TokenScores]], task: Task, metrics: Sequence[str]) -> Values:
    """By "<set>.<metric>" the metric of each group [n], in the order of `group_names`: its mean over the group's rows,
    or of a metric that is no mean over rows the metric of the group. scores: of all rows of a set, whatever
    evaluate.max_rows is, by set."""
    found = {}
    for name, rows in scores.items():
        own = [[rows[i] for i in members] for members in _members(task, name).values()]
        for metric in measurable(map(metric_name, metrics), rows):
            function = task.own.get(metric, metric)
            found[f"{name}.{metric}"] = np.array([measure(function, group).value for group in own])
    return found


def group_names(task: Task, name: str) -> list[str]:
    """The groups of a set, in the order of their first rows."""
    return list(_members(task, name))


def _members(task: Task, name: str) -> dict[str, list[int]]:
    """The rows of each group."""
    members: dict[str, list[int]] = {}
    for i, row in enumerate(task.sets[name]):
        members.setdefault(row.group or f"row {i + 1}", []).append(i)
    return members
