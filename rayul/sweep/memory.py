"""A node that runs out of memory: Ray ends the processes on it one by one, whoever filled it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rayul.errors import RayulError
from rayul.sweep import connection  # noqa: F401 (before ray.tune: it silences Ray's own output)
from rayul.sweep.losses import is_memory_pressure, last_error, raised, says_no_memory

# isort: split
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.tune import Callback
from ray.tune.error import TuneError
from ray.tune.experiment import Trial


def _actor_task_failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
    """Tune's actor manager (Ray 2.60) knows RayActorError and RayTaskError, and raises any other out of Tuner.fit. One
    that Ray's memory monitor ended is a lost actor like any other."""
    if isinstance(exception, OutOfMemoryError):
        exception = RayActorError(error_msg=str(exception))
    _as_ray_has_it(self, tracked_actor_task, exception)


_as_ray_has_it = RayActorManager._actor_task_failed
RayActorManager._actor_task_failed = _actor_task_failed

PATIENCE = 3
"""Times that one trial loses its process so before the sweep stops. The pressure may pass, or the next device be small
enough; else each loss costs all trials of the device what they had since their checkpoints."""


def no_memory() -> RayulError:
    return RayulError(
        "a node ran out of memory, and Ray ended processes of the sweep there",
        "end other programs on that node, or let the sweep take less (resources.trials_per_gpu, resources.concurrency, "
        "training.micro_batch_size); then run the same command with --resume-if-any: what was recorded is kept",
    )


@contextmanager
def losses_told() -> Iterator[None]:
    """What becomes of the driver's own questions where Ray loses processes of the sweep, or of its own, is told in a
    sentence."""
    try:
        yield
    except (RayError, TuneError) as error:
        if is_memory_pressure(error) or (isinstance(error, TuneError) and says_no_memory(str(error))):
            raise no_memory() from error
        if isinstance(error, RayTaskError | TuneError):  # an exception that a process raised, and its traceback
            raise
        told = str(error).strip().partition("\n")[0]
        raise RayulError(
            f"Ray lost a process: {told}",
            "run the same command with --resume-if-any: what was recorded is kept",
        ) from error


class MemoryPressure(Callback):  # type: ignore[misc]
    """Stops a run whose trials lose their processes again and again: that is no failure of theirs, so they get no
    ending, and a resume runs them. To stand before the recorder."""

    def __init__(self) -> None:
        self.lost = Counter[str]()

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if _lost_to_memory(trial):
            self.lost[trial.trial_id] += 1
            if self.lost[trial.trial_id] >= PATIENCE:
                raise no_memory()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if _lost_to_memory(trial):
            raise no_memory()


def _lost_to_memory(trial: Trial) -> bool:
    text = last_error(trial)
    return raised(text) is None and says_no_memory(text)
