"""The pruning rules as a Ray scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from rayul.records import Evaluation
from rayul.spec import Spec
from rayul.sweep.pruning.history import History, Stop
from rayul.sweep.pruning.rules import rules_of
from rayul.sweep.result import TrialResult


class PruningScheduler(FIFOScheduler):  # type: ignore[misc]
    """Asks the rules of a spec, one after the other, about every evaluation that a trial reports; the first that
    objects stops the trial. `stops` says why, by trial id.

    evaluations: those of the journal on a resume, which are all the state there is. Raises InputError for a rule of the
    user's own that cannot be run.
    """

    def __init__(self, spec: Spec, baseline: Mapping[str, float], evaluations: Iterable[Evaluation] = ()) -> None:
        super().__init__()
        self.rules = rules_of(spec)
        self.history = History(spec, baseline, evaluations)
        self.stops: dict[str, Stop] = {}

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        evaluations = TrialResult.from_ray(result).evaluations
        for evaluation in evaluations:
            self.history.add(evaluation)
        trial_id, step = evaluations[0].trial_id, evaluations[0].step
        stop = self.verdict(trial_id, step)
        if stop is not None:
            self.stops[trial_id] = stop
        decision: str = TrialScheduler.CONTINUE if stop is None else TrialScheduler.STOP
        return decision

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """The first trial that waits to be started, as `FIFOScheduler` says it, among those that have not ended: that
        one looks twice through all trials of the sweep, in every turn of Tune's loop."""
        waiting = (trial for trial in tune_controller.get_live_trials() if trial.status == Trial.PENDING)
        return min(waiting, key=lambda trial: trial.config["number"], default=None)

    def verdict(self, trial_id: str, step: int) -> Stop | None:
        """Why the trial must stop at this step; None when it may go on."""
        return next((stop for rule in self.rules if (stop := rule(self.history, trial_id, step)) is not None), None)
