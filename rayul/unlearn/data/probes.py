"""The rows of the probes, each with the wording in which its probe asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rayul.errors import InputError
from rayul.spec import METRICS, ProbeRows, certify_of, report_of
from rayul.spec.probes import set_of
from rayul.unlearn.data.row import Row, Sets, Wording, group_numbers
from rayul.unlearn.data.source import read_source
from rayul.unlearn.data.split import split_by_group
from rayul.words import plural

EXAMPLE = "Question: {question}\nAnswer: {answer}"
"""Of an example before the questions, where the probe has no template of text."""


def probe_sets(probes: Mapping[str, ProbeRows]) -> Sets:
    """The sets of the probes, those of rows that are held back among them. Raises InputError for what cannot be read, a
    set without rows, rows that lack the column of a metric, and too few groups to split."""
    sets: Sets = {}
    for name, probe in probes.items():
        for key, source, examples in probe.sources(name):
            rows = read_source(source)
            if not rows:
                raise InputError(f"{key} has no rows", f"see {source.path}, which probes.{name} names")
            _check_columns(key, rows, probe.metrics_of(key))
            before = "" if examples is None else _shown(read_source(examples), probe.template)
            worded = _worded(rows, Wording(probe.template, before, probe.question, probe.opening))
            sets |= _parts(key, worded, probe, source.shuffle) if probe.held_back(key) else {key: worded}
        if probe.holdout is not None:
            sets[set_of(name, "holdout")] = _worded(read_source(probe.holdout), Wording(probe.template))
    return sets


def _parts(key: str, rows: Sequence[Row], probe: ProbeRows, seed: int | None) -> Sets:
    """The rows of a set that the search reads, and those that are held back from it."""
    split = probe.split
    assert split is not None
    shares = {key: split.select, certify_of(key): split.certify, report_of(key): split.report}
    shares = {name: share for name, share in shares.items() if share}
    parts = split_by_group(rows, list(shares.values()), shuffled=True, seed="" if seed is None else str(seed))
    if not all(parts):
        count = plural(len(set(group_numbers(rows))), "group")
        raise InputError(
            f"{key}: {plural(len(rows), 'row')} of {count} cannot be split into {len(shares)} parts",
            "give the probe more groups, or leave its split out",
        )
    return {name: tuple(part) for name, part in zip(shares, parts, strict=True)}


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
