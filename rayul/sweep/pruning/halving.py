"""The budget rule: successive halving on what a trial adds to the front, as a Ray scheduler of its own.

Asynchronous successive halving (arXiv 1810.05934) for several objectives: where ASHA ranks trials by one metric, this
ranks them by the hypervolume that would be missing without them, a trial's merit in the sweep's own number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import moocore
import numpy as np
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from rayul.pareto.front import solutions
from rayul.pareto.hypervolume import unit_scores
from rayul.records import BASELINE, Evaluation
from rayul.records.objectives import Floats
from rayul.spec import Spec, limits
from rayul.sweep.result import TrialResult

Merit = tuple[float, float]


def merits(points: Mapping[str, Floats]) -> dict[str, Merit]:
    """(hypervolume that only this trial contributes, hypervolume of the trial alone), each in [0, 1], by trial.

    points: scores [n, m] of each trial's solutions in the unit box, 1 the ideal; n may be 0. The second number ranks
    those that contribute nothing.
    """
    everything = volume(list(points.values()))
    on_front = {trial for trial, mine in points.items() if _adds(mine, [p for t, p in points.items() if t != trial])}
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


def _adds(mine: Floats, others: Sequence[Floats]) -> bool:
    rest = np.vstack(others) if others else np.empty((0, mine.shape[1]))
    return any(not (rest >= point).all(axis=1).any() for point in mine)


class HalvingScheduler(FIFOScheduler):  # type: ignore[misc]
    """Stops a trial at a rung unless its merit is among the best 1 / reduction of those that have reached the rung.

    Rungs are at `first`, `first * reduction`, ... of a trial's steps, each judged at the first evaluation from there
    on. Compared is what each trial had found by that step; at a tie nobody is stopped. `history`, the journal's rows on
    a resume, is all the state there is. `reasons` says why, by trial id.
    """

    def __init__(self, spec: Spec, baseline: Mapping[str, float], history: Iterable[Evaluation] = ()) -> None:
        super().__init__()
        assert spec.pruning.budget is not None
        self.spec, self.rule = spec, spec.pruning.budget
        self.baseline = Evaluation(BASELINE, 0, metrics=dict(baseline))
        self.limits = limits(spec.criteria, baseline)
        self.steps: dict[str, set[int]] = {}
        self.scores: dict[str, dict[tuple[int, float], Floats]] = {}
        self.reasons: dict[str, str] = {}
        for evaluation in history:
            self._remember(evaluation)

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        rows = TrialResult.from_ray(result).evaluations
        for row in rows:
            self._remember(row)
        reason = self.verdict(rows[0])
        if reason:
            self.reasons[rows[0].trial_id] = reason
        decision: str = TrialScheduler.STOP if reason else TrialScheduler.CONTINUE
        return decision

    def verdict(self, row: Evaluation) -> str:
        """Why the trial of this evaluation must stop, in a sentence; "" when it may go on."""
        before = max((step for step in self.steps.get(row.trial_id, ()) if step < row.step), default=0)
        if not any(before < rung <= row.step for rung in self.rungs(self.spec.at(row.params).training.steps)):
            return ""
        there = [trial for trial, steps in self.steps.items() if max(steps) >= row.step]
        found = merits({trial: self._found(trial, row.step) for trial in self.scores})
        mine = found[row.trial_id]
        better = sum(found[trial] > mine for trial in there)
        allowed = max(1, math.ceil(len(there) / self.rule.reduction))
        if better < allowed:
            return ""
        return (
            f"budget at step {row.step}: its hypervolume contribution {mine[0]:.4f} (alone {mine[1]:.4f}) is behind "
            f"{better} of the {len(there)} trials that got there, and {allowed} go on"
        )

    def rungs(self, steps: int) -> list[float]:
        """The steps, before the last, at which a trial of so many steps is judged."""
        found, share = [], self.rule.first
        while share < 1:
            found.append(share * steps)
            share *= self.rule.reduction
        return found

    def _found(self, trial: str, step: int) -> Floats:
        scores = [score for (at, _), score in self.scores[trial].items() if at <= step]
        return np.array(scores).reshape(len(scores), len(self.spec.objectives))

    def _remember(self, row: Evaluation) -> None:
        if row.is_reference or not row.metrics:
            return
        self.steps.setdefault(row.trial_id, set()).add(row.step)
        mine = self.scores.setdefault(row.trial_id, {})
        for solution in solutions([row], self.baseline, self.spec.objectives):
            score = unit_scores([solution], self.baseline, self.spec.objectives, self.limits)[0]
            mine.setdefault((row.step, row.mixing), score)
