"""The configurations that were trained with several seeds (`search.replicate`), the best by all of them first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rayul.pareto.replicates import lower_bounds, most_forgotten
from rayul.records import RUNNING, Evaluation
from rayul.records.folder import SweepRecords
from rayul.records.objectives import forget_objective
from rayul.words import number, percent, plural


class SeveralSeeds(NamedTuple):
    """trials: by id the share forgotten within the limits, in [0, 1], one for each seed. mean: of these; low: its lower
    bound."""

    settings: Mapping[str, Any]
    trials: Mapping[str, float]
    mean: float
    low: float

    @property
    def text(self) -> str:
        """The settings on one line."""
        values = {k: number(v) if isinstance(v, float) else v for k, v in self.settings.items()}
        return ", ".join(f"{name} {value}" for name, value in values.items())


def several_seeds(results: SweepRecords) -> list[SeveralSeeds]:
    """Empty where no two trials had the same settings, where all had, and without an objective on the forget set."""
    if not results.space or forget_objective(results.objectives) is None:
        return []
    ended = {trial: e for trial, e in results.endings.items() if e.state != RUNNING}
    seeds: dict[str, dict[str, float]] = {}
    for trial, ending in ended.items():
        rows = results.trials.get(trial, [])
        gone = most_forgotten(rows, results.baseline, results.objectives)
        seeds.setdefault(json.dumps(dict(ending.params), sort_keys=True), {})[trial] = gone
    several = {settings: trials for settings, trials in seeds.items() if len(trials) > 1}
    low = lower_bounds({settings: list(trials.values()) for settings, trials in several.items()})
    found = [
        SeveralSeeds(json.loads(s), trials, float(np.mean(list(trials.values()))), low[s])
        for s, trials in several.items()
    ]
    return sorted(found, key=lambda recipe: -recipe.low)


def other_seeds(results: SweepRecords, e: Evaluation) -> list[str]:
    """What the settings of a point's trial forgot with other seeds, in a sentence; empty where the sweep has not tried
    them with others."""
    own = next((recipe for recipe in several_seeds(results) if e.trial_id in recipe.trials), None)
    if own is None:
        return []
    others = [share for trial, share in own.trials.items() if trial != e.trial_id]
    lowest, highest = percent(min(others)), percent(max(others))
    said = f"{lowest} forgotten" if lowest == highest else f"{lowest} to {highest} forgotten"
    return [
        f"The same settings with {plural(len(others), 'other seed')}: {said} at most within the limits, and "
        f"{percent(own.mean)} on average over all {len(own.trials)}. These weights are of one of them."
    ]
