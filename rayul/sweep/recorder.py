"""The Tune callback that turns results into journal rows, each on disk before Tune goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial

from rayul.pareto.front import front
from rayul.records import ADAPTERS, FAILED, PRUNED, RUNNING, Evaluation, Journal, adapter_name, trial_id
from rayul.spec import Spec
from rayul.sweep.deadline import Deadline
from rayul.sweep.pruning.scheduler import ControlScheduler
from rayul.sweep.result import TrialResult
from rayul.sweep.search.searcher import OptunaSearcher

Listener = Callable[[Evaluation], None]


class Recorder(Callback):  # type: ignore[misc]
    """Runs after the scheduler (Tune's order), so it knows whether a row is the one its trial was stopped at.

    A trial that starts again after a crash repeats rows; the journal keeps the first of each key. `listener` hears of
    every new row (progress), the searcher of every trial that ended.
    """

    def __init__(
        self,
        folder: Path,
        spec: Spec,
        journal: Journal,
        baseline: Evaluation,
        scheduler: ControlScheduler,
        searcher: OptunaSearcher,
        listener: Listener,
    ) -> None:
        self.folder, self.spec, self.journal, self.baseline = folder, spec, journal, baseline
        self.scheduler, self.searcher, self.listener = scheduler, searcher, listener
        self.ended = {row.trial_id for row in journal if row.state != RUNNING}
        self.front = front(journal, baseline, spec.objectives)
        self.deadline = Deadline(spec.search.trial_time_limit)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.deadline.check()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.deadline.start(trial)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.deadline.end(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        rows = [*TrialResult.from_ray(result).evaluations]
        reason = self.scheduler.reasons.get(rows[0].trial_id)
        if reason is not None and rows[-1].state == RUNNING:
            rows[-1] = replace(rows[-1], state=PRUNED, reason=reason)
        if rows[-1].state != RUNNING and rows[-1].key in self.journal.rows:
            # It started again, and ended where it had gone on before: an earlier row stays, the ending gets its own.
            rows[-1] = self._ending(trial, rows[-1].state, rows[-1].reason)
        self._record(rows)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """It failed more often than Tune restarts it: a failed row, as for every failure of one trial."""
        error = trial.get_pickled_error()
        if late := self.deadline.why(trial):
            reason = late
        elif isinstance(error, RayTaskError):
            reason = f"{type(error.cause).__name__}: {error.cause}"
        else:
            reason = "its worker process died again and again (out of memory, or the node was lost)"
        self.deadline.end(trial)
        self._record([self._ending(trial, FAILED, reason)])

    def _record(self, rows: list[Evaluation]) -> None:
        for row in rows:
            if self.journal.append(row):
                # Never over all rows again: they grow with the sweep, and this is called for every one of them.
                self.front = front([*self.front, row], self.baseline, self.spec.objectives)
                self.listener(row)
        if rows[-1].state != RUNNING:
            self.ended.add(rows[-1].trial_id)
            self.searcher.tell(int(rows[-1].trial_id))
            self.collect_adapters()

    def _ending(self, trial: Trial, state: str, reason: str) -> Evaluation:
        """A last row without metrics, one step after all that the trial has."""
        number = trial.config["number"]
        steps = [row.step for row in self.journal.of(trial_id(number))]
        return Evaluation(
            trial_id(number),
            step=max(steps, default=-1) + 1,
            seed=self.spec.search.seed + number,
            params=trial.config["params"],
            feasible=False,
            state=state,
            reason=reason,
        )

    def collect_adapters(self) -> None:
        """Delete the adapters of ended trials that are not on the sweep's front."""
        kept = {adapter_name(e) for e in self.front}
        for path in (self.folder / ADAPTERS).glob("*-*-*"):
            if path.name.split("-")[0] in self.ended and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
