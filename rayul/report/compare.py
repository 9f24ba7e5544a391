"""Several sweeps on one scale: their fronts under the same limits, who is ahead where, what they did differently."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from rayul.errors import InputError
from rayul.pareto.best import best_of
from rayul.pareto.front import forgotten, front, non_dominated, values
from rayul.pareto.hypervolume import hypervolume_history
from rayul.pareto.targets import best_at_targets
from rayul.records import SPEC, Evaluation, Key
from rayul.records.folder import SweepRecords, load_records
from rayul.records.objectives import Floats, Objectives
from rayul.report.axes import Axis, axes
from rayul.report.checked import Checked, checked
from rayul.report.common_ground import common_limits, common_objectives, compare_baselines, each, labels
from rayul.report.draws import draws_told
from rayul.report.leads import OverSeeds, Repeats, margin_over_groups, pairs_over_seeds, recipes
from rayul.report.recalled import Recalled, recalled
from rayul.report.settings import same_but_for_seed, settings_that_differ
from rayul.spec import Limit, Spec, is_forgetting, load_spec
from rayul.words import plural

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Fractions forgotten at which the utility that is left is compared."""


@dataclass(frozen=True)
class Entry:
    """One sweep of a comparison, on the common objectives, limits and baseline.

    judged: its evaluations, infeasible where they break a common limit. non_dominated: the points of its front that
    no point of another sweep dominates. best: the largest fraction forgotten on its front, NaN without one. recalled:
    what its best certified point, and its best point, still recall. checked: what unread rows, its certificates and its
    audit say, by its own limits.
    """

    label: str
    results: SweepRecords
    spec: Spec
    judged: list[Evaluation]
    front: list[Evaluation]
    non_dominated: frozenset[Key]
    best: float
    history: list[tuple[int, float]]
    recalled: list[Recalled]
    checked: list[Checked]

    @property
    def hypervolume(self) -> float:
        return self.history[-1][1]


@dataclass(frozen=True)
class Level:
    """The best utility that each sweep keeps while forgetting at least `forgotten`; NaN where its front does not get
    that far. winner: the number of the best, None where another recipe equals it, or there is no other; clear: whether
    the 95% t interval of its lead over the best of another recipe, over the groups of rows, lies above zero
    (`margin_over_groups`; the spread of seeds is no part of that), or no other gets that far. is_reached_by_one: so."""

    forgotten: float
    kept: list[float]
    winner: int | None
    clear: bool
    is_reached_by_one: bool


@dataclass(frozen=True)
class AtTarget:
    """The largest fraction that each sweep forgets while keeping `share` of its baseline's utility by its own limits;
    NaN where no point does. winner, clear, is_reached_by_one: as of a `Level`."""

    share: float
    forgotten: list[float]
    winner: int | None
    clear: bool
    is_reached_by_one: bool


@dataclass(frozen=True)
class Comparison:
    """common: the first sweep's results with the objectives, limits and baseline that all are measured by. notes: what
    is not the same everywhere, and what was done about it. seeds: numbers of the sweeps that are runs of one spec."""

    common: SweepRecords
    entries: list[Entry]
    notes: list[str]
    seeds: list[list[int]]

    @property
    def objectives(self) -> Objectives:
        return self.common.objectives

    @property
    def baseline(self) -> Evaluation:
        return self.common.baseline

    @cached_property
    def axes(self) -> tuple[Axis, Axis] | None:
        return axes(self.common)

    @cached_property
    def coverage(self) -> Floats:
        """[k, k]: the share of the column's front that some point of the row's front dominates or equals
        (the C metric of Zitzler and Thiele 1999); NaN for an empty column."""
        points = [_upwards(e.front, self.objectives) for e in self.entries]
        table = np.full((len(points), len(points)), np.nan)
        for i, ours in enumerate(points):
            for j, theirs in enumerate(points):
                if len(theirs):
                    covered = (ours[:, None, :] >= theirs[None, :, :]).all(axis=2)
                    table[i, j] = covered.any(axis=0).mean()
        return table

    @cached_property
    def levels(self) -> list[Level]:
        """Who keeps the most utility at which forgetting, as far as any gets; empty without a forget axis."""
        if self.axes is None or not is_forgetting(self.axes[0].metric):
            return []
        x, y = self.axes
        reached = [(x.of(e.front), y.of(e.front), e.front) for e in self.entries]
        found = []
        for level in LEVELS:
            best: list[Evaluation | None] = []
            for gone, utility, points in reached:
                inside = np.flatnonzero(gone >= level)
                best.append(points[inside[np.argmax(utility[inside])]] if inside.size else None)
            if ahead := _ahead(y, best, self.recipes):
                found.append(Level(level, *ahead))
        return found

    @cached_property
    def targets(self) -> list[AtTarget]:
        """Who forgets most at each utility target (control.tau) that all sweeps have, the largest first; empty without
        a forget axis, and where a sweep has no list of targets."""
        if self.axes is None or not is_forgetting(self.axes[0].metric):
            return []
        x = self.axes[0]
        best = [{one.share: one.best for one in best_at_targets(e.results)} for e in self.entries]
        shared = (share for share in best[0] if all(share in one for one in best))
        verdicts = ((share, _ahead(x, [one[share] for one in best], self.recipes)) for share in shared)
        return [AtTarget(share, *ahead) for share, ahead in verdicts if ahead]

    @cached_property
    def recipes(self) -> list[Repeats]:
        return recipes([e.label for e in self.entries], self.seeds)

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Of each sweep the number of its recipe, and its own among that recipe's seeds."""
        found = {i: (r, n) for r, one in enumerate(self.recipes) for n, i in enumerate(one.sweeps)}
        return [found[i] for i in range(len(self.entries))]

    @cached_property
    def pairs(self) -> list[OverSeeds]:
        """The recipes that have several seeds against each other, by mean hypervolume."""
        return pairs_over_seeds(self.recipes, [e.hypervolume for e in self.entries])

    @property
    def over_seeds(self) -> OverSeeds | None:
        """The recipe of the largest mean hypervolume against the second, where two have several seeds."""
        return self.pairs[0] if self.pairs else None

    @cached_property
    def settings(self) -> list[tuple[str, list[str]]]:
        """(key, its value in each sweep) of every setting that is not the same in all specs; "–" where absent, which
        counts as the default."""
        return settings_that_differ([e.spec for e in self.entries])


def _ahead(
    axis: Axis, points: Sequence[Evaluation | None], recipes: Sequence[Repeats]
) -> tuple[list[float], int | None, bool, bool] | None:
    """The place of each point on the axis (NaN for none), the number of the largest (None where another recipe equals
    it), whether it is clearly ahead of the best of another recipe, and whether no other recipe has a point; None where
    there is no point."""
    places = [math.nan if e is None else float(axis.of([e])[0]) for e in points]
    reached = [[i for i in one.sweeps if not math.isnan(places[i])] for one in recipes]
    best = [max(found, key=lambda i: places[i]) for found in reached if found]
    order = sorted(best, key=lambda i: -places[i])
    if not order:
        return None
    if len(recipes) == 1:
        return places, None, False, False
    if len(order) == 1:
        return places, order[0], True, True
    first, second = (points[i] for i in order[:2])
    lead = places[order[0]] - places[order[1]]
    if math.isclose(lead, 0, abs_tol=1e-9):
        return places, None, False, False
    assert first is not None
    assert second is not None
    return places, order[0], lead > margin_over_groups(axis, first, second), False


def load_comparison(folders: Sequence[Path]) -> Comparison:
    """Read the folders and compare them. Raises what `load_records` and `compare` raise, and InputError for a folder
    that is named twice."""
    sweeps = [load_records(folder) for folder in folders]
    specs = [load_spec(folder / SPEC, check_files=False) for folder in folders]
    for i, folder in enumerate(folders):
        if any(folder.resolve() == other.resolve() for other in folders[:i]):
            raise InputError(f"{folder} is named twice", "name each sweep once; seeds are sweeps of their own")
    return compare(sweeps, specs)


def compare(sweeps: Sequence[SweepRecords], specs: Sequence[Spec]) -> Comparison:
    """Put sweeps on one scale: the objectives that all have, the tighter of their limits, the first one's baseline.

    Raises InputError for fewer than two sweeps and for sweeps without a common objective.
    """
    if len(sweeps) < 2:
        raise InputError("one sweep cannot be compared", "give two results folders or more")
    notes: list[str] = []
    first = sweeps[0]
    names = labels(sweeps)
    objectives = common_objectives(sweeps, names, notes)
    limits = common_limits(sweeps, names, notes)
    common = replace(
        first,
        objectives=objectives,
        limits=limits,
        limit_values={limit.metric: limit.value for limit in limits},
        targets=(),  # of one sweep: each is judged by its own in `checked`
    )
    compare_baselines(sweeps, names, [*objectives, *common.limit_values], notes)
    judged = [[_judged(e, limits) for e in sweep.evaluations] for sweep in sweeps]
    fronts = [front(rows, common.baseline, objectives) for rows in judged]
    placed = values([e for points in fronts for e in points], objectives)
    best = set(map(tuple, placed[non_dominated(placed, list(objectives.values()))].tolist()))
    # Of equal points `non_dominated` keeps one, and neither dominates the other.
    undominated = np.array([tuple(place) in best for place in placed.tolist()], dtype=bool)
    joint = np.split(undominated, np.cumsum([len(points) for points in fronts])[:-1])
    shown = axes(common)
    entries = [
        Entry(
            label=label,
            results=sweep,
            spec=spec,
            judged=rows,
            front=points,
            non_dominated=frozenset(e.key for e, kept in zip(points, mask, strict=True) if kept),
            best=float(forgotten(points, common.baseline, objectives).max()) if points else np.nan,
            history=hypervolume_history(rows, common.baseline, objectives, common.limit_values),
            recalled=recalled(sweep, best_of(points, sweep)),
            checked=checked(sweep, best_of(points, sweep), shown[1] if shown else None),
        )
        for label, sweep, spec, rows, points, mask in zip(names, sweeps, specs, judged, fronts, joint, strict=True)
    ]
    counts = [len(sweep.trials) for sweep in sweeps]
    if len(set(counts)) > 1:
        budgets = each(names, (plural(count, "trial") for count in counts))
        notes.append(f"The budgets differ: {budgets}. More trials alone raise a front.")
    seeds = same_but_for_seed(specs)
    notes += draws_told(sweeps, specs, names, seeds)
    return Comparison(common, entries, notes, seeds)


def _judged(e: Evaluation, limits: Sequence[Limit]) -> Evaluation:
    """The evaluation, infeasible where a common limit is broken; what its own sweep found infeasible stays so."""
    for limit in limits:
        if limit.metric in e.metrics and not limit.keeps(e.metrics[limit.metric]):
            return replace(e, feasible=False)
    return e


def _upwards(evaluations: Sequence[Evaluation], objectives: Objectives) -> Floats:
    signs = [1.0 if direction == "maximize" else -1.0 for direction in objectives.values()]
    upwards: Floats = values(evaluations, objectives) * np.array(signs)
    return upwards
