"""Ray Tune run to its end, as a search and an audit need it: workers used again, nothing of Tune's own kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from rayul.errors import RayulError
from rayul.sweep import cluster  # noqa: F401 (before ray.tune: it silences Ray's own output)

# isort: split
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

from rayul.sweep.run_folder import run_folder
from rayul.sweep.stop import StopSignal

MAX_FAILURES = 5
"""Times a trial starts again after its worker or node was lost. Not without end: a trial that kills its process each
time (the machine's memory runs out) must become a failed row."""


def fit(
    trainable: Any,
    stop: StopSignal,
    callbacks: Sequence[Callback],
    name_of: Callable[[Trial], str],
    *,
    meanwhile: AbstractContextManager[object] | None = None,
    param_space: dict[str, Any] | None = None,
    **search: Any,
) -> None:
    """Run trials until there are none left or `stop` was asked for. What a callback raises is raised as it was.

    meanwhile: entered when the Tuner has pickled itself with its callbacks, so that it may hold a terminal or a lock.
    search: more of `ray.tune.TuneConfig`.
    """
    scratch = ExitStack()
    folder = scratch.enter_context(run_folder())  # all that a resume reads is in our journals
    tuner = Tuner(
        trainable,
        param_space=param_space,
        tune_config=TuneConfig(reuse_actors=True, trial_dirname_creator=name_of, trial_name_creator=name_of, **search),
        run_config=RunConfig(
            name="tune",
            storage_path=str(folder),
            stop=stop,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=list(callbacks),
            verbose=0,
        ),
    )
    try:
        with meanwhile or nullcontext(), stop.listening():
            tuner.fit()
    except TuneError as error:
        # What the recorder raises (a full disk) reaches the user as it was: Tune makes a text of its traceback.
        if isinstance(error.__context__, RayulError):
            raise error.__context__ from None
        raise
    finally:
        scratch.close()
