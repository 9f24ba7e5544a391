"""The budget rule: successive halving on what a trial adds to the front.

Asynchronous successive halving (arXiv 1810.05934) for several objectives: where ASHA ranks trials by one metric, this
ranks them by the hypervolume that would be missing without them, a trial's merit in the sweep's own number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import moocore
import numpy as np

from rayul.pareto.front import solutions
from rayul.pareto.hypervolume import unit_scores
from rayul.records import BASELINE, Evaluation
from rayul.records.objectives import Floats
from rayul.spec import Spec, limits
from rayul.sweep.pruning.history import History, Rule, Stop

Merit = tuple[float, float]


def rule(spec: Spec) -> Rule | None:
    return None if spec.pruning.budget is None else HalvingRule().verdict


class HalvingRule:
    """Stops a trial at a rung unless its merit is among the best 1 / reduction of those that have reached the rung.

    Each rung is judged at the first evaluation from there on. Compared is what each trial had found by that step; at a
    tie nobody is stopped.
    """

    def __init__(self) -> None:
        self.known = 0
        self.scores: dict[str, list[tuple[int, Floats]]] = {}
        """Of each trial's solutions: the step, and the scores in the unit box."""

    def verdict(self, history: History, trial_id: str, step: int) -> Stop | None:
        settings = history.spec.pruning.budget
        assert settings is not None
        self._catch_up(history)
        before = max((s for s in history.trials[trial_id] if s < step), default=0)
        steps = history.spec_of(trial_id).training.steps
        if not any(before < rung <= step for rung in rungs(steps, settings.first, settings.reduction)):
            return None
        there = [trial for trial, theirs in history.trials.items() if max(theirs) >= step]
        found = merits({trial: self._found(trial, step, history) for trial in history.trials})
        mine = found[trial_id]
        better = sum(found[trial] > mine for trial in there)
        allowed = max(1, math.ceil(len(there) / settings.reduction))
        if better < allowed:
            return None
        return Stop(
            "budget",
            f"budget at step {step}: its hypervolume contribution {mine[0]:.4f} (alone {mine[1]:.4f}) is behind "
            f"{better} of the {len(there)} trials that got there, and {allowed} go on",
        )

    def _found(self, trial: str, step: int, history: History) -> Floats:
        scores = [score for at, score in self.scores.get(trial, ()) if at <= step]
        return np.array(scores).reshape(len(scores), len(history.spec.objectives))

    def _catch_up(self, history: History) -> None:
        baseline = Evaluation(BASELINE, 0, metrics=history.baseline)
        new = solutions(history.rows[self.known :], baseline, history.spec.objectives)
        self.known = len(history.rows)
        bounds = limits(history.spec.criteria, history.baseline)
        for row, score in zip(new, unit_scores(new, baseline, history.spec.objectives, bounds), strict=True):
            self.scores.setdefault(row.trial_id, []).append((row.step, score))


def rungs(steps: int, first: float, reduction: int) -> list[float]:
    """The steps before the last at which a trial of `steps` steps is judged: first, first * reduction, ... of them."""
    found, share = [], first
    while share < 1:
        found.append(share * steps)
        share *= reduction
    return found


def merits(points: Mapping[str, Floats]) -> dict[str, Merit]:
    """(hypervolume that only this trial contributes, hypervolume of the trial alone), each in [0, 1], by trial.

    points: scores [n, m] of each trial's solutions in the unit box, 1 the ideal; n may be 0. The second number ranks
    those that contribute nothing.
    """
    everything = volume(list(points.values()))
    on_front = _on_front(points)
    return {
        trial: (
            everything - volume([p for t, p in points.items() if t != trial]) if trial in on_front else 0.0,
            volume([mine]),
        )
        for trial, mine in points.items()
    }


def volume(points: Sequence[Floats]) -> float:
    """Hypervolume of all these scores together against the corner of the unit box."""
    stacked = np.vstack(points) if points else np.empty((0, 1))
    stacked = stacked[(stacked > 0).all(axis=1)]
    if not len(stacked):
        return 0.0
    return float(moocore.hypervolume(stacked, ref=np.zeros(stacked.shape[1]), maximise=True))


def _on_front(points: Mapping[str, Floats]) -> set[str]:
    """The trials with a point that no point of another trial equals or dominates."""
    stacked = np.vstack(list(points.values()))
    if not len(stacked):
        return set()
    owners = np.repeat(list(points), [len(mine) for mine in points.values()])
    front = moocore.is_nondominated(stacked, maximise=True, keep_weakly=True)
    holders: dict[tuple[float, ...], set[str]] = {}
    for owner, point in zip(owners[front], stacked[front], strict=True):
        holders.setdefault(tuple(point), set()).add(str(owner))
    return {next(iter(held)) for held in holders.values() if len(held) == 1}
