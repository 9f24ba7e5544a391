"""Priors of a spec's space in Optuna's samplers: what the first trials are drawn by."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from rayul.spec import Float, Int
from rayul.sweep.search.trajectory.space import Range


class WithPriors(optuna.samplers.BaseSampler):
    """While fewer than `startup` trials of the study have ended with a result, numbers that have a prior are drawn by
    it and all else as the sampler draws it independently; from then on the sampler proposes, and learns from the first
    trials as from others.

    priors: the ranges that have one, by key.
    """

    def __init__(
        self, sampler: optuna.samplers.BaseSampler, priors: dict[str, Float | Int], seed: int, startup: int
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
        if param_name not in self.priors or not self._begins(study):
            return self.sampler.sample_independent(study, trial, param_name, param_distribution)
        one = Range(self.priors[param_name])
        u = np.random.default_rng([self.seed, trial.number, crc32(param_name.encode())]).random(1)
        return one.value(float(one.likely(u)[0]))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.sampler.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self.sampler.after_trial(study, trial, state, values)

    def _begins(self, study: optuna.Study) -> bool:
        return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < self.startup
