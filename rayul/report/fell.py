"""Where the trials ended up: what each lost of what it was to forget, and of what it was to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rayul.pareto.front import keeps_all
from rayul.records import RUNNING, Evaluation
from rayul.records.folder import SweepRecords
from rayul.report.axes import axes
from rayul.report.importance import explained, grouped, last_of
from rayul.spec import is_forgetting
from rayul.words import plural

NEITHER, ONLY, PART, BOTH = "little of either", "only what was to be forgotten", "some of both", "most of both"
ZONES = (NEITHER, ONLY, PART, BOTH)

ADVICE = {
    NEITHER: "higher learning rate, more steps, less retain weight",
    ONLY: "this is what is wanted",
    PART: "a lower learning rate with more evaluations, or mixing",
    BOTH: "lower learning rate, fewer steps, more retain weight",
}
SCALED = dict.fromkeys((PART, BOTH), "nothing: mixing scales these back")
"""In place of the same where mixing is on."""

LITTLE, MOST = 0.2, 0.5
"""Shares of the baseline: what lost less than the first has lost little, what lost half has lost most."""

MIN_PARTED = 12
"""Trials below which nothing is said of the setting that parts them."""


@dataclass(frozen=True)
class Fell:
    """zones: the trials by zone, as each was at its last evaluation (before any mixing). parts: the setting that
    parts gentle from destructive trials most, and the share of their ranks that it explains; "" where none does."""

    zones: Mapping[str, list[str]]
    parts: str
    share: float
    typical: Mapping[str, str]
    """By zone the value of that setting that is typical there."""
    mixed: bool
    """Whether adapters were scaled back, so that what was lost is not lost for good."""

    @property
    def advice(self) -> Mapping[str, str]:
        """By zone, what to change."""
        return ADVICE | SCALED if self.mixed else ADVICE

    @property
    def total(self) -> int:
        return sum(map(len, self.zones.values()))


def fell(results: SweepRecords) -> Fell | None:
    """None without a forget and a utility metric, or before a trial has ended with an evaluation."""
    chosen = axes(results)
    if chosen is None or not is_forgetting(chosen[0].metric) or is_forgetting(chosen[1].metric):
        return None
    x, y = chosen
    ended = {t: last for t, e in results.endings.items() if e.state != RUNNING and (last := last_of(results.trials[t]))}
    lost = {t: (float(x.of([e])[0]), 1 - float(y.of([e])[0])) for t, e in ended.items() if e.step > 0}
    lost = {t: pair for t, pair in lost.items() if all(map(math.isfinite, pair))}
    if not lost:
        return None
    zones: dict[str, list[str]] = {zone: [] for zone in ZONES}
    for trial, (forget, utility) in lost.items():
        zones[_zone(results, ended[trial], forget, utility)].append(trial)
    name, share = _parting(results, {trial: sum(pair) for trial, pair in lost.items()})
    typical = {} if not name else {z: _typical(results, trials, name) for z, trials in zones.items() if trials}
    return Fell(zones, name, share, typical, any(e.mixing != 1 for rows in results.trials.values() for e in rows))


def _zone(results: SweepRecords, e: Evaluation, forget: float, utility: float) -> str:
    kept = keeps_all(results.limits, e, results.baseline) if results.limits else utility < 1 - 0.9
    if forget < LITTLE and kept:
        return NEITHER
    if forget >= MOST and utility >= MOST:
        return BOTH
    return ONLY if kept else PART


def _parting(results: SweepRecords, strength: Mapping[str, float]) -> tuple[str, float]:
    """The setting that explains most of the ranks of what trials lost in all, beyond what chance explains."""
    best = ("", 0.0)
    names = dict.fromkeys([*results.space, *(n for t in strength for n in results.endings[t].params)])
    for name in names:
        having = [t for t in strength if name in results.endings[t].params]
        if len(having) < MIN_PARTED:
            continue
        groups, _ = grouped([results.endings[t].params[name] for t in having])
        if not 1 < groups.max() + 1 < len(having):
            continue
        ranks = np.argsort(np.argsort([strength[t] for t in having])).astype(float)
        draw = np.random.default_rng(0).permuted(np.tile(ranks, (200, 1)), axis=1)
        share = float(explained(groups, ranks[None], np.ones((1, len(having))))[0])
        chance = float(np.quantile(explained(groups, draw, np.ones((1, len(having)))), 0.95))
        if share > max(chance, best[1]):
            best = (name, share)
    return best


def _typical(results: SweepRecords, trials: list[str], name: str) -> str:
    values = [results.endings[t].params[name] for t in trials if name in results.endings[t].params]
    if not values:
        return "–"
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return f"{float(np.median(values)):.3g}"
    return str(max(dict.fromkeys(values), key=values.count))


MORE, LESS = (
    "search higher learning rates, more steps or less retain weight",
    "search lower learning rates, fewer steps or more retain weight",
)
DID = {
    NEITHER: f"hardly forgot anything: {MORE}",
    ONLY: "forgot what they were to forget and kept what they were to keep",
    PART: "lost some of what they were to keep: search lower learning rates with more evaluations, or mixing",
    BOTH: f"forgot, but lost most of what they were to keep too: {LESS}",
}
"""What the trials of a zone did, and what to change."""
BEFORE_MIXING = {
    PART: "lost some of what they were to keep, before mixing scaled them back",
    BOTH: "forgot, but lost most of what they were to keep too, before mixing scaled them back",
}
"""In place of the same where mixing is on: the best points may come from them."""


def fell_line(found: Fell) -> str:
    """In one sentence: the zone that most trials fell into, and what to do about it."""
    zone = max(ZONES, key=lambda one: len(found.zones[one]))
    did = BEFORE_MIXING.get(zone, DID[zone]) if found.mixed else DID[zone]
    return f"{len(found.zones[zone])} of {plural(found.total, 'ended trial')} {did}."


def fell_lines(found: Fell | None) -> list[str]:
    """In sentences: how many trials fell where, what parts them, and what to change where most fell to one side."""
    if found is None:
        return []
    n = {zone: len(trials) for zone, trials in found.zones.items()}
    lines = [
        f"Of {plural(found.total, 'ended trial')}, {n[BOTH]} lost most of both, what was to be forgotten and what was "
        f"to be kept; {n[NEITHER]} lost little of either, {n[PART]} part of both or utility alone, and {n[ONLY]} only "
        "what was to be forgotten."
    ]
    if found.parts:
        told = "; ".join(f"{value} ({zone})" for zone, value in found.typical.items())
        lines.append(f"{found.parts} separates them most ({found.share:.0%} of the ranks): typically {told}.")
    if n[BOTH] > found.total / 2 and not found.mixed:
        lines.append(f"Most trials over-forget: {LESS}.")
    elif n[NEITHER] > found.total / 2:
        lines.append(f"Most trials hardly change anything: {MORE}.")
    return lines
