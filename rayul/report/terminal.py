"""The front as plain text, for a terminal or a log file."""

from __future__ import annotations

import re
import textwrap

from rayul.pareto.front import forgotten
from rayul.pareto.targets import BestAtTarget
from rayul.report.fell import fell_line
from rayul.report.gone import ES, heading_of
from rayul.report.recalled import as_asked, recalled_lines
from rayul.report.summary import Summary
from rayul.words import measured, number, percent

WIDTH = 80


def front_lines(summary: Summary, count: int = 10) -> list[str]:
    """What is certified, what the answer still recalls, what attacks brought back, and the front as an aligned
    plain-text table for a terminal or a log file, at most `count` rows.

    When nothing is feasible: the trials nearest to it, with their total violation.
    """
    table = _table(summary, count)
    still = [line for one in summary.recalled[:1] for line in recalled_lines(as_asked(one))]
    if any(re.search(r"\bgroup \d", line) for line in still):
        still.append("Groups are numbered within each set, as in recall.json.")
    where = [] if summary.fell is None else ["", *textwrap.wrap(fell_line(summary.fell), WIDTH)]
    said = [
        line for sentence in [*summary.certified, *still, *summary.attacked] for line in textwrap.wrap(sentence, WIDTH)
    ]
    if summary.certified:
        table.insert(0, "The search's own front, measured on the select rows:")
    return [*said, *([""] if said else []), *table, *where]


def _table(summary: Summary, count: int) -> list[str]:
    listed = summary.front or summary.least_violating
    if not listed:
        return ["no evaluation after step 0 yet"]
    shown = listed[:count]
    gone = forgotten(shown, summary.baseline, summary.objectives)
    metric = summary.forget_metric
    es = metric not in (None, ES) and all(ES in e.metrics for e in [summary.baseline, *shown])
    head = [
        "trial",
        "step",
        heading_of(metric),
        *summary.objectives,
        *([ES] if es else []),
        *([] if summary.front else ["violation"]),
    ]
    if any(e.mixing != 1 for e in shown):
        head.insert(2, "mixing")
    body = []
    for e, fraction in zip(shown, gone.tolist(), strict=True):
        row = [e.trial_id, str(e.step), percent(fraction), *(measured(e, metric) for metric in summary.objectives)]
        row += [measured(e, ES)] if es else []
        if "mixing" in head:
            row.insert(2, f"{e.mixing:g}")
        body.append(row if summary.front else [*row, number(e.total_violation)])
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *body]]
    if not summary.front:
        inside = any(e.total_violation <= 0 for e in shown)
        lines.insert(
            0,
            "No solution yet: the limits are kept, but nothing is forgotten."
            if inside
            else "No solution: the trials closest to the limits, by total violation.",
        )
    if len(listed) > count:
        lines.append(f"... and {len(listed) - count} more in {summary.folder / 'pareto.csv'}")
    return lines + [_target_line(target, heading_of(metric)) for target in summary.targets]


def _target_line(target: BestAtTarget, gone: str) -> str:
    if target.best is None:
        return f"{percent(target.share)} kept: nothing was found"
    e = target.best
    return f"{percent(target.share)} kept: {percent(target.forgotten)} {gone} by {e.trial_id} at step {e.step}" + (
        f", mixed at {e.mixing:g}" if e.mixing != 1 else ""
    )
