"""Health checks of the trials themselves: how they ended, where in the space they lie, what was exported of them."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rayul.pareto.front import solutions
from rayul.pareto.held_out import HeldOut, held_out
from rayul.pareto.targets import target_of
from rayul.records import COMPLETED, FAILED, PRUNED, RUNNING, UNSTEADY, Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.objectives import MIN_FORGOTTEN
from rayul.report.check import Check, Verdict
from rayul.spec import Choice, Float, Int
from rayul.words import percent, plural

EDGE = 0.02
"""A parameter within this fraction of its range (in log space where the range is) of an end counts as on the edge."""


def pruning(results: SweepRecords) -> Iterator[Check]:
    pruned = [e for e in results.endings.values() if e.state == PRUNED]
    if not pruned:
        return
    reached = {e.trial_id for e in solutions(results.evaluations, results.baseline, results.objectives, False)}
    early = [e for e in pruned if e.trial_id not in reached]
    sentence = (
        f"{'Yes' if len(early) > len(pruned) / 2 else 'Mostly not' if early else 'No'}: {len(early):,} of "
        f"{plural(len(pruned), 'pruned trial')} had forgotten less than {MIN_FORGOTTEN:.0%} at every "
        "evaluation until then."
    )
    verdict: Verdict = "warning" if len(early) > len(pruned) / 2 else "good"
    yield Check("Did pruning fire before anything was forgotten?", verdict, sentence)


def calibration(results: SweepRecords) -> Iterator[Check]:
    """Where mixing is on: how much of the update survives it, and whether the curves may be trusted."""
    calibrated: dict[tuple[str, int], Evaluation] = {}
    for e in results.evaluations:
        if not e.is_reference and e.step and e.metrics:
            calibrated[e.trial_id, e.step] = e  # the calibrated row of a step comes last
    if all(e.mixing == 1 for e in results.evaluations if not e.is_reference):
        return
    last = {trial_id: e.mixing for (trial_id, _), e in calibrated.items()}
    nothing = sum(mixing == 0 for mixing in last.values())
    bent = {trial_id for (trial_id, _), e in calibrated.items() if UNSTEADY in e.notes}
    sentence = (
        f"{'Not for most' if nothing > len(last) / 2 else 'Yes'}: at the last evaluation {nothing:,} of "
        f"{plural(len(last), 'trial')} keep the limits at mixing 0 only, where "
        f"nothing is unlearned; the median mixing is {statistics.median(last.values()):.2f}. In "
        f"{plural(len(bent), 'trial')} a violation falls somewhere as the mixing grows, so a larger one may keep the "
        "limits too."
    )
    yield Check(
        "Does calibration leave something of the unlearning?",
        "warning" if nothing > len(last) / 2 else "good",
        sentence,
    )


def loss_terms(results: SweepRecords) -> Iterator[Check]:
    """A term that is 0, or the same everywhere, is a setting that does nothing. By method and gradient rule, where
    these are searched."""
    seen: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
    for e in results.evaluations:
        kind = " with ".join(str(e.params[key]) for key in ("method.name", "method.gradient") if key in e.params)
        for name, value in e.terms.items():
            seen.setdefault((name, kind), {})[e.trial_id, e.step] = value
    idle, moving = [], []
    for (name, kind), by_step in sorted(seen.items()):
        values = [value for value in by_step.values() if math.isfinite(value)]
        if len(values) < 2:
            continue
        moving.append(name)
        if max(values) - min(values) <= 1e-6 * max(map(abs, values)):
            of = f" of {kind}" if kind else ""
            idle.append(f"{name}{of} is {values[0]:.3g} at all {plural(len(values), 'evaluation')}")
    title = "Does every term of the loss do something?"
    if idle:
        yield Check(
            title,
            "warning",
            f"No: {'; '.join(idle)}. Such a term has no effect: check its weight, its rows and the controls.",
        )
    elif moving:
        yield Check(title, "good", f"Yes: {', '.join(dict.fromkeys(moving))}, all move.")


def edges(results: SweepRecords, front: Sequence[Evaluation]) -> Iterator[Check]:
    title = "Is the front at the edge of the search space?"
    on_edge = False
    for name, space in results.space.items():
        if not isinstance(space, Float | Int):
            continue
        low, high = (math.log(v) if space.log else float(v) for v in (space.low, space.high))
        if not high > low:
            continue
        drawn = _numbers(e.params.get(name) for e in front)
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
    for name, space in results.space.items():
        options = sorted(_numbers(space.options)) if isinstance(space, Choice) else []
        if len(options) < 3 or len(front) < 3:
            continue
        drawn = _numbers(e.params.get(name) for e in front)
        for end in (options[0], options[-1]):
            # One point at an end says nothing where there are three options; most of the front does.
            if drawn.count(end) > 2 * len(drawn) / 3:
                on_edge = True
                yield Check(
                    title,
                    "warning",
                    f"{drawn.count(end)} of {plural(len(drawn), 'front point')} have {name} {end:g}, the end of its "
                    f"options {', '.join(f'{o:g}' for o in options)}: what lies beyond may be better.",
                )
    if front and results.space and not on_edge:
        yield Check(title, "good", "No: every number of every front point lies inside its range.")


def _numbers(values: Iterable[Any]) -> list[float]:
    return [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


def duplicates(results: SweepRecords) -> Iterator[Check]:
    seen: dict[str, list[str]] = {}
    for trial, end in results.endings.items():
        if end.params:
            seen.setdefault(json.dumps([end.params, end.seed], sort_keys=True, default=str), []).append(trial)
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


def failures(results: SweepRecords) -> Iterator[Check]:
    states = [e.state for e in results.endings.values()]
    if not states:
        return
    failed, running = states.count(FAILED), states.count(RUNNING)
    verdict: Verdict = "problem" if failed > len(states) / 2 else "warning" if failed or running else "good"
    sentence = (
        f"{'Yes' if failed else 'No'}: {failed:,} of {plural(len(states), 'trial')} failed; {states.count(PRUNED):,} "
        f"{'was' if states.count(PRUNED) == 1 else 'were'} stopped early by a limit or rule, and "
        f"{states.count(COMPLETED):,} ran to the end."
    )
    reasons = Counter(e.reason for e in results.endings.values() if e.state == FAILED)
    if reasons:
        sentence += f" The most frequent reason: {reasons.most_common(1)[0][0]}."
    if running:
        sentence += (
            f" {plural(running, 'trial')} did not finish: the sweep is still running, or was stopped, and "
            "`rayul sweep SPEC --resume` goes on with it."
        )
    yield Check("Did any trial fail, or not finish?", verdict, sentence)


def exported(results: SweepRecords, front: Sequence[Evaluation]) -> Iterator[Check]:
    """Whether what was saved was reloaded and gave the recorded numbers again."""
    adapters = [results.adapters[e.key] for e in front if e.key in results.adapters]
    unverified = [a.path for a in adapters if not a.verified]
    whole = any((results.folder / a.path / "config.json").is_file() for a in adapters)
    what = "model" if whole else "adapter"
    title = f"Do the exported {what}s give the recorded numbers?"
    if unverified:
        yield Check(
            title,
            "warning",
            f"{len(unverified)} of {plural(len(adapters), f'exported {what}')} "
            f"{'was' if len(unverified) == 1 else 'were'} not reloaded and scored again, for example {unverified[0]}.",
        )
    elif adapters:
        yield Check(title, "good", f"Yes: {plural(len(adapters), what)}, reloaded and scored again.")


def report_rows(results: SweepRecords, front: Sequence[Evaluation]) -> Iterator[Check]:
    """Retain-report, which nothing optimised, against retain-select, which everything did."""
    by_metric: dict[str, list[tuple[HeldOut, Evaluation]]] = {}
    for e in front:
        for h in held_out(results, e):
            by_metric.setdefault(h.metric, []).append((h, e))
    for metric, found in by_metric.items():
        points = plural(len(found), "exported point")
        by_target: dict[float | None, list[bool]] = {}
        for h, e in found:
            if h.breaks is not None:
                by_target.setdefault(target_of(results, e), []).append(h.breaks)
        for target, breaks in sorted(by_target.items(), key=lambda one: -(one[0] or 0)):
            broken, kept = sum(breaks), len(breaks) - sum(breaks)
            verdict: Verdict = "problem" if kept < broken else "warning" if broken else "good"
            what, whose = f"limit of {metric}", ""
            if target is not None:
                what, whose = f"target of {percent(target)} of {metric}", " with this target"
            yield Check(
                f"Does the {what} hold on retain-report?",
                verdict,
                f"It holds for {kept} of {plural(len(breaks), 'exported point')}{whose}."
                + (
                    " These are the same weights on other rows: prefer points that keep the limit on both sets."
                    if broken
                    else ""
                ),
            )
        gaps = [(h.gap, h, e) for h, e in found if math.isfinite(h.gap)]
        if gaps:
            worst, h, e = max(gaps, key=lambda g: abs(g[0]))
            apart = sum(abs(g[0]) > 2 for g in gaps)
            yield Check(
                f"Does {h.twin} agree with {metric}?",
                "warning" if apart else "good",
                f"{'No' if apart else 'Yes'}: for {apart} of {points} the two sets differ by more than two standard "
                f"errors. {'The largest gap' if apart else 'Even the largest gap is small'}: trial {e.trial_id} at "
                f"step {e.step} keeps {h.report:.1%} on retain-report against {h.select:.1%} on retain-select "
                f"({abs(worst):.1f} standard errors).",
            )
