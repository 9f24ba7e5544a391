"""Priors of a spec's space in Optuna's samplers: what the first trials are drawn by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from rayul.spec import Float, Int
from rayul.sweep.search.outcome import SOLVED
from rayul.sweep.search.trajectory.space import TRUST, Range

BY_PRIOR = "by_prior"
"""The attribute of a trial in the study of which a number was drawn by its prior."""

CHANCES = 3
"""If so many trials by a prior have ended and none of them had a solution, it is wrong."""


class WithPriors(optuna.samplers.BaseSampler):
    """Until `startup` trials of the study have a result, numbers that have a prior are drawn by it and all else at
    random; then the sampler proposes, and learns from the first trials as from others. Where the priors turn out to be
    wrong, draws are even from there on, and the trials by them do not count as first ones.

    priors: the ranges that have one, by key. seed: of the search.
    """

    def __init__(
        self, sampler: optuna.samplers.BaseSampler, priors: Mapping[str, Float | Int], seed: int, startup: int
    ) -> None:
        self.sampler, self.priors, self.seed, self.startup = sampler, priors, seed, startup

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {} if self._begins(study) else self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {} if self._begins(study) else self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if not self._begins(study):
            return self.sampler.sample_independent(study, trial, param_name, param_distribution)
        rng = np.random.default_rng([self.seed, trial.number, crc32(param_name.encode())])
        if param_name not in self.priors or self._wrong(study):
            even = optuna.samplers.RandomSampler(seed=int(rng.integers(2**32)))
            return even.sample_independent(study, trial, param_name, param_distribution)
        one, u = Range(self.priors[param_name]), rng.random(1)
        if u[0] < TRUST:
            study._storage.set_trial_user_attr(trial._trial_id, BY_PRIOR, True)
        return one.value(float(one.likely(u)[0]))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.sampler.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.sampler.after_trial(study, trial, state, values)

    def _begins(self, study: optuna.Study) -> bool:
        return len(_ended(study)) - self._wrong(study) < self.startup

    def _wrong(self, study: optuna.Study) -> int:
        """How many trials by wrong priors have ended; 0 where nothing speaks against them."""
        drawn = [trial for trial in _ended(study) if BY_PRIOR in trial.user_attrs]
        hopeless = len(drawn) >= CHANCES and not any(trial.user_attrs.get(SOLVED) for trial in drawn)
        return len(drawn) if hopeless else 0


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
