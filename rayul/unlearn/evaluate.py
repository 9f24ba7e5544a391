"""One evaluation: every metric of every set, from one teacher-forced forward per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul.spec import METRICS, metric_name
from rayul.unlearn import metrics as functions
from rayul.unlearn.forward import TokenScores, score
from rayul.unlearn.measured import Measured, mean
from rayul.unlearn.metrics import RowMetric
from rayul.unlearn.task import EVALUATED, Task, spaced


class Measurement(NamedTuple):
    """By "<set>.<metric>": the value with its standard error, and the values of the single rows [rows]."""

    measured: dict[str, Measured]
    per_row: dict[str, NDArray[np.float64]]

    @property
    def values(self) -> dict[str, float]:
        return {key: m.value for key, m in self.measured.items()}


def evaluate(
    model: Any, task: Task, metrics: Sequence[str], batch_size: int, sets: Sequence[str] = EVALUATED
) -> Measurement:
    """Measure the sets that the task has. Rows of all sets share batches: fewer, fuller forwards.

    metrics: as a spec names them in evaluate.metrics, those of one's own by file.
    """
    chosen = task.evaluated(sets)
    scores = score(model, [e for examples in chosen.values() for e in examples], task.pad, batch_size)
    return measurement(scores, {name: len(examples) for name, examples in chosen.items()}, metrics, task.own)


def measurement(
    scores: Sequence[TokenScores], counts: Mapping[str, int], metrics: Sequence[str], own: Mapping[str, RowMetric]
) -> Measurement:
    """The metrics of sets of these sizes, whose rows' scores follow each other. own: those of one's own, by name."""
    remaining = iter(scores)
    result = Measurement({}, {})
    for name, count in counts.items():
        rows = list(islice(remaining, count))
        for metric in map(metric_name, metrics):
            function = own.get(metric, metric)
            values = per_row(function, rows)
            result.per_row[f"{name}.{metric}"] = values
            result.measured[f"{name}.{metric}"] = measure(function, rows, values)
    return result


def measure(
    metric: str | RowMetric, scores: Sequence[TokenScores], values: NDArray[np.float64] | None = None
) -> Measured:
    """A metric of one forward over a set of rows, by its name or as a function of one's own. values: `per_row`, where
    it is known."""
    if _is_whole(metric):
        measured: Measured = _function(metric)(scores)
        return measured
    return mean(per_row(metric, scores) if values is None else values)


def per_row(metric: str | RowMetric, scores: Sequence[TokenScores]) -> NDArray[np.float64]:
    """The metric of each row, [rows]; of a metric that is no mean over rows, of each row as a set of its own."""
    function = _function(metric)
    if _is_whole(metric):
        return np.array([function([s]).value for s in scores], dtype=np.float64)
    return np.array([function(s) for s in scores], dtype=np.float64)


def _function(metric: str | RowMetric) -> Any:
    return getattr(functions, metric) if isinstance(metric, str) else metric


def _is_whole(metric: str | RowMetric) -> bool:
    return isinstance(metric, str) and not METRICS[metric].mean_of_rows


def pessimistic(measurement: Measurement, task: Task, keys: Sequence[str], confidence: float) -> dict[str, Bounds]:
    """Bootstrap bounds of these metrics: rows of a group are drawn together, since they stand or fall together.

    confidence in (0.5, 1): the mean lies above `low` (below `high`) with about that probability, each one-sided.
    2,000 resamples with a fixed seed, so that the same rows give the same bounds.
    """
    bounds = {}
    for key in keys:
        name = key.split(".")[0]
        groups = np.unique(spaced(task.groups[name], task.max_rows), return_inverse=True)[1]
        counts = np.bincount(groups)
        sums = np.bincount(groups, weights=measurement.per_row[key])
        drawn = np.random.default_rng(0).integers(0, len(counts), (2000, len(counts)))
        means = sums[drawn].sum(1) / counts[drawn].sum(1)
        low, high = np.quantile(means, [1 - confidence, confidence])
        bounds[key] = Bounds(float(low), float(high))
    return bounds


class Bounds(NamedTuple):
    """One-sided lower and upper confidence bound of a mean."""

    low: float
    high: float
