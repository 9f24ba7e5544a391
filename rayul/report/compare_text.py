"""A comparison in words and plain tables: the terminal's view, and the sentences of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rayul.pareto.front import forgotten
from rayul.records import Evaluation
from rayul.records.objectives import forget_objective
from rayul.report.audit_section import WORDS
from rayul.report.certified import Certified, kept_limits
from rayul.report.compare import Comparison, Level
from rayul.report.gone import heading_of
from rayul.report.leads import ADVISED, FEWEST, OverSeeds
from rayul.report.recalled import TITLES, as_asked
from rayul.words import measured, percent

FRONT_ROWS = 12
CELL = 22
"""Characters of a setting in the terminal; the page has it all."""

LEGEND = [
    "* ahead of the best of another recipe: the 95% t interval of the lead over the groups of rows is above 0",
    "~ ahead, but that interval holds 0",
]
NUMBERS = {FEWEST: "three", ADVISED: "five"}


def headline(c: Comparison) -> str:
    """The answer in one line: who is ahead by hypervolume, and whether that is more than the seeds differ."""
    volumes = [e.hypervolume for e in c.entries]
    if not any(volumes):
        return "None of the sweeps has found a solution."
    if len(c.recipes) == 1:
        return f"{len(c.entries)} seeds of one recipe: hypervolume {min(volumes):.3f} to {max(volumes):.3f}."
    if (lead := c.over_seeds) is not None and all(len(one.sweeps) > 1 for one in c.recipes):
        shown = f"{lead.means[0]:.3f} against {lead.means[1]:.3f} for {lead.second.label} (means of {_seeds_of(lead)})"
        if lead.clear:
            return f"{lead.first.label} has the best overall trade-off: hypervolume {shown}."
        why = (
            "but by no more than seeds differ" if lead.margin == lead.margin else "but these are too few seeds to tell"
        )
        return f"{lead.first.label} has the larger hypervolume, {shown}, {why}."
    first = max(range(len(volumes)), key=lambda i: volumes[i])
    others = [i for i in range(len(volumes)) if c.places[i][0] != c.places[first][0]]
    second = max(others, key=lambda i: volumes[i])
    if volumes[first] == volumes[second]:
        return "Equal hypervolume."
    return (
        f"{c.entries[first].label} has the best overall trade-off of these runs: hypervolume {volumes[first]:.3f}, "
        f"against {volumes[second]:.3f} for {c.entries[second].label}."
    )


def _seeds_of(lead: OverSeeds) -> str:
    first, second = lead.seeds
    return f"{first} and {second} seeds"


def _margin_of(lead: OverSeeds) -> str:
    """The difference of two recipes with its interval, where there are seeds enough for one."""
    return f"{lead.difference:.3f}" + (f" ± {lead.margin:.3f}" if lead.margin == lead.margin else "")


def _over_seeds(c: Comparison) -> list[str]:
    """What the sweeps say of their recipes, and not of these runs alone."""
    if len(c.recipes) == 1:
        return ["These are seeds of one recipe, so nothing is compared: a lead of one over another is luck."]
    lead = c.over_seeds
    if lead is None:
        single = [one.label for one in c.recipes if len(one.sweeps) == 1]
        which = f"{', '.join(single)} {'is' if len(single) == 1 else 'are each'}"
        which = "Each sweep is" if len(single) == len(c.recipes) else which
        return [
            f"{which} one seed: this compares runs, and says nothing of the recipes behind them. Run each with "
            f"{NUMBERS[ADVISED]} seeds (--set search.seed=1000 --name ...)."
        ]
    shown = f"Over seeds, {lead.first.label} is ahead of {lead.second.label} in hypervolume by {_margin_of(lead)}"
    if math.isnan(lead.margin):
        return [
            f"{shown}. {_seeds_of(lead)} are too few to say whether that is more than seeds differ: an interval takes "
            f"{NUMBERS[FEWEST]} of each. Run {NUMBERS[ADVISED]}."
        ]
    of_many = "" if len(c.pairs) == 1 else f", p {lead.corrected:.2g} after Holm's correction for {len(c.pairs)} pairs"
    verdict = "more" if lead.clear else "no more"
    return [f"{shown} (95% t interval over seeds{of_many}): {verdict} than seeds differ."]


def pairs_table(c: Comparison) -> list[list[str]]:
    """Head, and a row for each pair of recipes that have several seeds; empty for fewer than three such recipes, whose
    one pair has a sentence."""
    if len(c.pairs) < 2:
        return []
    head = ["ahead", "of", "seeds", "difference", "p", "after Holm", "more than seeds differ"]
    rows = []
    for one in c.pairs:
        p, corrected = (f"{p:.2g}" if p == p else "–" for p in (one.p, one.corrected))
        verdict = "too few seeds" if math.isnan(one.margin) else "yes" if one.clear else "no"
        seeds = " and ".join(map(str, one.seeds))
        rows.append([one.first.label, one.second.label, seeds, _margin_of(one), p, corrected, verdict])
    return [head, *rows]


PAIRS = (
    "difference of the mean hypervolumes, each with its own 95% t interval (Welch); p of that t test, and p after "
    "Holm's correction for all pairs"
)


def sentences(c: Comparison) -> list[str]:
    """What the headline does not say: where who is ahead, how far the seeds differ, and what all are measured by."""
    said = [*_at_targets(c), *_spells(c), *_over_seeds(c)]
    for group in c.seeds if len(c.recipes) > 1 else ():
        volumes = sorted(c.entries[i].hypervolume for i in group)
        names = ", ".join(c.entries[i].label for i in group)
        median = f", median {float(np.median(volumes)):.3f}" if len(group) >= FEWEST else ""
        said.append(
            f"{names} are {len(group)} seeds of one recipe: hypervolume {volumes[0]:.3f} to {volumes[-1]:.3f}{median}. "
            "A lead smaller than that range may be luck."
        )
    limits = ", ".join(map(str, c.common.limits))
    said.append(
        f"Hypervolume is on {' and '.join(c.objectives)} as fractions of {c.entries[0].label}'s baseline"
        + (f", within {limits}" if limits else ", without any limit on utility")
        + "; 1 is the ideal."
    )
    return said


def _at_targets(c: Comparison) -> list[str]:
    """The verdict at each utility target, a sentence each."""
    said = []
    for one in c.targets if len(c.recipes) > 1 else ():
        if one.winner is None:
            said.append(f"With {100 * one.share:g}% kept, the first are equal: {percent(max(known(one.forgotten)))}.")
            continue
        ahead = c.entries[one.winner].label
        recipe = c.places[one.winner][0]
        others = {
            c.entries[i].label: gone
            for i, gone in enumerate(one.forgotten)
            if c.places[i][0] != recipe and not math.isnan(gone)
        }
        shown = f"{percent(one.forgotten[one.winner])} {heading_of(forget_objective(c.objectives))}"
        verdict = f"only {ahead} has a point: {shown}"
        if others:
            second = max(others, key=lambda label: others[label])
            verdict = f"{ahead} forgets most: {shown}, against {percent(others[second])} for {second}"
            verdict += "" if one.clear else "; on these groups that may be chance"
        said.append(f"With {100 * one.share:g}% kept, {verdict}.")
    return said


def known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _spells(c: Comparison) -> list[str]:
    """Runs of neighbouring levels with one verdict, a sentence each."""
    runs: list[tuple[str, list[float]]] = []
    for level in c.levels if len(c.recipes) > 1 else ():
        label = "" if level.winner is None else c.entries[level.winner].label
        verdict = f"only {label} gets there" if level.is_reached_by_one else f"{label} keeps most utility"
        verdict += "" if level.clear else ", by no more than chance on these groups"
        verdict = verdict if label else "the first keep equal utility"
        if runs and runs[-1][0] == verdict:
            runs[-1][1].append(level.forgotten)
        else:
            runs.append((verdict, [level.forgotten]))
    return [
        f"At {levels[0]:.0%}{f' to {levels[-1]:.0%}' if len(levels) > 1 else ''} forgotten {verdict}."
        for verdict, levels in runs
    ]


def recalled_table(c: Comparison) -> list[list[str]]:
    """Head, and per sweep and point how many rows of each set come back word for word, and the worst group, by
    number unless its sweep was asked for samples; empty where nothing was measured by group."""
    shown = [(e.label, as_asked(one)) for e in c.entries for one in e.recalled]
    names = dict.fromkeys(found.set for _, one in shown for found in one.sets)
    head = ["sweep", "point", *(TITLES.get(name, name) for name in names), "most left of"]
    rows = []
    for label, one in shown:
        by_set = {found.set: found for found in one.sets}
        worst = by_set["forget"].worst if "forget" in by_set else None
        cells = [f"{by_set[n].whole.verbatim_after} of {by_set[n].whole.rows}" if n in by_set else "–" for n in names]
        left = "–" if worst is None else f"{worst.name}: {worst.verbatim_after} of {worst.rows}"
        rows.append([label, f"{one.what} ({one.e.trial_id})", *cells, left])
    return [head, *rows] if rows else []


def checked_table(c: Comparison) -> list[list[str]]:
    """Head, and per sweep and point what the search read, and what rows that it did not read, a certificate and an
    audit say of it, by the sweep's own limits; empty where no sweep has a point."""
    if c.axes is None:
        return []
    kept = c.axes[1].metric
    head = ["sweep", "point", "trial", heading_of(forget_objective(c.objectives)), f"{kept} kept"]
    head += ["on unread rows", "certificate", "audit"]
    rows = []
    for entry in c.entries:
        for one in entry.checked:
            there = percent(one.report) + (" (breaks the limit)" if one.breaks else "")
            proof = "–" if one.certified is None else _proof(one.certified)
            where = f"{one.e.trial_id} at step {one.e.step}"
            verdict = "–" if one.audit is None else WORDS[one.audit]
            cells = [percent(one.forgotten), percent(one.select), there, proof, verdict]
            rows.append([entry.label, one.what, where, *cells])
    return [head, *rows] if rows else []


def _proof(one: Certified) -> str:
    return f"{kept_limits(one.at).removeprefix('keeps ')} ({100 * one.confidence:g}% confidence)"


def comparison_lines(c: Comparison) -> list[str]:
    """The comparison for a terminal or a log file."""
    lines = [headline(c), *sentences(c), *(f"note: {note}" for note in c.notes), ""]
    head = [
        "sweep",
        "trials",
        "pruned",
        "failed",
        "front",
        "non-dominated",
        heading_of(forget_objective(c.objectives)),
        "hypervolume",
    ]
    rows = []
    for e in c.entries:
        states = e.results.states
        counts = [len(e.results.trials), states["pruned"], states["failed"], len(e.front), len(e.non_dominated)]
        rows.append([e.label, *map(str, counts), percent(e.best), f"{e.hypervolume:.4f}"])
    lines += aligned([head, *rows])
    if table := pairs_table(c):
        lines += ["", PAIRS, *aligned(table, left=True)]
    if c.levels and c.axes is not None:
        lines += ["", f"{c.axes[1].title}, at least this much forgotten"]
        lines += LEGEND if len(c.recipes) > 1 else ["no marks: these are seeds of one recipe"]
        lines += (
            ["no mark: others are as good, or no other gets that far"]
            if any(level.is_reached_by_one for level in c.levels)
            else []
        )
        head = ["sweep", *(f"{level.forgotten:.0%}" for level in c.levels)]
        lines += aligned([head, *([e.label, *(_mark(c, i, k) for k in c.levels)] for i, e in enumerate(c.entries))])
    if table := checked_table(c):
        title = "what is known beyond the rows of the search, by each sweep's own limits"
        lines += ["", title, *aligned(table, left=True)]
    if table := recalled_table(c):
        lines += ["", "rows that still come back word for word, by set", *aligned(table, left=True)]
    points = merged_front(c)
    if points:
        lines += [
            "",
            "the fronts together, most forgotten first (* non-dominated: no point of another sweep dominates it)",
        ]
        head = ["sweep", "trial", "step", heading_of(forget_objective(c.objectives)), *c.objectives]
        body = [
            [("* " if stays else "  ") + c.entries[i].label, e.trial_id, str(e.step), percent(gone)]
            + [measured(e, metric) for metric in c.objectives]
            for i, e, gone, stays in points[:FRONT_ROWS]
        ]
        lines += aligned([["  " + head[0], *head[1:]], *body])
        lines += [f"... and {len(points) - FRONT_ROWS} more on the page"] if len(points) > FRONT_ROWS else []
    if c.settings:
        lines += ["", "settings that differ"]
        rows = [[key, *(_clip(value) for value in values)] for key, values in c.settings]
        lines += aligned([["", *(e.label for e in c.entries)], *rows], left=True)
    return lines


def merged_front(c: Comparison) -> list[tuple[int, Evaluation, float, bool]]:
    """(sweep, point, fraction forgotten, non-dominated) of all fronts, most forgotten first."""
    found = []
    for i, e in enumerate(c.entries):
        gone = forgotten(e.front, c.baseline, c.objectives).tolist()
        found += [(i, p, fraction, p.key in e.non_dominated) for p, fraction in zip(e.front, gone, strict=True)]
    return sorted(found, key=lambda row: -row[2] if row[2] == row[2] else math.inf)


def aligned(rows: Sequence[Sequence[str]], left: bool = False) -> list[str]:
    """Columns under each other, the first to the left, the others to the right unless `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if left or not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _mark(c: Comparison, i: int, level: Level) -> str:
    if math.isnan(level.kept[i]):
        return "– "
    if level.is_reached_by_one:
        return f"{level.kept[i]:.1%} "
    ahead = ("*" if level.clear else "~") if level.winner == i else " "
    return f"{level.kept[i]:.1%}{ahead}"


def _clip(text: str) -> str:
    return text if len(text) <= CELL else text[: CELL - 1] + "…"
