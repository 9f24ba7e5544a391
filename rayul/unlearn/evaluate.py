"""One evaluation: every metric of every set, from one teacher-forced forward per row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul.spec import CHOICES, METRICS, metric_name
from rayul.unlearn import metrics as functions
from rayul.unlearn.answered import answered
from rayul.unlearn.forward import TokenScores, score
from rayul.unlearn.measured import Groups, Measured, Measurement, mean
from rayul.unlearn.metrics import RowMetric
from rayul.unlearn.task import Task


def evaluate(
    model: Any,
    task: Task,
    metrics: Sequence[str],
    batch_size: int,
    sets: Sequence[str] | None = None,
    everything: bool = False,
    only: Collection[str] | None = None,
) -> Measurement:
    """Measure the sets that the evaluations of a trial read, or others. Rows of all sets share batches: fewer, fuller
    forwards.

    metrics: of the sets that are no probe's, as a spec names them in evaluate.metrics, custom ones by file. sets: these
    of the data, and all probes. everything: also the metrics of probes that take more than the forward and steer
    nothing. only: of the sets that would be read these, and no answer is generated.
    """
    of_sets = task.forward_metrics(metrics, sets)
    if only is not None:
        of_sets = {name: of_set for name, of_set in of_sets.items() if name in only}
    chosen = task.evaluated(of_sets)
    scores = score(model, [e for examples in chosen.values() for e in examples], task.pad, batch_size)
    found = measurement(scores, task.groups(of_sets), of_sets, task.own)
    return found if only is not None else found.joined(answered(model, task, batch_size, everything, sets or ()))


def measurement(
    scores: Sequence[TokenScores],
    groups: Mapping[str, Groups],
    metrics: Mapping[str, Sequence[str]],
    own: Mapping[str, RowMetric],
) -> Measurement:
    """The metrics of sets, whose rows' scores follow each other. groups: the group of each row [rows], by set. metrics:
    by set. own: the custom ones, by name."""
    remaining = iter(scores)
    result = Measurement({}, {}, groups)
    for name, of_rows in groups.items():
        rows = list(islice(remaining, len(of_rows)))
        for metric in measurable(map(metric_name, metrics[name]), rows):
            function = own.get(metric, metric)
            values = per_row(function, rows)
            result.per_row[f"{name}.{metric}"] = values
            result.measured[f"{name}.{metric}"] = measure(function, rows, values, of_rows)
    return result


def measurable(metrics: Iterable[str], rows: Sequence[TokenScores]) -> list[str]:
    """Of these metrics those that a set has: those of multiple choice only where its rows have options."""
    asked = bool(rows) and rows[0].options.size > 0
    return [name for name in metrics if asked or name not in METRICS or METRICS[name].column != CHOICES]


def measure(
    metric: str | RowMetric,
    scores: Sequence[TokenScores],
    values: NDArray[np.float64] | None = None,
    groups: Groups | None = None,
) -> Measured:
    """A metric of one forward over a set of rows, by its name or as a custom function. values: `per_row`, where
    it is known. groups: the group of each row; None: each is its own."""
    if is_whole(metric):
        measured: Measured = _function(metric)(scores, groups)
        return measured
    return mean(per_row(metric, scores) if values is None else values, groups)


def per_row(metric: str | RowMetric, scores: Sequence[TokenScores]) -> NDArray[np.float64]:
    """The metric of each row, [rows]; of a metric that is no mean over rows, of each row as a set of its own."""
    function = _function(metric)
    if is_whole(metric):
        return np.array([function([s]).value for s in scores], dtype=np.float64)
    return np.array([function(s) for s in scores], dtype=np.float64)


def _function(metric: str | RowMetric) -> Any:
    return getattr(functions, metric) if isinstance(metric, str) else metric


def is_whole(metric: str | RowMetric) -> bool:
    """Whether a metric is of a set and no mean over its rows."""
    return isinstance(metric, str) and not METRICS[metric].mean_of_rows


def pessimistic(measured: Measured, confidence: float) -> Bounds:
    """Bounds of a metric: value -+ t standard errors, t with one degree of freedom less than there are groups.

    confidence in (0.5, 1): the expectation lies above `low` (below `high`) with about that probability, each one-sided.
    With a single group there is nothing to tell the spread by, and the bounds are the value itself.
    """
    from scipy import stats

    if measured.groups < 2:
        return Bounds(measured.value, measured.value)
    margin = float(stats.t.ppf(confidence, measured.groups - 1)) * measured.stderr
    return Bounds(measured.value - margin, measured.value + margin)


class Bounds(NamedTuple):
    """One-sided lower and upper confidence bound of a mean."""

    low: float
    high: float
