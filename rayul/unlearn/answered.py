"""What a probe measures beyond the one forward of every evaluation: generated answers, and further passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayul.spec import METRICS, is_forget_set, searched_of
from rayul.spec.probes import holdout_of
from rayul.unlearn import suite_metrics
from rayul.unlearn.measured import Measurement, mean
from rayul.unlearn.probe import Generation, Probe, Probes
from rayul.unlearn.task import Task, spaced


def answered(
    model: Any, task: Task, batch_size: int, everything: bool = False, sets: Sequence[str] = ()
) -> Measurement:
    """The metrics of the task's probes that take more than a forward: those that steer, or all. sets: of the data that
    are measured with them. A set with stop texts, none of which came, has a note that says so."""
    found = Measurement({}, {}, {})
    notes = []

    def probe_of(name: str) -> Probe:
        rows = spaced(list(task.sets[name]), task.max_rows)
        return Probe(model, task.tokenizer, rows, task.template, batch_size, asked)

    for name, metrics in task.further_metrics(everything, sets).items():
        asked = Generation.of(task.probes[searched_of(name)])
        probe, beside = probe_of(name), holdout_of(name)
        holdout = {"holdout": probe_of(beside)} if is_forget_set(name) and beside in task.sets else {}
        others = Probes(holdout, None, task.oracle_auc)
        for metric in metrics:
            key, function = f"{name}.{metric}", getattr(suite_metrics, metric)
            result = function(probe, others) if METRICS[metric].only else function(probe)
            if METRICS[metric].mean_of_rows:
                found.per_row[key], result = result, mean(result, probe.groups)
            found.measured[key] = result
        found = found._replace(groups={**found.groups, name: probe.groups})
        if probe.stop_note is not None:
            notes.append(f"{name}: {probe.stop_note}")
    return found._replace(notes=tuple(notes))
