"""The rows of the probes, each with the wording in which its probe asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rayul.errors import InputError
from rayul.spec import METRICS, ProbeRows, certify_of, report_of
from rayul.spec.probes import set_of
from rayul.unlearn.data.choices import ASKING, subject_line, with_options
from rayul.unlearn.data.row import Row, Sets, Wording, group_numbers
from rayul.unlearn.data.source import read_source
from rayul.unlearn.data.split import split_by_group
from rayul.words import plural

EXAMPLE = "Question: {question}\nAnswer: {answer}"
"""Of an example before the questions, where the probe has no template of text."""
CHOICE = f"{{question}}\n{ASKING} {{answer}}"
"""The same of multiple choice, as lm-evaluation-harness shows it."""
CHAT = "chat"
"""In place of a template: the tokenizer's chat template."""


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
            shown = "" if examples is None else _shown(read_source(examples), probe.template)
            worded = tuple(_asked(row, probe, shown) for row in rows)
            sets |= _parts(key, worded, probe, source.shuffle) if probe.held_back(key) else {key: worded}
        if probe.holdout is not None:
            rows = read_source(probe.holdout)
            sets[set_of(name, "holdout")] = tuple(_worded(row, Wording(probe.template)) for row in rows)
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


def _asked(row: Row, probe: ProbeRows, shown: str) -> Row:
    """A row as its probe asks it. shown: examples before every question; the row's own follow.

    What multiple choice says of a subject stands before all examples. In a chat whose answers have an opening, its
    question ends with the options: the opening is in place of "Answer:"."""
    own = f"{row.examples.strip()}\n\n" if isinstance(row.examples, str) else _shown(row.examples, probe.template)
    before = shown + own
    if row.choices and (before or (probe.template == CHAT and probe.opening)):
        told, bare = subject_line(row.subject), with_options(row.stem, row.choices)
        ending = "" if probe.template == CHAT and probe.opening else f"\n{ASKING}"
        row, before = replace(row, question=bare + ending), told + before
    return _worded(replace(row, examples=()), Wording(probe.template, before, probe.question, probe.opening))


def _worded(row: Row, wording: Wording) -> Row:
    return row if wording == Wording() else replace(row, wording=wording)


def _shown(examples: Sequence[Row], template: str | None) -> str:
    """Examples with their answers, a blank line after each; of multiple choice with their options, and without what is
    said of a subject."""
    text = EXAMPLE if template in (None, CHAT) else str(template)
    found = ""
    for row in examples:
        whole, question = text, row.question
        if row.choices:
            whole, question = (CHOICE if template is None else text), with_options(row.stem, row.choices)
        before, _, after = whole.partition("{answer}")
        found += f"{before.replace('{question}', question)}{row.answer}{after}\n\n"
    return found


def _check_columns(key: str, rows: Sequence[Row], metrics: Sequence[str]) -> None:
    for metric in metrics:
        column = METRICS[metric].column if metric in METRICS else ""
        lacking = sum(not getattr(row, column) for row in rows) if column else 0
        if lacking:
            raise InputError(
                f"{key}.{metric} needs the column {column}, and {lacking} of {len(rows)} rows have none",
                "add it to the rows, map it with columns, or leave the metric out of the probe",
            )
