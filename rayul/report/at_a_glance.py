"""The answer's point at a glance: what of whom still comes back, what is kept, what no limit protected, what attacks
bring back, and where its weights are."""

from __future__ import annotations

import math

from rayul.pareto.held_out import held_out
from rayul.records import Evaluation, adapter_name
from rayul.records.certificate import CERTIFIED
from rayul.records.folder import SweepRecords
from rayul.report.attacked import attacked_lines
from rayul.report.axes import axes
from rayul.report.certified import Certified, bound, certificate_of, earlier_requests, told_groups, value
from rayul.report.evidence import in_groups
from rayul.report.gone import ES
from rayul.report.recalled import Change, Recalled, RecalledSet, recalled_lines
from rayul.report.several_seeds import other_seeds
from rayul.report.side_effects import answer_point, side_effects
from rayul.report.summary import Summary
from rayul.report.verdict_of import audited
from rayul.words import percent, plural

Fact = tuple[str, list[str]]

UNEVEN = 0.2
"""Difference of es between the groups with most and least left from which an average over them hides something."""


def at_a_glance(results: SweepRecords, summary: Summary) -> list[Fact]:
    """(what, in sentences), without what nothing is known of; empty where there is no point to speak of."""
    e = answer_point(results, summary.best)
    if e is None:
        return []
    proven = certificate_of(results, e)
    known = next((one for one in summary.recalled if one.e.key == e.key), None)
    facts: list[Fact] = [
        ("Still comes back", [*_left(known), *_floor(results)]),
        ("Earlier requests", earlier_requests(results, e)),
        ("Other seeds", other_seeds(results, e)),
        ("Kept", [*_kept(results, e, proven), *_whom(known)]),
        ("Damaged" if any(one.lost for one in side_effects(results, e)) else "Unprotected", _others(results, e, known)),
        ("Under attack", _attacks(results, e, proven)),
        ("Its weights", _weights(results, e, proven)),
    ]
    return [(what, lines) for what, lines in facts if lines]


def _left(known: Recalled | None) -> list[str]:
    found = _set_of(known, "forget")
    if known is None or found is None:
        return []
    lines = recalled_lines(Recalled(known.what, known.e, [found], ()))
    groups = found.groups
    if len(groups) > 1 and groups[0].es_after - groups[-1].es_after > UNEVEN:
        most = " and ".join(map(_extractable, groups[:2] if len(groups) > 3 else groups[:1]))
        lines.append(f"Uneven: of {most} can still be extracted, of {_extractable(groups[-1])}.")
    return lines


def _floor(results: SweepRecords) -> list[str]:
    """What would come back of any model that never had the rows: answers follow patterns."""
    if results.oracle is None:
        return [
            "How much of these answers a model completes that never saw them is not known, since the spec names no "
            "oracle: what is left may be no more than that."
        ]
    share = results.oracle.metrics.get(ES, math.nan)
    return [f"A model that never saw the rows has a {ES} of {share:.2f}."] if math.isfinite(share) else []


def _whom(known: Recalled | None) -> list[str]:
    """Of the rows to keep that were read by group: how many come back word for word, and who lost most."""
    found = [one for name in ("retain", "retain_report") if (one := _set_of(known, name)) is not None]
    return [] if known is None else recalled_lines(Recalled(known.what, known.e, found, ()))


def _together(proven: Certified) -> str:
    """For how many points the confidence is."""
    tested = len(proven.reading.dials)
    return f", for all {tested} points that were tested on them" if tested > 1 else ""


def _extractable(group: Change) -> str:
    return f"{group.name} {percent(group.es_after)}"


def _set_of(known: Recalled | None, name: str) -> RecalledSet | None:
    return None if known is None else next((one for one in known.sets if one.set == name), None)


def _kept(results: SweepRecords, e: Evaluation, proven: Certified | None) -> list[str]:
    lines = []
    if proven is not None:
        lines += [
            f"{value(m, m.kept)} of {m.metric} on {told_groups(proven, m)} that nothing had read before "
            f"(certify rows); {bound(m)} at {100 * proven.confidence:g}% confidence{_together(proven)}."
            for m in proven.at.margins
        ]
    reported = held_out(results, e)
    lines += [
        f"{percent(h.report)} of {h.metric} on{_counted(results, h.twin)} that nothing was chosen by (report rows), "
        f"{percent(h.select)} on{_counted(results, h.metric)} that the search chose by (select rows)."
        for h in reported
    ]
    chosen = axes(results)
    if not reported and chosen is not None and math.isfinite(share := float(chosen[1].of([e])[0])):
        metric = chosen[1].metric
        lines.append(f"{percent(share)} of {metric} on{_counted(results, metric)} that the search chose by.")
    return lines


def _counted(results: SweepRecords, metric: str) -> str:
    name = metric.partition(".")[0]
    rows, groups = results.baseline.rows.get(name, 0), results.baseline.groups.get(name, 0)
    return f" {in_groups(rows, groups)}" if rows else " rows"


def _others(results: SweepRecords, e: Evaluation, known: Recalled | None) -> list[str]:
    lines = []
    for one in side_effects(results, e):
        found = _set_of(known, one.metric.partition(".")[0])
        counted = [] if found is None else recalled_lines(Recalled("", e, [found], ()))
        lines.append(" ".join([f"{percent(one.kept)} of {one.metric} is left; no limit protects it.", *counted]))
    return lines


def _attacks(results: SweepRecords, e: Evaluation, proven: Certified | None) -> list[str]:
    if proven is not None:
        return attacked_lines(results)
    if audit := audited(results, e):
        return [f"In the audit of its settings: {audit[1]}."]
    return [f"Not tried. `rayul audit {results.folder}` attacks fresh runs of its settings."]


def _weights(results: SweepRecords, e: Evaluation, proven: Certified | None) -> list[str]:
    scaled = f" at {e.mixing:.0%} of its strength (mixing)" if e.mixing != 1 else ""
    what = f"Trial {e.trial_id} after {plural(e.step, 'step')}{scaled}"
    if proven is not None:
        place, command = f"{CERTIFIED}/{adapter_name(e)}", "--certified"
    elif e.key in results.adapters:
        place, command = results.adapters[e.key].path, f"--trial {e.trial_id} --step {e.step}"
    else:
        return [f"{what}; they were not saved."]
    return [
        f"{what}: {results.folder / place}. `rayul export {results.folder} {command}` scores them again and writes "
        "them with a model card."
    ]
