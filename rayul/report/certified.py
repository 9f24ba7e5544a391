"""What is certified, in words: for the answer, the terminal, the status, the report and the card."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rayul.errors import InputError
from rayul.pareto.best import best_of
from rayul.pareto.certificate import ROUNDING, least_groups
from rayul.pareto.front import forgotten, front_of
from rayul.pareto.held_out import held_out
from rayul.pareto.power import Spread, needed_groups
from rayul.records import Evaluation, holds_model
from rayul.records.certificate import CERTIFIED, Dial, Margin, Reading, RowsRead, Walked, certified_folder
from rayul.records.folder import SweepRecords
from rayul.report.gone import gone
from rayul.spec import Limit
from rayul.words import percent, plural

EARLIER = "before_forget"
"""The rows of earlier requests, as `rayul init --after` names them."""


class Certified(NamedTuple):
    """A dial that passed, and its evaluation. forgotten: share of the baseline, NaN without a forget objective.
    gone: that in words."""

    reading: Reading
    dial: Dial
    e: Evaluation
    at: Walked
    forgotten: float
    gone: str

    @property
    def confidence(self) -> float:
        return 1 - self.reading.alpha


def certified(results: SweepRecords) -> list[Certified]:
    """Everything that holds a certificate, what forgot most first."""
    found = [
        Certified(reading, dial, e, at, share, gone(results, e, share))
        for reading, dial in results.certificates.certified
        if (e := dial.certified) is not None and (at := dial.last) is not None
        for share in forgotten([e], results.baseline, results.objectives).tolist()
    ]
    return sorted(found, key=lambda one: -one.forgotten if math.isfinite(one.forgotten) else math.inf)


def certificate_of(results: SweepRecords, e: Evaluation) -> Certified | None:
    """What is certified of an evaluation that a certificate holds; None of any other."""
    return next((one for one in certified(results) if one.e is e), None)


def best_certified(results: SweepRecords, tau: float | None = None) -> Evaluation:
    """The certified point that forgot most. tau: of several targets (control.tau), the one that it was certified for.
    Raises InputError where there is none, and says why."""
    found = certified(results)
    if found and tau is not None:
        targets = sorted({one.dial.target for one in found if one.dial.target is not None}, reverse=True)
        found = [one for one in found if one.dial.target is not None and math.isclose(one.dial.target, tau)]
        if not found:
            have = f"certified are {', '.join(f'{target:g}' for target in targets)}" if targets else "leave --tau out"
            raise InputError(f"{results.folder} has no point that is certified for tau {tau:g}", have)
    if not found:
        latest = results.certificates.latest
        none = f"{results.folder} has no certified point."
        if latest is None:
            raise InputError(f"{none} Its certify rows have not been read.", f"run `rayul certify {results.folder}`")
        raise InputError(f"{none} {' '.join(why_not(latest))}", "name a point of the front by --trial, --knee or --at")
    return found[0].e


def certified_path(results: SweepRecords, e: Evaluation) -> Path:
    """The folder of a certified adapter or model. Raises InputError where it is not there."""
    path = certified_folder(results.folder, e)
    if not holds_model(path):
        raise InputError(f"{path}: no adapter or model (the folder was copied without {CERTIFIED}/)", "copy it, too")
    return path


def kept_limits(at: Walked) -> str:
    """Of a coefficient, the limits that it keeps: "keeps at least 90% of retain.es"."""
    sides = [("at least" if m.at_least else "at most", m) for m in at.margins]
    return "keeps " + " and ".join(
        f"{side} {100 * m.at:g}% of {m.metric}" if m.relative else f"a {m.metric} of {side} {m.at:.3g}"
        for side, m in sides
    )


def kept_on_new(one: Certified) -> str:
    """The limits that a point keeps, and on new what: "keeps at least 90% of retain.es on new groups"."""
    margins = {rows: [m for m in one.at.margins if one.reading.of(m.metric) == rows] for rows in one.reading.read}
    return "keeps " + " and ".join(
        f"{kept_limits(replace(one.at, margins=tuple(own))).removeprefix('keeps ')} on new {certify_units(rows)}"
        for rows, own in margins.items()
        if own
    )


def certify_units(rows: RowsRead) -> str:
    """What a certificate speaks of: "groups", or of a probe "groups of the probe mmlu, by subject"."""
    if rows.searched == "retain":
        return rows.units
    return f"{rows.units} of the probe {rows.searched}" + (f", by {rows.by}" if rows.by else "")


def told_groups(one: Certified, of: Margin) -> str:
    """ "20 new groups": what a limit was tested on."""
    rows = one.reading.of(of.metric)
    return f"{rows.groups} new {certify_units(rows)}"


def sentence(one: Certified) -> str:
    """What is certified of a point, with which confidence, what its certify rows keep, and what it forgets."""
    groups = " and ".join(f"{rows.groups} {rows.units}" for rows in one.reading.read)
    together = " for all together" if len(one.reading.read) > 1 else ""
    kept = ", ".join(f"{value(m, m.kept)} of {m.metric}, {bound(m)}" for m in one.at.margins)
    return (
        f"certified: {kept_on_new(one)} ({100 * one.confidence:g}% confidence{together}, {groups}: {kept}); "
        f"{one.gone}, {place(one)}."
    )


def is_without_spread(one: Margin) -> bool:
    """Whether all certify groups keep the same, to rounding: the t test has nothing to bound the mean by."""
    return one.sd < ROUNDING


def bound(one: Margin) -> str:
    """ "at least 92.0%": the bound of what certify groups keep. Where all keep the same it would be that very number,
    which is no bound but a test without a spread."""
    if is_without_spread(one):
        return "the same in every group, so without a bound"
    return f"{'at least' if one.at_least else 'at most'} {value(one, one.low)}"


def assumption(one: Certified) -> str:
    """What the certificate assumes, and how far it goes without that."""
    said = "The t test behind it assumes that group means are close to normal"
    if one.dial.passed_free:
        scale = one.dial.scales[one.dial.passed_free - 1]
        return f"{said}; without that assumption, by an e-value, the limits are kept up to scale {scale:.2f}."
    if one.dial.walked[0].e_value is not None:
        return f"{said}; the e-value, which does not, passes at no scale."
    least = [least_groups(Limit(m.metric, m.at_least, m.at), one.reading.level) for m in one.at.margins]
    needed = max(least)
    if all(few <= one.reading.of(m.metric).groups for few, m in zip(least, one.at.margins, strict=True)):
        return f"{said}; the e-value, which does not, is for metrics in [0, 1]."
    if needed == math.inf:
        return f"{said}; no number of groups is enough for the e-value, which does not, at this limit."
    return f"{said}; the e-value, which does not, takes {needed:.0f} groups or more."


def equal_groups(one: Certified) -> list[str]:
    """What to know of limits that all groups clear by the same."""
    return [
        f"All groups keep the same {m.metric} there, so the t test has no spread to go by: it would not notice that "
        "one group in many is broken."
        for m in one.at.margins
        if is_without_spread(m)
    ]


def place(one: Certified) -> str:
    return f"scale {one.at.scale:.2f} of trial {one.e.trial_id} at step {one.e.step}"


def certified_lines(results: SweepRecords) -> list[str]:
    """The certificates in sentences, the best first; where nothing passed: that, why, and what would help."""
    found = certified(results)
    latest = results.certificates.latest
    if latest is None:
        return []
    if not found:
        return ["Nothing is certified.", *why_not(latest)]
    best, *others = found
    lines = [sentence(best)[:1].upper() + sentence(best)[1:], *searched(results, best)]
    lines[1:1] = [*on_report_rows(results, best), assumption(best), *equal_groups(best)]
    alike = [one for one in others if (one.reading, kept_limits(one.at)) == (best.reading, kept_limits(best.at))]
    if alike:
        points = "; ".join(f"{one.gone}, {place(one)}" for one in alike)
        lines.append(f"Certified for the same limits: {points}.")
    lines += [f"Also {sentence(one)}" for one in others if one not in alike]
    if best.reading.earlier:
        lines.append(f"It follows on {plural(len(best.reading.earlier), 'certified request')} before it.")
        lines += earlier_requests(results, best.e)
    failed = [dial for dial in latest.dials if dial.certified is None]
    if failed:
        names = ", ".join(
            f"{dial.trial_id} at step {dial.step}" + (f" for {percent(dial.target)} kept" if dial.target else "")
            for dial in failed
        )
        lines.append(f"Not certified at any scale: {names}.")
    return lines


def earlier_requests(results: SweepRecords, e: Evaluation) -> list[str]:
    """What became of the rows of earlier requests, which a further one may bring back: before this one, and now."""
    now, before = results.with_report(e).metrics, results.baseline.metrics
    known = [key for key in (f"{EARLIER}.es", f"{EARLIER}.prob") if key in now and key in before]
    if not known:
        return []
    moved = ", ".join(f"{key} was {before[key]:.3f} before this request and is {now[key]:.3f}" for key in known)
    back = any(now[key] > before[key] for key in known)
    return [f"Of the rows of earlier requests {'some comes back' if back else 'nothing comes back'}: {moved}."]


def on_report_rows(results: SweepRecords, one: Certified) -> list[str]:
    """Where the report rows of a certified point break its limit: two samples of groups that differ."""
    return [
        f"On the report rows the same weights keep {percent(h.report)}"
        + (f" ± {percent(h.report_error)}" if math.isfinite(h.report_error) else "")
        + f" of {h.metric}, beyond the limit: a certificate is about the average over all such groups, and of its "
        "samples either may be the lucky one."
        for h in held_out(results, one.e)
        if h.breaks
    ]


def searched(results: SweepRecords, told: Certified) -> list[str]:
    """What the search's own best read on the select rows, and what is known of it on rows that it did not read.
    told: the certified point that the lines before are about."""
    best = best_of(front_of(results), results)
    if best is None:
        return []
    found = gone(results, best, float(forgotten([best], results.baseline, results.objectives)[0]))
    lines = []
    for h in held_out(results, best)[:1]:
        holds = "" if h.breaks is None else ", and does not hold" if h.breaks else ", and holds so far"
        same = told.e.key == best.key
        lines.append(
            f"The search's own best point{', the same weights,' if same else ''} shows {found} at "
            f"{percent(h.select)} of {h.metric} on the select rows{holds}: {percent(h.report)} on the report rows."
        )
    return lines


def why_not(reading: Reading) -> list[str]:
    """Why a reading certified nothing: the first coefficient of its best dial, the spread and the number of groups."""
    first = [dial.walked[0] for dial in reading.dials if dial.walked and dial.walked[0].margins]
    if not first:
        return []
    nearest = min(first, key=lambda at: at.p_value)
    lines = []
    for m in nearest.margins:
        lines.append(
            f"Even at scale {nearest.scale:.2f} the bound of {m.metric} on {reading.of(m.metric).groups} certify "
            f"{reading.of(m.metric).units} is "
            f"{value(m, m.low)}, and the limit is {value(m, m.at)}: the groups' mean is "
            f"{value(m, m.kept)} with a spread (sd) of {m.sd:.2g}."
        )
        if m.relative and m.at_least and m.at < m.kept < 1:
            enough = needed_groups(m.kept, m.at, reading.level, Spread(m.sd, m.kept))
            lines.append(f"With the same mean and spread, {plural(enough, 'group')} pass four times in five.")
    lines.append("What helps: more certify groups, a lower limit, or a search for points that keep more.")
    return lines


def value(one: Margin, number: float) -> str:
    """A number on the scale of a margin's limit."""
    return percent(number) if one.relative else f"{number:.3g}"
