"""The sampler as Optuna sees it: from a study's trials and their evaluations to the parameters of the next trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from rayul.records import Evaluation, from_json, trial_id
from rayul.spec import Spec
from rayul.sweep.search.outcome import ROWS
from rayul.sweep.search.trajectory.evidence import Scoring, Trajectory, Tried, seen
from rayul.sweep.search.trajectory.kernel import Floats
from rayul.sweep.search.trajectory.proposal import expected_gains, modelled
from rayul.sweep.search.trajectory.space import Space

DRAWS = 200_000
"""Most candidates drawn from the space, times trials so far: each costs as much as there are trials."""
MOST_DRAWS = 2000
NEIGHBOURS, PARENTS = 16, 16
"""Candidates around a configuration on the front, and of how many of these, the latest first."""


class Evidence:
    """What trials have shown by their evaluations.

    rows: the evaluations of a trial by its id, in the order of the journal. A trial's configuration is read once, and
    what it has shown again where it has new ones.
    """

    def __init__(self, spec: Spec, baseline: Evaluation, rows: Callable[[str], Sequence[Evaluation]]) -> None:
        self.rows, self.scoring, self.space = rows, Scoring(spec, baseline), Space(spec)
        self._places: dict[int, Floats] = {}
        self._read: dict[int, tuple[int, Trajectory]] = {}

    def tried(self, trials: Sequence[FrozenTrial], number: int) -> list[Tried]:
        """The trials of a study besides `number` that have shown something or still run."""
        found = []
        for trial in trials:
            if trial.number == number or trial.state == TrialState.WAITING or not self._is_whole(trial):
                continue
            one = Tried(self._places[trial.number], self._shown(trial), trial.state == TrialState.RUNNING)
            if one.pending or len(one.shown.steps):
                found.append(one)
        return found

    def _is_whole(self, trial: FrozenTrial) -> bool:
        """Whether all its parameters are known."""
        if trial.number not in self._places:
            x = self.space.encode(trial.params)
            if x is None:
                return False
            self._places[trial.number] = x
        return True

    def _shown(self, trial: FrozenTrial) -> Trajectory:
        rows = self.rows(trial_id(trial.number))
        if trial.number not in self._read or self._read[trial.number][0] != len(rows):
            evaluations = rows or [from_json(line) for line in trial.user_attrs.get(ROWS, ())]
            self._read[trial.number] = len(rows), self.scoring.of_trial(evaluations)
        return self._read[trial.number][1]


def propose(evidence: Evidence, tried: Sequence[Tried], number: int, search_seed: int, startup: int) -> dict[str, Any]:
    """The parameters of trial `number`: while fewer than `startup` trials have shown something those that fill the
    space at its number, then those of the largest expected gain. A configuration is not tried twice while there are
    others."""
    space = evidence.space
    if sum(len(one.shown.steps) > 0 for one in tried) < max(1, startup):
        return space.decode(_new(space.filling(number, search_seed), tried)[0])
    rng = np.random.default_rng([search_seed, number])
    known = seen(tried, evidence.scoring.start)
    best = {tuple(point) for point in known.front}
    parents = [one.x for one in tried if best & {tuple(point) for point in one.shown.solved}][-PARENTS:]
    drawn = space.draws(min(MOST_DRAWS, DRAWS // len(tried)), rng)
    around = [space.near(np.array(parents), NEIGHBOURS, rng)] if parents else []
    candidates = _new(np.concatenate([drawn, *around]), tried)
    reach = space.steps(candidates)[:, None] >= known.steps
    model = modelled(known, space.features)
    gains = expected_gains(model, known, candidates, reach, space.features, evidence.scoring.goal, rng)
    return space.decode(candidates[int(np.argmax(gains))])


def _new(candidates: Floats, tried: Sequence[Tried]) -> Floats:
    """Each candidate [c, d] once, in order, without what was tried; all where nothing else is left."""
    known = set(_keys(np.array([one.x for one in tried]).reshape(-1, candidates.shape[1])))
    first = {key: i for i, key in reversed(list(enumerate(_keys(candidates))))}
    left = sorted(i for key, i in first.items() if key not in known)
    return candidates[left] if left else candidates


def _keys(x: Floats) -> list[bytes]:
    """Of each row of x [n, d]: equal for places that differ by less than a billionth."""
    return [row.tobytes() for row in np.round(x, 9) + 0.0]


class TrajectorySampler(optuna.samplers.BaseSampler):
    """Proposes all parameters of a trial from `Evidence`, with the first that is asked for. A parameter that the
    proposal lacks, because an interrupted search had drawn another method, is drawn at random."""

    def __init__(self, evidence: Evidence, seed: int, startup: int) -> None:
        self.evidence, self.seed, self.startup = evidence, seed, startup
        self.proposed: dict[int, dict[str, Any]] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number not in self.proposed:
            tried = self.evidence.tried(study.get_trials(deepcopy=False), trial.number)
            self.proposed[trial.number] = propose(self.evidence, tried, trial.number, self.seed, self.startup)
        if param_name in self.proposed[trial.number]:
            return self.proposed[trial.number][param_name]
        seed = int(np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0])
        random = optuna.samplers.RandomSampler(seed=seed)
        return random.sample_independent(study, trial, param_name, param_distribution)
