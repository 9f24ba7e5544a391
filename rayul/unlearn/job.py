"""One trial that is to run, however it runs: alone, in a pack, or again as a finalist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayul.records import Evaluation, trial_id
from rayul.spec import Spec


@dataclass(frozen=True)
class TrialJob:
    """trial_id: as in the records. spec: the trial's own, with `params` filled in. seed: of its adapter, its dropout
    and the order of its rows. params: the searched values by dotted key. baseline: metrics of the model before
    unlearning; step 0 is a row of these, since a fresh adapter changes nothing."""

    trial_id: str
    spec: Spec
    seed: int
    params: Mapping[str, Any]
    baseline: Mapping[str, float]

    @classmethod
    def of(cls, sweep: Spec, number: int, params: Mapping[str, Any], baseline: Mapping[str, float]) -> TrialJob:
        """Trial `number` of a sweep. Raises SpecError for params that are not in the sweep's space."""
        shared = shared_row(sweep, number, params)
        return cls(shared.trial_id, sweep.at(params), shared.seed, shared.params, baseline)

    def row(self, device: str, numerics: str) -> Evaluation:
        """Step 0 without metrics: what all rows of the trial share."""
        return Evaluation(self.trial_id, 0, seed=self.seed, params=dict(self.params), device=device, numerics=numerics)


def shared_row(sweep: Spec, number: int, params: Mapping[str, Any]) -> Evaluation:
    """What the rows of trial `number` of a sweep share before it runs, also where it never begins."""
    return Evaluation(trial_id(number), 0, seed=sweep.search.seed + number, params=dict(params))
