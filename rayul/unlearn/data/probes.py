"""The rows of the probes, each with the wording in which its probe asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rayul.errors import InputError
from rayul.spec import METRICS, ProbeRows
from rayul.spec.probes import set_of
from rayul.unlearn.data.row import Row, Sets, Wording
from rayul.unlearn.data.source import read_source

EXAMPLE = "Question: {question}\nAnswer: {answer}"
"""Of an example before the questions, where the probe has no template of text."""


def probe_sets(probes: Mapping[str, ProbeRows]) -> Sets:
    """The sets of the probes. Raises InputError for what cannot be read, a set without rows, and rows that lack the
    column of a metric."""
    sets: Sets = {}
    for name, probe in probes.items():
        for key, source, examples in probe.sources(name):
            rows = read_source(source)
            if not rows:
                raise InputError(f"{key} has no rows", f"see {source.path}, which probes.{name} names")
            _check_columns(key, rows, probe.metrics_of(key))
            before = "" if examples is None else _shown(read_source(examples), probe.template)
            sets[key] = _worded(rows, Wording(probe.template, before, probe.question, probe.opening))
        if probe.holdout is not None:
            sets[set_of(name, "holdout")] = _worded(read_source(probe.holdout), Wording(probe.template))
    return sets


def _worded(rows: Sequence[Row], wording: Wording) -> tuple[Row, ...]:
    return tuple(rows) if wording == Wording() else tuple(replace(row, wording=wording) for row in rows)


def _shown(examples: Sequence[Row], template: str | None) -> str:
    """Examples with their answers, a blank line after each."""
    text = EXAMPLE if template in (None, "chat") else str(template)
    before, _, after = text.partition("{answer}")
    return "".join(f"{before.replace('{question}', row.question)}{row.answer}{after}\n\n" for row in examples)


def _check_columns(key: str, rows: Sequence[Row], metrics: Sequence[str]) -> None:
    for metric in metrics:
        column = METRICS[metric].column if metric in METRICS else ""
        lacking = sum(not getattr(row, column) for row in rows) if column else 0
        if lacking:
            raise InputError(
                f"{key}.{metric} needs the column {column}, and {lacking} of {len(rows)} rows have none",
                "add it to the rows, map it with columns, or leave the metric out of the probe",
            )
