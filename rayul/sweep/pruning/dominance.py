"""Dominance at matched utility: will this trial ever reach the front?

Gradient ascent trades utility for forgetting along its trajectory, so a trial is compared with the front at the utility
it has spent, not at the step it is at. Arrays only; `gained` (forgotten) and `kept` (utility) are fractions of the
baseline, higher is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rayul.records import Evaluation
from rayul.records.objectives import Floats, Objectives, score, trade_off
from rayul.spec import Spec, limits
from rayul.sweep.pruning.history import History, Rule, Stop

DOUBLING, DOUBLING_MIXED = 1 / 12, 1 / 8
"""A trial is granted to double what it has forgotten every so large a share of its steps; with mixing less often, since
nothing is paid for it. On runs to the end (results/search; chosen on those of batch size 4, checked on those of 8):
without mixing 1/12 keeps 70% of the steps and loses no hypervolume of batch size 4, 1/10 loses 1.1%; with mixing
1/8 keeps 45% of the steps and loses 0.02% on the runs that it was checked on, where 1/12 keeps 71%."""

RESOLUTION = 0.01
"""Growth starts from at least this: a forgotten fraction of 0 on some 80 rows may be one row from showing."""


def rule(spec: Spec) -> Rule | None:
    """For two objectives only, one of forgetting and one of utility."""
    return None if spec.pruning.dominance is None or trade_off(spec.objectives) is None else DominanceRule().verdict


class DominanceRule:
    """Stops a trial that stays behind the front of the others at matched utility and is not going to catch up."""

    def __init__(self) -> None:
        self.rivals, self.known = Rivals(), 0

    def verdict(self, history: History, trial_id: str, step: int) -> Stop | None:
        spec, settings, axes = history.spec, history.spec.pruning.dominance, trade_off(history.spec.objectives)
        assert settings is not None
        assert axes is not None
        utility = axes[1]
        self._catch_up(history, axes)
        steps = history.of(trial_id, step)
        gained, kept = positions([rows[-1] for rows in steps.values()], axes, spec.objectives, history.baseline)
        front_gained, front_kept = self.rivals.front_of_others(trial_id)
        bound = limits(spec.criteria, history.baseline).get(utility)
        limit = -np.inf
        if bound is not None:
            limit = float(score(utility, spec.objectives[utility], bound, history.baseline.get(utility, np.nan)))
        trained = np.array(list(steps)) > 0
        if not is_behind(gained[trained], kept[trained], front_gained, front_kept, settings.margin, settings.patience):
            return None
        own = history.spec_of(trial_id)
        last, mixing = own.training.steps, own.control.mixing
        if can_catch_up(list(steps), gained, kept, front_gained, front_kept, limit, last, mixing):
            return None
        ahead = float(front_at(kept[-1:], front_gained, front_kept)[0])
        return Stop(
            "dominance",
            f"dominance at step {step}: with {kept[-1]:.1%} of {utility} kept it has forgotten {gained[-1]:.1%}, "
            f"the front {ahead:.1%}, and it would not catch up by step {last}",
        )

    def _catch_up(self, history: History, axes: tuple[str, str]) -> None:
        new = [row for row in history.rows[self.known :] if row.feasible and row.step]
        self.known = len(history.rows)
        for row, gained, kept in zip(
            new, *positions(new, axes, history.spec.objectives, history.baseline), strict=True
        ):
            self.rivals.add(row.trial_id, float(gained), float(kept))


def positions(
    rows: Sequence[Evaluation], axes: tuple[str, str], objectives: Objectives, baseline: Mapping[str, float]
) -> tuple[Floats, Floats]:
    """gained [n] and kept [n] of these rows."""
    gained, kept = (
        score(
            metric, objectives[metric], [row.metrics.get(metric, np.nan) for row in rows], baseline.get(metric, np.nan)
        )
        for metric in axes
    )
    return gained, kept


class Rivals:
    """The points of all trials, for each of them the front of the others, without those that can be on none of these.

    A point is dropped when one of its own trial is as good in both, or points of two other trials are: whoever asks,
    one of the two remains. What is left is small, so that a look at the front does not take longer as a sweep grows.
    """

    def __init__(self) -> None:
        self.gained, self.kept = np.empty(0), np.empty(0)
        self.trials = np.empty(0, dtype=object)

    def add(self, trial: str, gained: float, kept: float) -> None:
        if np.isnan(gained) or np.isnan(kept):
            return
        self.gained, self.kept = np.append(self.gained, gained), np.append(self.kept, kept)
        self.trials = np.append(self.trials, trial)
        if self._is_beaten(len(self.gained) - 1):
            self._drop(len(self.gained) - 1)
            return
        beaten = np.flatnonzero((self.gained <= gained) & (self.kept <= kept))
        for i in beaten[::-1]:  # one at a time: of two that are equal, one may have to stay
            if self._is_beaten(i):
                self._drop(i)

    def front_of_others(self, trial: str) -> tuple[Floats, Floats]:
        """gained [k] and kept [k]."""
        others = self.trials != trial
        return self.gained[others], self.kept[others]

    def _is_beaten(self, i: int) -> bool:
        better = (self.gained >= self.gained[i]) & (self.kept >= self.kept[i])
        better[i] = False
        by = set(self.trials[better])
        return self.trials[i] in by or len(by) > 1

    def _drop(self, i: int) -> None:
        self.gained, self.kept, self.trials = (np.delete(a, i) for a in (self.gained, self.kept, self.trials))


def front_at(kept: Floats, front_gained: Floats, front_kept: Floats) -> Floats:
    """Most forgotten on the front by who keeps at least as much: [n] for kept [n]; -inf where nobody does."""
    keeps = front_kept[None, :] >= kept[:, None]
    best: Floats = np.where(keeps, front_gained[None, :], -np.inf).max(axis=1, initial=-np.inf)
    return best


def is_behind(
    gained: Floats, kept: Floats, front_gained: Floats, front_kept: Floats, margin: float, patience: int
) -> bool:
    """Whether at each of the last `patience` evaluations the front has forgotten over `margin` more at that utility."""
    if len(gained) < patience:
        return False
    gap = front_at(kept[-patience:], front_gained, front_kept) - gained[-patience:]
    return bool((gap > margin).all())


def can_catch_up(
    steps: Sequence[int],
    gained: Floats,
    kept: Floats,
    front_gained: Floats,
    front_kept: Floats,
    limit: float,
    last_step: int,
    mixing: bool = False,
) -> bool:
    """Whether an optimist's continuation crosses the front before it breaks the limit or runs out of steps.

    What is forgotten grows exponentially: at the fastest rate of the last three intervals, and no slower than DOUBLING.
    Utility goes on falling by as much per forgotten fraction as in the cheapest of them: with a retain loss it may dip
    once and come back.
    With mixing a later step is scaled back to what is kept now, so nothing more is paid.
    limit: what must be kept, on the scale of `kept`; -inf without one.
    """
    ahead = np.arange(steps[-1], last_step + 1, dtype=np.float64)
    grown = np.maximum(gained[-4:], RESOLUTION)
    rates = np.diff(np.log(grown)) / np.diff(np.asarray(steps[-4:], dtype=np.float64))
    rate = max(np.log(2) / ((DOUBLING_MIXED if mixing else DOUBLING) * last_step), *rates)
    path = np.minimum(1.0, grown[-1] * np.exp(rate * (ahead - steps[-1])))
    risen, paid = np.diff(gained[-4:]), -np.diff(kept[-4:])
    prices = paid[risen > 0] / risen[risen > 0]
    price = max(0.0, float(prices.min())) if len(prices) and not mixing else 0.0
    utility = kept[-1] - price * (path - grown[-1])
    best = front_at(utility, front_gained, front_kept)
    return bool(((path >= best) & (utility >= limit)).any())
