"""The Tune callback that turns results into journal rows, each on disk before Tune goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from rayul.pareto.front import front
from rayul.records import FAILED, PRUNED, RUNNING, Evaluation, Journal, from_json
from rayul.spec import Spec
from rayul.sweep.scheduler import ControlScheduler
from rayul.sweep.search import trial_id
from rayul.sweep.trainable import adapter_folder

Listener = Callable[[Evaluation], None]


class Recorder(Callback):  # type: ignore[misc]
    """Runs after the scheduler (Tune's order), so it knows whether a row is the one its trial was stopped at.

    A trial that starts again after a crash repeats rows; the journal keeps the first of each key. `listener` hears of
    every new row (progress).
    """

    def __init__(
        self,
        folder: Path,
        spec: Spec,
        journal: Journal,
        baseline: Evaluation,
        scheduler: ControlScheduler,
        listener: Listener,
    ) -> None:
        self.folder, self.spec, self.journal, self.baseline = folder, spec, journal, baseline
        self.scheduler, self.listener = scheduler, listener

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        rows = [from_json(line) for line in result["evaluations"]]
        reason = self.scheduler.reasons.get(rows[0].trial_id)
        if reason is not None and rows[-1].state == RUNNING:
            rows[-1] = replace(rows[-1], state=PRUNED, reason=reason)
        for row in rows:
            if self.journal.append(row):
                self.listener(row)
        if rows[-1].state != RUNNING:
            self.collect_adapters()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Its worker died more often than Tune restarts it: a failed row, as for every failure of one trial."""
        number = trial.config["number"]
        rows = [row for row in self.journal if row.trial_id == trial_id(number)]
        failed = Evaluation(
            trial_id(number),
            step=rows[-1].step + 1 if rows else 0,
            seed=self.spec.search.seed + number,
            params=trial.config["params"],
            feasible=False,
            state=FAILED,
            reason="its worker process died again and again (out of memory, or the node was lost)",
        )
        if self.journal.append(failed):
            self.listener(failed)

    def collect_adapters(self) -> None:
        """Delete the adapters of ended trials that are not on the sweep's front."""
        rows = list(self.journal)
        ended = {row.trial_id for row in rows if row.state != RUNNING}
        kept = {adapter_folder(self.folder, e) for e in front(rows, self.baseline, self.spec.objectives)}
        for path in (self.folder / "adapters").glob("*-*-*"):
            if path.name.split("-")[0] in ended and path not in kept:
                shutil.rmtree(path, ignore_errors=True)
