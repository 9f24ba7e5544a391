"""A metric of each group of a set: what a certificate counts, since rows of a group stand or fall together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayul.spec import METRICS, metric_name, searched_of
from rayul.unlearn import suite_metrics
from rayul.unlearn.data import group_numbers
from rayul.unlearn.data.overlap import place_of
from rayul.unlearn.evaluate import measurable, measure
from rayul.unlearn.forward import TokenScores
from rayul.unlearn.probe import Generation, Probe
from rayul.unlearn.task import Task

Values = dict[str, NDArray[np.float64]]
"""By "<set>.<metric>" the value in each group [n]."""


def group_means(scores: Mapping[str, Sequence[TokenScores]], task: Task, metrics: Sequence[str]) -> Values:
    """By "<set>.<metric>" the metric of each group [n], in the order of their first rows: its mean over the group's
    rows, or of a metric that is no mean over rows the metric of the group. scores: of all rows of a set, whatever
    evaluate.max_rows is, by set."""
    found = {}
    for name, rows in scores.items():
        own = [[rows[i] for i in members] for members in _members(task, name)]
        for metric in measurable(map(metric_name, metrics), rows):
            function = task.own.get(metric, metric)
            found[f"{name}.{metric}"] = np.array([measure(function, group).value for group in own])
    return found


def answered_group_means(model: Any, task: Task, metrics: Mapping[str, Sequence[str]], batch_size: int) -> Values:
    """As `group_means`, for metrics of a probe that take more than a forward. metrics: by set of a probe."""
    found = {}
    for name, own in metrics.items():
        rows, places = task.sets[name], _members(task, name)
        asked = Generation.of(task.probes[searched_of(name)])
        probe = Probe(model, task.tokenizer, rows, task.template, batch_size, asked)
        for metric in own:
            function = getattr(suite_metrics, metric)
            if METRICS[metric].mean_of_rows:
                values = np.asarray(function(probe))
                means = [float(values[of_group].mean()) for of_group in places]
            else:
                groups = [[rows[i] for i in of_group] for of_group in places]
                options = (task.template, batch_size, asked)
                means = [function(Probe(model, task.tokenizer, group, *options)).value for group in groups]
            found[f"{name}.{metric}"] = np.array(means)
    return found


def group_places(task: Task, name: str) -> list[str]:
    """Where each group of a set begins, for errors: the names of groups are private."""
    return [place_of(task.sets, name, places[0] + 1) for places in _members(task, name)]


def _members(task: Task, name: str) -> list[list[int]]:
    """The rows of each group, in the order of their first rows."""
    members: dict[int, list[int]] = {}
    for i, number in enumerate(group_numbers(task.sets[name]).tolist()):
        members.setdefault(number, []).append(i)
    return list(members.values())
