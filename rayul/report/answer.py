"""The answer of a sweep in words: best forgetting within the limits, its cost, against what, and how sure."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rayul.pareto.front import forgotten
from rayul.pareto.held_out import held_out, keeps_there
from rayul.pareto.targets import limits_of
from rayul.records import FAILED, RUNNING, Ending, Evaluation, adapter_name
from rayul.records.folder import SweepRecords
from rayul.report.attacked import worst_of
from rayul.report.axes import Axis, axes
from rayul.report.certified import bound, certificate_of, certified, kept_on_new, told_groups, value
from rayul.report.evidence import evidence
from rayul.report.gone import ES, forgotten_metric, forgotten_share, gone, most_is_left
from rayul.report.heading import unfinished
from rayul.report.several_seeds import other_seeds
from rayul.report.side_effects import answer_point, side_effects
from rayul.report.summary import Summary
from rayul.report.verdict_of import VERDICTS, audited
from rayul.words import duration, measured, number, percent, plural


def by_rule(endings: Iterable[Ending]) -> list[list[Ending]]:
    """Endings by the rule that they end by, the most frequent first."""
    groups: dict[str, list[Ending]] = {}
    for ending in endings:
        groups.setdefault(ending.rule, []).append(ending)
    return sorted(groups.values(), key=len, reverse=True)


def headline(results: SweepRecords, summary: Summary) -> str:
    """The answer in one line: what is certified, where the certify rows have been read; with what an audit of the point
    found, and in front of it where the sweep is not over."""
    said = _found(results, summary)
    open_ = unfinished(results)
    audit = audited(results, answer_point(results, summary.best))
    if open_:
        said = f"{open_}. So far: {said[0].lower()}{said[1:]}"
    return said + (f" {VERDICTS[audit[0]]}." if audit else "")


def _found(results: SweepRecords, summary: Summary) -> str:
    if results.certificates.latest is not None:
        held = certified(results)
        if not held:
            return "Nothing is certified."
        best = held[0]
        known = math.isfinite(best.forgotten)
        worst = worst_of(results, adapter_name(best.e))
        returned = 0.0 if worst is None else min(worst.returned, 1.0)
        back = f", of which an attack brings back {returned:.0%}" if returned > 0 else ""
        found = f"{_share_gone(results, best.e, best.forgotten)}{back}. " if known else ""
        # Not "forgotten. Certified: keeps ...": readers took it for certified that it is forgotten.
        return f"{found}Certified is what it keeps: {kept_on_new(best).removeprefix('keeps ')}."
    if summary.best is None:
        if not any(summary.states.values()):
            return "No trial has been evaluated yet."
        if summary.states["failed"] == sum(summary.states.values()):
            return "Every trial failed."
        if summary.least_violating:
            return "Nothing was found within the limits."
        return "Nothing was forgotten yet."
    if not math.isfinite(summary.best_forgotten):
        return f"{plural(len(summary.front), 'setting')} on the front."
    found = _share_gone(results, summary.best, summary.best_forgotten)
    if any(h.breaks for h in held_out(results, summary.best)):
        return f"{found}, but the limit does not hold on unseen rows."
    limits = "within the limits" if summary.limits else "with no limit on utility"
    return f"{found} {limits}."


def _share_gone(results: SweepRecords, e: Evaluation, share: float) -> str:
    """ "54% forgotten"; of less than half: "Only 17% forgotten", or of a probe "facts_forget.rouge down only 17%"."""
    found = gone(results, e, share, 0)
    if not most_is_left(forgotten_share(results, e)):
        return found
    return f"Only {found}" if forgotten_metric(results) == ES else found.replace(" down ", " down only ")


def caution(results: SweepRecords, summary: Summary) -> list[str]:
    """What retain-report says against the best point; empty where its limits hold there, or nothing was measured, and
    where certificates take the place of that point."""
    if results.certificates.latest is not None:
        return []
    best = summary.best
    broken = [h for h in held_out(results, best) if h.breaks] if best else []
    if best is None or not broken:
        return []
    sentences = [
        f"On retain-report, rows that nothing was tuned on, trial {best.trial_id} keeps {percent(h.report)} of "
        f"{h.metric} against {percent(h.select)} on retain-select: the limit does not hold there."
        for h in broken
    ]
    sentences.append(
        "These are the same weights on other rows. The cause of the difference was not measured: believe the lower "
        "number."
    )
    shares = forgotten(summary.front, summary.baseline, summary.objectives)
    safe = [(f, e) for f, e in zip(shares.tolist(), summary.front, strict=True) if keeps_there(results, e)]
    if safe:
        fraction, e = max(safe, key=lambda pair: pair[0])
        sentences.append(
            f"The front's strongest point that keeps the limit on both sets is trial {e.trial_id} at step {e.step}, "
            f"with {gone(results, e, fraction)}."
        )
    else:
        sentences.append("No exported point of the front keeps the limit on both sets.")
    return sentences


def answer(results: SweepRecords, summary: Summary) -> list[str]:
    """The answer in sentences: what is certified, and what the search's best is, at which cost, against baseline and
    oracle, and how sure that is."""
    audit = audited(results, answer_point(results, summary.best))
    told = [f"The audit: {audit[1]}."] if audit else []
    return [*summary.certified, *told, *_searched(results, summary)]


def _searched(results: SweepRecords, summary: Summary) -> list[str]:
    best = summary.best
    if best is None:
        return _no_answer(results, summary)
    chosen = "Trial" if results.certificates.latest is None else "The search's own best on the select rows, trial"
    comma = "," if results.certificates.latest is not None and best.mixing == 1 else ""
    sentences = [
        f"{chosen} {best.trial_id} at step {best.step}{comma}"
        + (f", mixed at {best.mixing:g}," if best.mixing != 1 else "")
        + " brings "
        + " and ".join(
            f"{metric} from {number(results.baseline.metrics.get(metric))} to {measured(best, metric)}"
            for metric in results.objectives
        )
        + f", after {duration(best.train_seconds)} of training and evaluation."
    ]
    if not results.limits:
        sentences.append(
            "No limit was set: this point balances the objectives best, and others trade them differently."
        )
    for limit in (limit.fixed(results.baseline.metrics) for limit in limits_of(results, best)):
        value, error = best.metrics.get(limit.metric, math.nan), best.stderr.get(limit.metric, math.nan)
        margin = abs(value - limit.value)
        room = f"{margin:.2g}" + (f", or {margin / error:.1f} standard errors" if error > 0 else "")
        sentences.append(f"It clears the limit {limit} by {room}.")
    sentences += [
        f"On retain-report, rows that nothing was tuned on, it keeps {percent(h.report)} of {h.metric} against "
        f"{percent(h.select)} on retain-select."
        for h in held_out(results, best)
        if not h.breaks
    ]
    forget = summary.forget_metric
    if results.oracle is not None and forget in results.oracle.metrics:
        sentences.append(
            f"A model that never saw the forget set (the oracle) has {forget} {measured(results.oracle, forget)}; "
            f"before unlearning it is {measured(results.baseline, forget)}."
        )
    basis = evidence({name: n for name, n in best.rows.items() if f"{name}." in " ".join(best.metrics)}, best.groups)
    sentences += [f"Measured on {basis}."] if basis else []
    sentences += other_seeds(results, best) or [
        "It is one run with one seed: `rayul audit` repeats it over seeds, before you rely on it."
    ]
    return sentences


def _no_answer(results: SweepRecords, summary: Summary) -> list[str]:
    counted = f"{plural(results.trained, 'evaluation')} of {plural(len(results.trials), 'trial')}"
    failed = [e for e in results.endings.values() if e.state == FAILED]
    if failed and len(failed) == len(results.trials):
        return [
            f"{plural(len(failed), 'trial')}, and none ran to its end. The first: {failed[0].reason or 'no reason'}."
        ]
    if not results.trained:
        return ["The journal holds the reference models only."]
    if not summary.least_violating:
        return [f"{counted} kept the limits, and none of them forgot 5% or more." if results.limits else counted + "."]
    nearest = summary.least_violating[0]
    if nearest.total_violation == 0:
        return [f"Of {counted}, none that kept the limits forgot 5% or more: search stronger settings."]
    broken = ", ".join(
        f"{metric} {measured(nearest, metric)}" for metric, violation in nearest.violation.items() if not violation <= 0
    )
    return [
        f"None of {counted} kept every limit while forgetting 5% or more.",
        f"The nearest is trial {nearest.trial_id} at step {nearest.step}: it breaks the limits by "
        f"{nearest.total_violation:.3g} in total ({broken}).",
        "The table ranks the trials by total violation, the smallest first.",
    ]


def tiles(results: SweepRecords, summary: Summary) -> list[tuple[str, str, str, str]]:
    """(label, value, note, mark) of the few numbers worth a large font, about the answer's point; the mark "broken"
    where a limit is, "lost" where a tenth is gone of what has none."""
    cost = sum(e.train_seconds for e in results.endings.values())
    shown = [
        ("Trials", f"{len(results.trials):,}", states(results) or "none yet", ""),
        ("Evaluations", f"{results.trained:,}", f"{duration(cost)} of device time, summed over trials", ""),
        ("Front", f"{len(summary.front):,}", "non-dominated evaluations within the limits", ""),
        ("Hypervolume", f"{summary.hypervolume:.3f}", "of 1, higher is better", ""),
    ]
    chosen, point = axes(results), answer_point(results, summary.best)
    if point is None or chosen is None:
        return shown
    own = forgotten_share(results, point)
    error = float(chosen[0].error([point])[0])
    spread = f" ± {percent(error)} between groups" if math.isfinite(error) and own == own else ""
    note = f"1 − value / baseline{spread}"
    es = [(f"Forgotten: {forgotten_metric(results)}", percent(own), note, "")] if own == own else []
    return es + _kept(results, point, chosen[1]) + shown


def _kept(results: SweepRecords, point: Evaluation, kept: Axis) -> list[tuple[str, str, str, str]]:
    """Of the answer's point: on certify, report and select rows, and on sets that no limit protects."""
    found = []
    proven = certificate_of(results, point)
    for m in [] if proven is None else proven.at.margins:
        if m.metric == kept.metric and proven is not None:
            note = f"on {told_groups(proven, m)}; {bound(m)} at {100 * proven.confidence:g}% confidence"
            found.append((f"{kept.short}, certified: {m.metric}", value(m, m.kept), note, ""))
    for h in held_out(results, point):
        if h.metric == kept.metric:
            spread = f" ± {percent(h.report_error)}" if math.isfinite(h.report_error) else ""
            mark = "broken" if h.breaks else ""
            note = f"of the baseline{spread}, on rows that nothing was chosen by"
            found.append((f"{kept.short}: {h.twin}", percent(h.report), note, mark))
    share, error = float(kept.of([point])[0]), float(kept.error([point])[0])
    if math.isfinite(share):
        spread = f" ± {percent(error)}" if math.isfinite(error) else ""
        groups = results.baseline.groups.get(kept.metric.partition(".")[0], 0)
        counted = f", {plural(groups, 'group')}" if groups else ""
        note = f"of the baseline{spread}{counted}, on rows that the search chose by"
        found.append((f"{kept.short}: {kept.metric}", percent(share), note, ""))
    return found + [
        (f"Kept: {one.metric}", percent(one.kept), "of the baseline; no limit protects it", "lost" if one.lost else "")
        for one in side_effects(results, point)
    ]


def states(results: SweepRecords) -> str:
    """ "8 completed, 56 pruned"; trials that a stopped sweep cut off are not running."""
    going = results.manifest.runs[-1].ended is None if results.manifest.runs else True
    names = {RUNNING: RUNNING if going else "unfinished"}
    return ", ".join(f"{n:,} {names.get(state, state)}" for state, n in results.states.items() if n)
