"""From a results folder to everything that is derived from it: tables, front, hypervolume, checks, report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rayul.errors import RayulError
from rayul.pareto.answer import measured, number, percent
from rayul.pareto.audit.section import write_audit
from rayul.pareto.check import Check
from rayul.pareto.figures import check_formats, write_figures
from rayul.pareto.front import forgotten, front, least_violating
from rayul.pareto.health import health_checks
from rayul.pareto.hypervolume import hypervolume_history, unit_scores
from rayul.pareto.report import write_report
from rayul.pareto.results import Limit, Results, load_results
from rayul.pareto.scale import Objectives, forget_objective
from rayul.pareto.tables import count_states, write_tables
from rayul.pareto.targets import Target, best_at_targets
from rayul.records import Evaluation


@dataclass(frozen=True)
class Summary:
    """What a sweep found.

    states: number of trials by state. front: non-dominated solutions, best in the first objective first.
    least_violating: the trials nearest to feasible, only when the front is empty. best: the point of the front that
    forgot most; where no limit protects utility, the one that spans the largest volume alone. best_forgotten: its
    fraction of the baseline, NaN without a forget objective. hypervolume: in [0, 1]; history: its growth, as
    (evaluations so far, hypervolume). targets: the best at each share of control.tau, where it is a list. checks: the
    health checks, worst first.
    """

    folder: Path
    name: str
    objectives: Objectives
    limits: tuple[Limit, ...]
    states: dict[str, int]
    baseline: Evaluation
    oracle: Evaluation | None
    front: list[Evaluation]
    least_violating: list[Evaluation]
    best: Evaluation | None
    best_forgotten: float
    hypervolume: float
    history: list[tuple[int, float]]
    targets: list[Target]
    checks: list[Check]

    @property
    def forget_metric(self) -> str | None:
        return forget_objective(self.objectives)

    @property
    def warnings(self) -> list[str]:
        """The health checks that are not good, as question and answer."""
        return [f"{check.title} {check.sentence}" for check in self.checks if check.verdict != "good"]

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def summarise(folder: Path, figures: Sequence[str] = ()) -> Summary:
    """Read spec.yaml and evaluations.jsonl; write evaluations.parquet, trials.parquet, pareto.* and report.html, and
    figures/ in these formats (pdf, png, svg; needs matplotlib).

    Everything is made from the records alone, each file whole or not at all, so it may run beside a running sweep.
    Raises InputError for a folder that is no sweep's, RayulError when a file cannot be written.
    """
    if figures:
        check_formats(figures)
    results = load_results(folder)
    summary = summary_of(results)
    try:
        write_tables(results, summary.front)
        write_report(results, summary, write_audit(results))
        if figures:
            write_figures(results, summary, figures)
    except OSError as error:
        raise RayulError(
            f"cannot write {error.filename or folder}: {error.strerror or error}",
            f"free the disk or fix the folder's permissions, then run `rayul report {folder}`",
        ) from error
    return summary


def summary_of(results: Results) -> Summary:
    """The summary of results already read; writes nothing."""
    points = front(results.evaluations, results.baseline, results.objectives)
    history = hypervolume_history(results.evaluations, results.baseline, results.objectives, results.limit_values)
    best = best_of(points, results)
    return Summary(
        folder=results.folder,
        name=results.name,
        objectives=results.objectives,
        limits=results.limits,
        states=count_states(results),
        baseline=results.baseline,
        oracle=results.oracle,
        front=points,
        least_violating=[] if points else least_violating(results.evaluations),
        best=best,
        best_forgotten=float(forgotten([best], results.baseline, results.objectives)[0]) if best else math.nan,
        hypervolume=history[-1][1],
        history=history,
        targets=best_at_targets(results),
        checks=health_checks(results, points),
    )


def best_of(points: Sequence[Evaluation], results: Results) -> Evaluation | None:
    """The point to name in one sentence: most forgotten; without limits that would be a ruined model, so the point
    with the largest product of scores (the volume it dominates alone)."""
    if not points:
        return None
    gone = forgotten(points, results.baseline, results.objectives)
    if results.limits and not np.isnan(gone).all():
        return points[int(np.nanargmax(gone))]
    scores = unit_scores(points, results.baseline, results.objectives, results.limit_values)
    return points[int(np.nan_to_num(scores).prod(axis=1).argmax())]


def front_lines(summary: Summary, count: int = 10) -> list[str]:
    """The front as an aligned plain-text table for a terminal or a log file, at most `count` rows.

    When nothing is feasible: the trials nearest to it, with their total violation.
    """
    listed = summary.front or summary.least_violating
    if not listed:
        return ["no evaluation after step 0 yet"]
    shown = listed[:count]
    gone = forgotten(shown, summary.baseline, summary.objectives)
    head = ["trial", "step", "forgotten", *summary.objectives, *([] if summary.front else ["violation"])]
    if any(e.mixing != 1 for e in shown):
        head.insert(2, "mixing")
    body = []
    for e, fraction in zip(shown, gone.tolist(), strict=True):
        row = [e.trial_id, str(e.step), percent(fraction), *(measured(e, metric) for metric in summary.objectives)]
        if "mixing" in head:
            row.insert(2, f"{e.mixing:g}")
        body.append(row if summary.front else [*row, number(e.total_violation)])
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *body]]
    if not summary.front:
        lines.insert(0, "no solution: the trials nearest to the limits, by total violation")
    if len(listed) > count:
        lines.append(f"... and {len(listed) - count} more in {summary.folder / 'pareto.csv'}")
    return lines + [_target_line(target) for target in summary.targets]


def _target_line(target: Target) -> str:
    if target.best is None:
        return f"{percent(target.share)} kept: nothing was found"
    e = target.best
    return f"{percent(target.share)} kept: {percent(target.forgotten)} forgotten by {e.trial_id} at step {e.step}" + (
        f", mixed at {e.mixing:g}" if e.mixing != 1 else ""
    )
