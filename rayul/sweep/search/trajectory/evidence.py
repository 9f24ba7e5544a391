"""What the trials of a study have shown, read from their evaluations into arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np

from rayul.pareto.front import solutions
from rayul.pareto.hypervolume import scores_above_limits
from rayul.records import Evaluation
from rayul.records.objectives import MIN_FORGOTTEN, forget_objective, score
from rayul.spec import Spec, is_forgetting, limits
from rayul.spec.criteria import violations
from rayul.sweep.search.trajectory.gain import nondominated
from rayul.sweep.search.trajectory.kernel import Floats
from rayul.sweep.search.trajectory.proposal import Goal, Seen

MOST_STEPS = 12
"""Of a trajectory that the model has: of more, so many that are evenly spaced."""
WORST = -1.0
"""Scores are cut off here: how far a ruined model is below a limit does not say where it would keep it."""


class Trajectory(NamedTuple):
    """steps [k] after 0; scores, errors [k, s] of the evaluation that stands for each; solved [f, m]: the trial's own
    front, in scores of the objectives."""

    steps: Floats
    scores: Floats
    errors: Floats
    solved: Floats


class Tried(NamedTuple):
    """A trial: its configuration x [d], what it has shown, and whether it still runs."""

    x: Floats
    shown: Trajectory
    pending: bool


class Scoring:
    """Scores of evaluations, higher is better: of each objective the forgotten or kept share, above its limit where it
    has one, as the hypervolume has it; then, of each limit that none of these shows, how far it is kept."""

    def __init__(self, spec: Spec, baseline: Evaluation) -> None:
        self.objectives, self.baseline = spec.objectives, baseline
        self.limits = limits(spec.criteria, baseline.metrics)
        limited = [criterion.metric for criterion in spec.criteria]
        by_bounds = spec.control.confidence is not None
        shown = [m for m in spec.objectives if limited.count(m) == 1 and not by_bounds and self._shows_limit(m)]
        self.others = [metric for metric in dict.fromkeys(limited) if metric not in shown]
        names, forget = list(spec.objectives), forget_objective(spec.objectives)
        self.goal = Goal(
            objectives=len(names),
            forget=None if forget is None else names.index(forget),
            least=MIN_FORGOTTEN,
            limits=(*map(names.index, shown), *range(len(names), len(names) + len(self.others))),
        )
        before = replace(baseline, violation=violations(spec.criteria, baseline.metrics, baseline.metrics))
        self.start = self._scores([before])[0][0]
        """[s], of the model before training."""

    def of_trial(self, rows: Sequence[Evaluation]) -> Trajectory:
        """From the evaluations of one trial, in the order of the journal.

        For a step stands, with mixing, the one of its evaluations that keeps all limits and dominates the largest
        volume, and where none keeps them the last.
        """
        rows = sorted((row for row in rows if row.step > 0 and row.metrics), key=lambda row: row.step)
        scores, errors = self._scores(rows)
        whole = np.flatnonzero(np.isfinite(scores).all(axis=1))  # with a metric that is no number a row says nothing
        rows, scores, errors = [rows[i] for i in whole], scores[whole], errors[whole]
        volume = np.clip(scores[:, : len(self.objectives)], 0.0, 1.0).prod(axis=1)
        volume = np.where([row.feasible for row in rows], volume, -1.0)
        stands = []
        for _, some in groupby(range(len(rows)), lambda i: rows[i].step):
            places = list(some)[::-1]
            stands.append(places[int(np.argmax(volume[places]))])
        kept = {row.key for row in solutions(rows, self.baseline, self.objectives)}
        solved = scores[[row.key in kept for row in rows]][:, : len(self.objectives)]
        steps = np.array([rows[i].step for i in stands], dtype=np.float64)
        return Trajectory(steps, scores[stands], errors[stands], nondominated(solved))

    def _shows_limit(self, metric: str) -> bool:
        """Whether the objective's score is 0 at its limit, and below 0 where that is broken."""
        if is_forgetting(metric):
            return False
        direction, base, at = self.objectives[metric], self.baseline.metrics[metric], self.limits[metric]
        beyond = at * (0.99 if direction == "maximize" else 1.01)
        kept, broken = score(metric, direction, [at, beyond], base)
        return bool(broken < kept < 1.0)

    def _scores(self, rows: Sequence[Evaluation]) -> tuple[Floats, Floats]:
        """Scores and their standard errors [n, s]; an error is 0 where there is none, and for limits."""
        args = (self.baseline, self.objectives, self.limits)
        unit = scores_above_limits(rows, *args)
        moved = [replace(r, metrics={m: v + r.stderr.get(m, 0.0) for m, v in r.metrics.items()}) for r in rows]
        errors = np.nan_to_num(np.abs(scores_above_limits(moved, *args) - unit), nan=0.0, posinf=0.0)
        kept = np.array([[-row.violation.get(m, np.nan) for m in self.others] for row in rows], dtype=np.float64)
        kept = kept.reshape(len(rows), len(self.others))
        return np.clip(np.hstack([unit, kept]), WORST, 1.0), np.hstack([errors, np.zeros_like(kept)])


def seen(trials: Sequence[Tried], start: Floats) -> Seen:
    """The arrays of trials of which at least one has shown something; start [s]: the scores before training.

    Every trajectory is read at the same steps. Where a trial was evaluated at others, its scores lie between two
    evaluations on the line through them; what comes after its last evaluation is not known.
    """
    union = np.unique(np.concatenate([trial.shown.steps for trial in trials]))
    grid = union[np.unique(np.round(np.linspace(0, len(union) - 1, min(len(union), MOST_STEPS))).astype(int))]
    y = np.full((len(trials), len(grid), len(start)), np.nan)
    errors = np.zeros_like(y)
    for i, trial in enumerate(trials):
        steps = np.concatenate([[0.0], trial.shown.steps])
        known = grid <= steps[-1]
        if np.array_equal(grid[known], trial.shown.steps):
            y[i, known], errors[i, known] = trial.shown.scores, trial.shown.errors
            continue
        for j, first in enumerate(start):
            y[i, known, j] = np.interp(grid[known], steps, np.concatenate([[first], trial.shown.scores[:, j]]))
            errors[i, known, j] = np.interp(grid[known], steps, np.concatenate([[0.0], trial.shown.errors[:, j]]))
    return Seen(
        x=np.array([trial.x for trial in trials]),
        y=y,
        errors=errors,
        pending=np.array([trial.pending for trial in trials]),
        steps=grid,
        front=nondominated(np.concatenate([trial.shown.solved for trial in trials])),
    )
