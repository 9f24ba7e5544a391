"""A node that runs out of memory: Ray ends the processes on it one by one, whoever filled it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rayul.errors import RayulError
from rayul.sweep import cluster  # noqa: F401 (before ray.tune: it silences Ray's own output)
from rayul.sweep.losses import last_error, raised

# isort: split
from ray.exceptions import OutOfMemoryError, RayError
from ray.tune import Callback
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

PATIENCE = 3
"""Times that one trial loses its process so before the sweep stops. The pressure may pass; else each loss costs all
trials of the device what they had since their checkpoints."""

_SAID = re.compile(r"NODE_OUT_OF_MEMORY|running low on memory|memory pressure", re.IGNORECASE)


def is_memory_pressure(error: BaseException | None) -> bool:
    """Whether Ray's memory monitor ended the process whose loss this error tells, directly or through others."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        told = isinstance(error, RayError | TuneError) and _SAID.search(str(error))
        if told or isinstance(error, OutOfMemoryError):
            return True
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return False


def no_memory() -> RayulError:
    return RayulError(
        "a node ran out of memory, and Ray ended processes of the sweep there",
        "end what else fills the memory, or let the sweep take less (resources.trials_per_gpu, resources.concurrency, "
        "training.micro_batch_size); then run the same command with --resume-if-any: what was recorded is kept",
    )


@contextmanager
def memory_watched() -> Iterator[None]:
    """What memory pressure does to the driver's own questions becomes one sentence."""
    try:
        yield
    except (RayError, TuneError) as error:
        if is_memory_pressure(error):
            raise no_memory() from error
        raise


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
    return raised(text) is None and _SAID.search(text) is not None
