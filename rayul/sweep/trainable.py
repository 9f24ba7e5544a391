"""A trial as Ray Tune sees it: one `step` is one evaluation; the process and its model outlive the trial."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from ray.tune import Trainable

from rayul.records import FAILED, Evaluation
from rayul.spec import Spec
from rayul.sweep.deadline import arm
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.packs.worker import KeptAdapters, load_here
from rayul.sweep.result import TrialResult
from rayul.unlearn.adapters import save_adapter
from rayul.unlearn.data import Sets
from rayul.unlearn.job import TrialJob, shared_row
from rayul.unlearn.task import Task
from rayul.unlearn.trial import Snapshot, failed_row, run_trial


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
        """The next trial in the same process: the base model stays, its adapter goes."""
        self.snapshots.close()  # type: ignore[attr-defined]
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        snapshot = next(self.snapshots)
        last = snapshot.evaluations[-1]
        if last.state != FAILED:
            self.kept.add(snapshot.evaluations, lambda e, place: save_adapter(snapshot.model, e.mixing, place))
        elif last.step == 0:
            self.unlearning_task = None  # an adapter that could only be attached in part has left it on the base
        result = TrialResult(snapshot.evaluations)
        if result.ended:
            arm(None)  # the process waits for its next trial
        return result.to_ray()

    def cleanup(self) -> None:
        arm(None)
        self.snapshots.close()  # type: ignore[attr-defined]

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial that is cut off starts again, and its rows that are in the journal stay as they are."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass

    def _begin(self, config: dict[str, Any]) -> None:
        self.config = config
        arm(self.spec.search.trial_time_limit)
        self.kept = KeptAdapters(self.spec, self.disk, self.folder, self.baseline)
        self.snapshots = self._run(config["number"], config["params"])

    def _run(self, number: int, params: dict[str, Any]) -> Iterator[Snapshot]:
        try:
            if self.unlearning_task is None:
                self.unlearning_task = load_here(self.spec, self.sets, self.disk)
            job = TrialJob.of(self.spec, number, params, self.baseline.metrics)
        except Exception as error:  # any failure of one trial is a row
            yield Snapshot([failed_row(shared_row(self.spec, number, params), error)], None)
            return
        yield from run_trial(self.unlearning_task, job)
