"""The Tune callback that records evaluations and endings, each on disk before Tune goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from rayul.errors import RayulError
from rayul.pareto.front import front
from rayul.records import ADAPTERS, FAILED, PRUNED, Ending, Evaluation, Journal, Record, adapter_name, trial_id
from rayul.spec import Spec
from rayul.sweep.deadline import Deadline
from rayul.sweep.losses import last_error, raised
from rayul.sweep.packs import DeviceBroken
from rayul.sweep.pruning.scheduler import PruningScheduler
from rayul.sweep.result import TrialResult
from rayul.sweep.search.searcher import OptunaSearcher
from rayul.unlearn.job import shared_row

Listener = Callable[[Record], None]


class Recorder(Callback):  # type: ignore[misc]
    """Runs after the scheduler (Tune's order), so it knows whether this evaluation is where its trial was stopped.

    A trial that starts again after a crash repeats evaluations; the journal keeps the first of each. `listener` hears
    of all that is new, the searcher of every trial that ended.
    """

    def __init__(
        self,
        folder: Path,
        spec: Spec,
        journal: Journal,
        baseline: Evaluation,
        scheduler: PruningScheduler,
        searcher: OptunaSearcher,
        listener: Listener,
    ) -> None:
        self.folder, self.spec, self.journal, self.baseline = folder, spec, journal, baseline
        self.scheduler, self.searcher, self.listener = scheduler, searcher, listener
        self.front = front(journal, baseline, spec.objectives)
        self.deadline = Deadline(spec.search.trial_time_limit)
        self.count = 0
        """Of records of this run. failed_at: what it was when a trial failed for the first time."""
        self.failed_at: dict[str, int] = {}

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.deadline.check()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.deadline.start(trial)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.deadline.end(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        reported = TrialResult.from_ray(result)
        ending = reported.ending
        stop = self.scheduler.stops.get(trial_id(trial.config["number"]))
        if ending is None and stop is not None:
            ending = reported.evaluations[-1].ended(PRUNED, stop.rule, stop.reason)
        self._record(reported.evaluations, ending)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.failed_at.setdefault(trial.trial_id, self.count)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """It failed more often than Tune restarts it: an ending, as for every failure of one trial. Raises RayulError
        where its device broke each time and no trial has come any further meanwhile: the next would not, either."""
        error = raised(last_error(trial))
        stuck = self.failed_at.get(trial.trial_id) == self.count
        if late := self.deadline.why(trial):
            rule, reason = "search.trial_time_limit", late
        elif stuck and error is not None and error[0] == DeviceBroken.__name__:
            raise RayulError(
                f"the device of trial {trial_id(trial.config['number'])} broke again and again: {error[1]}",
                "when it is in order, run the same command with --resume",
            )
        elif error is not None:
            rule, reason = error[0], ": ".join(error)
        else:
            rule = "worker died"
            reason = "its worker process died again and again (out of memory, or the node was lost)"
        self.deadline.end(trial)
        shared = shared_row(self.spec, trial.config["number"], trial.config["params"])
        seconds = max((row.train_seconds for row in self.journal.of(shared.trial_id)), default=0.0)
        self._record([], replace(shared, train_seconds=seconds).ended(FAILED, rule, reason))

    def _record(self, rows: Sequence[Evaluation], ending: Ending | None) -> None:
        for record in self.journal.append(*rows, *([] if ending is None else [ending])):
            if isinstance(record, Evaluation):
                # Never over all rows again: they grow with the sweep, and this is called for every one of them.
                self.front = front([*self.front, record], self.baseline, self.spec.objectives)
            self.count += 1
            self.listener(record)
            if isinstance(record, Ending):
                self.searcher.tell(int(record.trial_id))
                self.collect_adapters()

    def collect_adapters(self) -> None:
        """Delete the adapters of ended trials that are not on the sweep's front."""
        kept = {adapter_name(e) for e in self.front}
        for path in (self.folder / ADAPTERS).glob("*-*-*"):
            if path.name.split("-")[0] in self.journal.endings and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
