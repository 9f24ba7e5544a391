"""Health checks of a finished sweep: what a careful colleague would ask before believing the front."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rayul.pareto.front import MIN_FORGOTTEN, solutions
from rayul.pareto.results import Limit, Results
from rayul.records import FAILED, PRUNED, RUNNING, Evaluation
from rayul.spec import Float, Int

Verdict = Literal["good", "warning", "problem"]

EDGE = 0.02
"""A parameter within this fraction of its range (in log space where the range is) of an end counts as on the edge."""


@dataclass(frozen=True)
class Check:
    """One question, its verdict, and the verdict as a sentence with its numbers."""

    title: str
    verdict: Verdict
    sentence: str


def health_checks(results: Results, front: Sequence[Evaluation]) -> list[Check]:
    """All checks that apply to these results, the worst verdicts first."""
    order = ("problem", "warning", "good")
    checks = [
        *_criteria_at_baseline(results),
        *_feasible(results, front),
        *_resolution(results),
        *_margin(results, front),
        *_pruning(results),
        *_edges(results, front),
        *_duplicates(results),
        *_failures(results),
        *_report_rows(results, front),
    ]
    return sorted(checks, key=lambda check: order.index(check.verdict))


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _keeps(limit: Limit, value: float) -> bool:
    return value >= limit.value if limit.at_least else value <= limit.value


def _criteria_at_baseline(results: Results) -> Iterator[Check]:
    title = "Does the baseline keep the criteria?"
    for limit in results.limits:
        value = results.baseline.metrics.get(limit.metric, math.nan)
        if not _keeps(limit, value):
            yield Check(
                title,
                "problem",
                f"No: the limit is {limit}, and the model before unlearning already has {value:.4g}. "
                "Unlearning cannot be expected to repair that; lower the limit.",
            )
        else:
            yield Check(title, "good", f"Yes: {limit}, and the baseline has {value:.4g}.")


def _feasible(results: Results, front: Sequence[Evaluation]) -> Iterator[Check]:
    trained = [e for rows in results.trials.values() for e in rows if e.step > 0]
    if not trained:
        return
    kept = sum(e.feasible for e in trained)
    found = len(solutions(trained, results.baseline, results.objectives))
    counts = (
        f"{kept:,} of {plural(len(trained), 'evaluation')} ({kept / len(trained):.0%}) kept every criterion, "
        f"{found:,} of them forgot at least {MIN_FORGOTTEN:.0%}, {len(front):,} are on the front."
    )
    title = "Is there anything within the limits?"
    if not kept:
        nearest = min(e.total_violation for e in trained)
        yield Check(
            title,
            "problem",
            f"Nothing is feasible: {counts} The nearest breaks its limits by {nearest:.3g} in total. "
            "Search gentler settings (lower learning rate, fewer steps) or relax a limit.",
        )
    elif not found:
        yield Check(title, "problem", f"{counts} Within the limits nothing was forgotten: search stronger settings.")
    else:
        yield Check(title, "good" if len(front) > 1 else "warning", counts)


def _resolution(results: Results) -> Iterator[Check]:
    """The room between baseline and limit against the standard error of the metric where trials have it."""
    title = "Can the evaluation set resolve the limit?"
    for limit in results.limits:
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
        if not (math.isfinite(error) and math.isfinite(room)):
            continue
        rows = results.baseline.rows.get(limit.metric.split(".")[0], 0)
        numbers = (
            f"{limit} lies {room:.3g} from the baseline; models near it have a standard error of {error:.3g}"
            f"{f' on {rows:,} rows' if rows else ''}."
        )
        if room < error:
            needed = f"about {math.ceil(rows * (error / room) ** 2):,} rows" if rows and room else "more rows"
            yield Check(title, "warning", f"No: {numbers} Use {needed}, or a wider limit.")
        else:
            yield Check(title, "good", f"Yes: {numbers}")


def _margin(results: Results, front: Sequence[Evaluation]) -> Iterator[Check]:
    for limit in results.limits:
        close = [
            e
            for e in front
            if abs(e.metrics.get(limit.metric, math.nan) - limit.value) < e.stderr.get(limit.metric, math.nan)
        ]
        if close:
            yield Check(
                "Are results within noise of the limit?",
                "warning",
                f"{len(close)} of {plural(len(front), 'front point')} "
                f"{'lies' if len(close) == 1 else 'lie'} less than one standard error from {limit}: "
                "on other rows they may break it. Evaluate the finalists on retain-report before choosing one.",
            )


def _pruning(results: Results) -> Iterator[Check]:
    pruned = [e for e in results.endings.values() if e.state == PRUNED]
    if not pruned:
        return
    reached = {e.trial_id for e in solutions(results.evaluations, results.baseline, results.objectives, False)}
    early = [e for e in pruned if e.trial_id not in reached]
    sentence = (
        f"{len(early):,} of {plural(len(pruned), 'pruned trial')} had forgotten less than {MIN_FORGOTTEN:.0%} at every "
        "evaluation until then."
    )
    verdict: Verdict = "warning" if len(early) > len(pruned) / 2 else "good"
    yield Check("Did pruning fire before anything was forgotten?", verdict, sentence)


def _edges(results: Results, front: Sequence[Evaluation]) -> Iterator[Check]:
    title = "Is the front at the edge of the search space?"
    on_edge = False
    for name, space in results.space.items():
        if not isinstance(space, Float | Int):
            continue
        low, high = (math.log(v) if space.log else float(v) for v in (space.low, space.high))
        if not high > low:
            continue
        drawn = [float(e.params[name]) for e in front if _is_number(e.params.get(name))]
        places = [((math.log(v) if space.log else v) - low) / (high - low) for v in drawn]
        for end, count in (
            (space.low, sum(p <= EDGE for p in places)),
            (space.high, sum(p >= 1 - EDGE for p in places)),
        ):
            if count:
                on_edge = True
                yield Check(
                    title,
                    "warning",
                    f"{count} of {plural(len(front), 'front point')} {'has' if count == 1 else 'have'} {name} at the "
                    f"end {end:g} of its range {space.low:g} to {space.high:g}: what lies beyond may be better.",
                )
    if front and results.space and not on_edge:
        yield Check(title, "good", "No: every number of every front point lies inside its range.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _duplicates(results: Results) -> Iterator[Check]:
    seen: dict[str, list[str]] = {}
    for trial, rows in results.trials.items():
        if rows[0].params:
            seen.setdefault(json.dumps([rows[0].params, rows[0].seed], sort_keys=True, default=str), []).append(trial)
    repeated = [trials for trials in seen.values() if len(trials) > 1]
    title = "Was anything tried twice?"
    if repeated:
        extra = sum(len(trials) - 1 for trials in repeated)
        yield Check(
            title,
            "warning",
            f"Yes: {plural(extra, 'trial')} of {len(results.trials):,} repeated the settings and seed of an earlier "
            f"one, for example {', '.join(repeated[0][:4])}.",
        )
    elif seen:
        yield Check(title, "good", f"No: all {plural(len(seen), 'trial')} differ in settings or seed.")


def _failures(results: Results) -> Iterator[Check]:
    states = [e.state for e in results.endings.values()]
    if not states:
        return
    failed, running = states.count(FAILED), states.count(RUNNING)
    verdict: Verdict = "problem" if failed > len(states) / 2 else "warning" if failed or running else "good"
    sentence = f"{failed:,} of {plural(len(states), 'trial')} failed."
    if running:
        sentence += f" {plural(running, 'trial')} did not finish: the sweep is running, or --resume goes on with it."
    yield Check("Did every trial run to its end?", verdict, sentence)


def _report_rows(results: Results, front: Sequence[Evaluation]) -> Iterator[Check]:
    """Retain-report, which nothing optimised, against retain-control, which everything did: overfitting to the rows."""
    adapters = [(e, results.adapters[e.key]) for e in front if e.key in results.adapters]
    unverified = [a.path for _, a in adapters if not a.verified]
    if unverified:
        yield Check(
            "Do the exported adapters give the recorded numbers?",
            "warning",
            f"{len(unverified)} of {plural(len(adapters), 'exported adapter')} "
            f"{'was' if len(unverified) == 1 else 'were'} not reloaded and rescored, for example {unverified[0]}.",
        )
    for metric in results.objectives:
        if not metric.startswith("retain."):
            continue
        twin = "retain_report." + metric.removeprefix("retain.")
        base, base_twin = results.baseline.metrics.get(metric, math.nan), results.baseline.metrics.get(twin, math.nan)
        gaps = []
        for e, adapter in adapters:
            value, reported = e.metrics.get(metric, math.nan), adapter.report_metrics.get(twin, math.nan)
            error = math.hypot(e.stderr.get(metric, math.nan), adapter.report_stderr.get(twin, math.nan))
            # Compared as changes from the baseline: the two sets need not be equally hard.
            gap = (value - base) - (reported - base_twin)
            if math.isfinite(gap) and error > 0:
                gaps.append((abs(gap) / error, gap, e))
        if not gaps:
            continue
        worst, gap, e = max(gaps, key=lambda g: g[0])
        apart = sum(g[0] > 2 for g in gaps)
        yield Check(
            f"Does {twin} agree with {metric}?",
            "warning" if apart else "good",
            f"{apart} of {plural(len(gaps), 'exported point')} changed by more than two standard errors differently on "
            f"rows that nothing was tuned on; the largest gap is {gap:+.3g} ({worst:.1f} standard errors, trial "
            f"{e.trial_id} at step {e.step}).",
        )
