"""A trial as Ray Tune sees it: one `step` is one evaluation; the process and its model outlive the trial."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from ray.tune import Trainable

from rayul.errors import ResultsUnwritable
from rayul.records import Evaluation
from rayul.spec import Spec
from rayul.sweep.deadline import arm
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.losses import here
from rayul.sweep.packs.worker import KeptAdapters, load_here
from rayul.sweep.result import TrialResult, unwritable
from rayul.unlearn.data import Sets
from rayul.unlearn.job import TrialJob, shared_row
from rayul.unlearn.task import Task
from rayul.unlearn.trial import Snapshot, failure, run_trial


class UnlearningTrial(Trainable):  # type: ignore[misc]
    """Config: {"number": n, "params": {...}} as the searcher proposed it; everything else comes once, through `setup`.

    Its results are `TrialResult`s. Adapters of the trial's own front are in the results folder while it runs, before
    their rows are; the driver keeps those of the sweep's front.
    """

    def setup(
        self, config: dict[str, Any], spec: Spec, sets: Sets, baseline: Evaluation, disk: DriverDisk, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        self.spec, self.disk, self.folder = spec, disk, disk.adapters()
        self.baseline, self.sets = baseline, sets
        self.unlearning_task: Task | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in the same process: the base model stays, its update goes."""
        self.snapshots.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        snapshot = next(self.snapshots)
        update = snapshot.update
        if update is not None:
            self.evaluated = True
            try:
                self.kept.add(snapshot.evaluations, lambda e, place: update.save(e.mixing, place))
            except ResultsUnwritable as error:
                return unwritable(error)
        elif not self.evaluated:
            self.unlearning_task = None  # an adapter that could only be attached in part has left it on the base
        result = TrialResult(snapshot.evaluations, snapshot.ending)
        if result.ended:
            arm(None)  # the process waits for its next trial
        return result.to_ray() | here()

    def cleanup(self) -> None:
        arm(None)
        self.snapshots.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial that is cut off starts again, and its rows that are in the journal stay as they are."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass

    def _begin(self, config: dict[str, Any]) -> None:
        self.config = config
        arm(self.spec.search.trial_time_limit)
        self.kept = KeptAdapters(self.spec, self.disk, self.folder, self.baseline)
        self.evaluated = False
        self.snapshots: Generator[Snapshot, None, None] = self._run(config["number"], config["params"])

    def _run(self, number: int, params: dict[str, Any]) -> Generator[Snapshot, None, None]:
        try:
            if self.unlearning_task is None:
                self.unlearning_task = load_here(self.spec, self.sets, self.disk)
            job = TrialJob.of(self.spec, number, params, self.baseline.metrics)
        except Exception as error:  # any failure of one trial is its ending
            yield Snapshot([], None, failure(shared_row(self.spec, number, params), error))
            return
        yield from run_trial(self.unlearning_task, job)
