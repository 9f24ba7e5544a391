"""One model of an audit as Ray Tune sees it: a `step` is its measurement, or one attack on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from ray.tune import Trainable

from rayul.errors import RayulError, ResultsUnwritable
from rayul.records import BASELINE, ORACLE
from rayul.records.audited import BEFORE, REFUSAL, Audited, audited_adapter
from rayul.spec import Finalists, Spec
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.losses import here
from rayul.sweep.packs.worker import load_here, writing
from rayul.sweep.result import AuditResult, unwritable
from rayul.unlearn.data import Sets
from rayul.unlearn.finalist import examine, retrain
from rayul.unlearn.job import TrialJob
from rayul.unlearn.model import load_model
from rayul.unlearn.refusal import train_refusal
from rayul.unlearn.task import Task
from rayul.unlearn.update.saved import standalone


class AuditTrial(Trainable):  # type: ignore[misc]
    """Config: {"run": {subject, seed, done, mixing}}, of a finalist with {params, step, fixed, target}.

    done: what the journal has of this model already; mixing: what its adapter was calibrated to, if it has. fixed: the
    mixing, or None to calibrate anew, to the share `target` where the sweep had several. baseline: metrics before
    unlearning; lr: of the positive control.
    """

    def setup(
        self,
        config: dict[str, Any],
        spec: Spec,
        sets: Sets,
        wanted: Finalists,
        baseline: dict[str, float],
        lr: float,
        disk: DriverDisk,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        self.spec, self.sets, self.wanted, self.baseline = spec, sets, wanted, baseline
        self.lr, self.disk, self.folder = lr, disk, disk.adapters()
        self.oracle_model: Any = None
        self.lines = self._lines(config["run"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.lines.close()  # type: ignore[attr-defined]
        self.lines = self._lines(new_config["run"])
        return True

    def step(self) -> dict[str, Any]:
        try:
            return AuditResult(next(self.lines, None)).to_ray() | here()
        except ResultsUnwritable as error:
            return unwritable(error)

    def cleanup(self) -> None:
        self.lines.close()  # type: ignore[attr-defined]

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the journal says what is done."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass

    @cached_property
    def unlearning_task(self) -> Task:
        return load_here(self.spec, self.sets, self.disk)

    @cached_property
    def base(self) -> Any:
        """The model before unlearning with weights that adapters can be merged into, so not in 4 bits."""
        model = self.disk.with_models(self.spec).model
        if model.quantize is None:
            return self.unlearning_task.base
        return load_model(model.model_copy(update={"quantize": None}))[0]

    def _oracle(self) -> Any:
        place = self.disk.with_models(self.spec).oracle
        if self.oracle_model is None and place is not None:
            self.oracle_model = load_model(place)[0]
        return self.oracle_model

    def _lines(self, run: dict[str, Any]) -> Iterator[Audited]:
        row = Audited(run["subject"], run["seed"])
        try:
            model, row = self._model(run, row)
        except ResultsUnwritable:
            raise
        except Exception as error:  # any other failure of one model is a line, never the end of an audit
            reason = error.message if isinstance(error, RayulError) else f"{type(error).__name__}: {error}"
            yield replace(row, reason=reason)
            return
        yield from examine(model, self.unlearning_task, self.spec, row, self.wanted, run["done"], self._oracle)

    def _model(self, run: dict[str, Any], row: Audited) -> tuple[Any, Audited]:
        task = self.unlearning_task
        if row.subject in (BASELINE, ORACLE):
            return standalone(self._oracle() if row.subject == ORACLE else self.base), row
        adapter = audited_adapter(self.folder, row.subject, row.seed)
        if BEFORE in run["done"] and self.disk.get(adapter):
            return standalone(self.base, adapter), replace(row, mixing=run["mixing"])
        with writing(adapter):  # it is all that is written there
            if row.subject == REFUSAL:
                train_refusal(task, self.spec, self.lr, row.seed, adapter)
            else:
                job = TrialJob(row.subject, self.spec.at(run["params"]), row.seed, run["params"], self.baseline)
                row = replace(row, mixing=retrain(task, job, run["step"], run["fixed"], run["target"], adapter))
        model = standalone(self.base, adapter)
        with writing(adapter):
            self.disk.send(adapter)
        return model, row
