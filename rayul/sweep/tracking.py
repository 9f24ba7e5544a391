"""Ray's own callbacks for TensorBoard, MLflow and Weights & Biases, fed with what the journal gets."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback

from rayul.errors import InputError
from rayul.records import FAILED, Evaluation
from rayul.spec import Spec, Tracking
from rayul.sweep.result import TrialResult

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}

Say = Callable[[str], None]


def check_installed(tracking: Tracking) -> None:
    """InputError for a tracker that is named and not installed."""
    missing = [name for name in tracking.names if find_spec(PACKAGES[name]) is None]
    if missing:
        raise InputError(
            "\n".join(f"tracking.{name}: {PACKAGES[name]} is not installed" for name in missing),
            f"pip install {' '.join(PACKAGES[name] for name in missing)}, or take it out of the spec",
        )


def trackers(spec: Spec, folder: Path, say: Say) -> list[LoggerCallback]:
    """The callbacks that a spec names, each connected. InputError for one that cannot be: it is asked before anything
    is spent. `say` hears of one that gave up later."""
    check_installed(spec.tracking)
    return [Tracker(name, _connected(name, spec, folder), say) for name in spec.tracking.names]


def _connected(name: str, spec: Spec, folder: Path) -> LoggerCallback:
    try:
        callback = _callback(name, spec, folder)
        callback.setup()
    except Exception as error:  # no server, no key, no permission: each package has its own
        why = " ".join(str(error).split()) or type(error).__name__
        hint = {
            "tensorboard": "pip install -U tensorboardX",
            "mlflow": "is tracking.mlflow.uri, or MLFLOW_TRACKING_URI, the address of a server that runs?",
            "wandb": "set WANDB_API_KEY, or WANDB_MODE=offline to keep the runs here",
        }[name]
        raise InputError(f"tracking.{name}: {why}", hint) from error
    return callback


def _callback(name: str, spec: Spec, folder: Path) -> LoggerCallback:
    if name == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        mlflow = spec.tracking.mlflow
        assert mlflow is not None
        # Its seven retries take 250 s, in which no trial goes on; three take 15 s.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        return MLflowLoggerCallback(tracking_uri=mlflow.uri, experiment_name=mlflow.experiment or spec.name)
    if name == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        wandb = spec.tracking.wandb
        assert wandb is not None
        place = str(folder.resolve())  # where its own files go: wandb/ in the results
        group = wandb.group or spec.name
        return WandbLoggerCallback(project=wandb.project, group=group, entity=wandb.entity, dir=place)
    from ray.tune.logger import TBXLoggerCallback

    callback = TBXLoggerCallback()
    # It writes into the trial's own folder, and Tune's folders go when the search ends.
    writer, logs = callback._summary_writer_cls, folder.resolve() / "tensorboard"
    callback._summary_writer_cls = lambda path, **more: writer(str(logs / Path(path).name), **more)
    return callback


class Tracker(LoggerCallback):  # type: ignore[misc]
    """One of Ray's callbacks. It is told metrics, never text, with the optimiser step as its time; of a step with
    several mixings the last row, the calibrated one. An error of it ends this tracking, not the sweep."""

    def __init__(self, name: str, callback: LoggerCallback, say: Say) -> None:
        self.name, self.callback, self.say = name, callback, say
        self.failed: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks at the start for `Tuner.restore`, which no sweep is resumed with."""
        return {}

    def log_trial_start(self, trial: Trial) -> None:
        self._tell("log_trial_start", trial)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        reported = TrialResult.from_ray(result)
        if reported.ending is not None and reported.ending.state == FAILED:
            self.failed.add(trial.trial_id)
        if reported.evaluations:
            self._tell("log_trial_result", iteration, trial, tracked(reported.evaluations[-1]))

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        self._tell("log_trial_end", trial, failed or trial.trial_id in self.failed)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._tell("on_experiment_end", trials, **info)

    def _tell(self, what: str, *arguments: Any, **more: Any) -> None:
        if self.callback is None:
            return
        try:
            getattr(self.callback, what)(*arguments, **more)
        except Exception as error:
            self.callback = None
            why = " ".join(str(error).split()) or type(error).__name__
            self.say(f"tracking.{self.name} ended: {why} (the sweep goes on, and its own records stay complete)")


def tracked(row: Evaluation) -> dict[str, Any]:
    """A row as Ray's callbacks take it: numbers by name, and their time under Ray's name for it."""
    numbers = row.metrics | {f"violation/{metric}": v for metric, v in row.violation.items()}
    facts = {"mixing": row.mixing, "feasible": float(row.feasible), "train_seconds": row.train_seconds}
    return numbers | facts | {"training_iteration": row.step}
