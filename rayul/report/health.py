"""Health checks of a finished sweep: what a careful colleague would ask before believing the front."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rayul.pareto.best import best_of, best_of_trials
from rayul.pareto.front import solutions
from rayul.pareto.targets import limits_of
from rayul.records import FAILED, Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.objectives import MIN_FORGOTTEN
from rayul.report.attacked import recovery_check
from rayul.report.check import Check
from rayul.report.gone import forgotten_metric, forgotten_share, most_is_left
from rayul.report.health_trials import (
    calibration,
    duplicates,
    edges,
    exported,
    failures,
    loss_terms,
    pruning,
    report_rows,
)
from rayul.report.side_effects import answer_point, side_effect_checks
from rayul.words import plural


def health_checks(results: SweepRecords, front: Sequence[Evaluation]) -> list[Check]:
    """All checks that apply to these results, the worst verdicts first."""
    order = ("problem", "warning", "good")
    checks = [
        *_criteria_at_baseline(results),
        *_feasible(results, front),
        *_resolution(results),
        *_margin(results, front),
        *_forgotten(results, front),
        *_runner_up(results, front),
        *report_rows(results, front),
        *side_effect_checks(results, best_of(front, results)),
        *recovery_check(results),
        *exported(results, front),
        *pruning(results),
        *calibration(results),
        *loss_terms(results),
        *edges(results, front),
        *duplicates(results),
        *failures(results),
    ]
    return sorted(checks, key=lambda check: order.index(check.verdict))


def _criteria_at_baseline(results: SweepRecords) -> Iterator[Check]:
    title = "Does the baseline keep the criteria?"
    for limit in results.every_limit:
        value = results.baseline.metrics.get(limit.metric, math.nan)
        if not limit.keeps(value):
            yield Check(
                title,
                "problem",
                f"No: the limit is {limit}, and the model before unlearning already has {value:.4g}. "
                "Unlearning cannot be expected to repair that; lower the limit.",
            )
        else:
            yield Check(title, "good", f"Yes: {limit}, and the baseline has {value:.4g}.")


def _feasible(results: SweepRecords, front: Sequence[Evaluation]) -> Iterator[Check]:
    trained = [e for rows in results.trials.values() for e in rows if e.step > 0]
    if not trained or {end.state for end in results.endings.values()} == {FAILED}:  # `failures` says why
        return
    kept = sum(e.feasible for e in trained)
    found = len(solutions(trained, results.baseline, results.objectives))
    counts = (
        f"{kept:,} of {plural(len(trained), 'evaluation')} ({kept / len(trained):.0%}) kept every criterion, "
        f"{found:,} of them forgot at least {MIN_FORGOTTEN:.0%}, {plural(len(front), 'point')} on the front."
    )
    title = "Is there anything within the limits?"
    if not kept:
        nearest = min(e.total_violation for e in trained)
        yield Check(
            title,
            "problem",
            f"No, nothing is feasible: {counts} The nearest breaks its limits by {nearest:.3g} in total. "
            "Search gentler settings (lower learning rate, fewer steps) or relax a limit.",
        )
    elif not found:
        yield Check(
            title, "problem", f"No: {counts} Within the limits nothing was forgotten: search stronger settings."
        )
    else:
        few = " One point shows no trade-off: search on, or more gently." if len(front) == 1 else ""
        yield Check(title, "good" if len(front) > 1 else "warning", f"Yes: {counts}{few}")


def _resolution(results: SweepRecords) -> Iterator[Check]:
    """The room between baseline and limit against the standard error of the metric where trials have it."""
    title = "Can the evaluation set resolve the limit?"
    for limit in results.every_limit:
        base = results.baseline.metrics.get(limit.metric, math.nan)
        # A memorised set has no spread at the baseline, nor after a few gentle steps (0 on 100 rows in a real sweep):
        # the error that matters is the one of models at the limit.
        near = sorted(
            (abs(e.metrics[limit.metric] - limit.value), e.stderr[limit.metric])
            for rows in results.trials.values()
            for e in rows
            if e.step > 0 and all(math.isfinite(m.get(limit.metric, math.nan)) for m in (e.metrics, e.stderr))
        )
        errors = [error for _, error in near[:10]] or [results.baseline.stderr.get(limit.metric, math.nan)]
        error, room = float(np.median(errors)), abs(base - limit.value)
        if not (0 < error < math.inf and math.isfinite(room)):  # an error of 0 says that no model was near the limit
            continue
        name = limit.metric.partition(".")[0]
        rows = results.baseline.rows.get(name, 0)
        units = results.baseline.groups.get(name, rows)
        noun = "rows" if units == rows else "groups"
        numbers = (
            f"{limit} lies {room:.3g} from the baseline; models near it have a standard error of {error:.3g}"
            f"{f' on {units:,} {noun}' if units else ''}."
        )
        if room < error:
            # For an error of half the room: two standard errors between baseline and limit.
            needed = (
                f"about {math.ceil(units * (2 * error / room) ** 2):,} {noun}" if units and room else f"more {noun}"
            )
            yield Check(
                title, "warning", f"No: {numbers} For two standard errors of room use {needed}, or a wider limit."
            )
        else:
            yield Check(title, "good", f"Yes: {numbers}")


def _margin(results: SweepRecords, front: Sequence[Evaluation]) -> Iterator[Check]:
    judged_by = {e.key: [one.fixed(results.baseline.metrics) for one in limits_of(results, e)] for e in front}
    for limit in results.every_limit:
        close = [
            e
            for e in front
            if limit in judged_by[e.key]
            and abs(e.metrics.get(limit.metric, math.nan) - limit.value) < e.stderr.get(limit.metric, math.nan)
        ]
        if close:
            yield Check(
                "Are results within noise of the limit?",
                "warning",
                f"Yes: {len(close)} of {plural(len(front), 'front point')} "
                f"{'lies' if len(close) == 1 else 'lie'} less than one standard error from {limit}: on other rows "
                f"{'it' if len(close) == 1 else 'they'} may break it. What a point keeps on report and certify rows, "
                "where it was measured there, is what to go by.",
            )


def _forgotten(results: SweepRecords, front: Sequence[Evaluation]) -> Iterator[Check]:
    """Of the answer's point: a certificate is about what is kept, and says nothing of this."""
    e = answer_point(results, best_of(front, results))
    if e is None or not math.isfinite(share := forgotten_share(results, e)):
        return
    title = "Is most of it forgotten?"
    told = f"trial {e.trial_id} at step {e.step} has forgotten {share:.1%} of {forgotten_metric(results)}"
    if most_is_left(share):
        yield Check(
            title,
            "warning",
            f"No: {told}. Search stronger settings, more trials or other methods, or lower the limit on utility.",
        )
    else:
        yield Check(title, "good", f"Yes: {told}. What is left of whom stands at the top.")


def _runner_up(results: SweepRecords, front: Sequence[Evaluation]) -> Iterator[Check]:
    """The best solution of each other trial against the best of all: a difference within the noise ranks nothing."""
    metric = next((m for m in results.objectives if m.startswith("forget.")), None)
    best = sorted(best_of_trials(results).values(), key=lambda pair: pair[1], reverse=True)
    if metric is None or len(best) < 2 or not front:
        return
    top = best[0][0]
    within = []
    for e, _ in best[1:]:
        error = math.hypot(top.stderr.get(metric, math.nan), e.stderr.get(metric, math.nan))
        if error > 0 and abs(e.metrics[metric] - top.metrics[metric]) < 2 * error:
            within.append(e.trial_id)
    if math.isfinite(top.stderr.get(metric, math.nan)):
        names = ", ".join(within[:6]) + (f" and {len(within) - 6} more" if len(within) > 6 else "")
        yield Check(
            "Is the best trial better than the next by more than noise?",
            "warning" if within else "good",
            f"No: {plural(len(within), 'other trial')} reached a {metric} less than two standard errors from that of "
            f"trial {top.trial_id} ({names}). Their order is not known: repeat them over seeds."
            if within
            else f"Yes: no other trial's {metric} comes within two standard errors of trial {top.trial_id}'s.",
        )
