"""Ray Tune run to its end, as a search and an audit need it: workers used again, nothing of Tune's own kept."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import ray

from rayul.errors import RayulError, ResultsUnwritable
from rayul.sweep import connection  # noqa: F401 (before ray.tune: it silences Ray's own output)

# isort: split
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.error import TuneError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

from rayul.sweep.losses import Lost, last_error, lost
from rayul.sweep.run_folder import run_folder
from rayul.sweep.stop import StopSignal
from rayul.words import plural

# Tune would hand these to its trials in a runtime environment, which Ray writes to a log. Nodes have their own.
class_cache.ENV_VARS_TO_PROPAGATE = {v for v in class_cache.ENV_VARS_TO_PROPAGATE if not v.startswith("AWS_")}
# A variable of PyTorch Lightning's, which would give each trial an environment, and that a process that sets it up.
class_cache.DEFAULT_ENV_VARS = {}

MAX_FAILURES = 5
"""Times a trial starts again after its worker or node was lost. Not without end: a trial that kills its process each
time (the machine's memory runs out) must become a failed row."""


def fit(
    trainable: Any,
    stop: StopSignal,
    callbacks: Sequence[Callback],
    name_of: Callable[[Trial], str],
    say: Callable[[str], None],
    *,
    meanwhile: AbstractContextManager[object] | None = None,
    param_space: dict[str, Any] | None = None,
    **search: Any,
) -> None:
    """Run trials until there are none left or `stop` was asked for. What a callback raises is raised as it was, and
    ResultsUnwritable where Tune itself cannot write its notes.

    say: hears, in a sentence, of nodes and other infrastructure that were lost, and of a stop.
    meanwhile: entered when the Tuner has pickled itself with its callbacks, so that it may hold a terminal or a lock.
    search: more of `ray.tune.TuneConfig`.
    """
    with run_folder() as folder:  # all that a resume reads is in our journals
        tuner = Tuner(
            trainable,
            param_space=param_space,
            tune_config=TuneConfig(
                reuse_actors=True, trial_dirname_creator=name_of, trial_name_creator=name_of, **search
            ),
            run_config=RunConfig(
                name="tune",
                storage_path=str(folder),
                stop=stop,
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                callbacks=[Losses(say), *callbacks],
                verbose=0,
            ),
        )
        try:
            with meanwhile or nullcontext(), stop.listening(say):
                tuner.fit()
        except TuneError as error:
            # What the recorder raises (a full disk) reaches the user as it was: Tune makes a text of its traceback.
            cause = error.__context__
            if isinstance(cause, RayulError):
                raise cause from None
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise ResultsUnwritable.at(cause.filename or folder, cause.strerror) from error
            raise


SETTLED = 2.0
"""Seconds without a further trial that was lost, before it is told: they are noticed one by one."""

NOTICED = 40.0
"""Seconds until Ray surely knows that a node is gone; its trials are often noticed before that."""


class Losses(Callback):  # type: ignore[misc]
    """Tells of trials that were lost with a node, or with the broker of their device, and lets them start again as
    often as that happens: it is not their fault, and Tune would give them up after MAX_FAILURES."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.nodes: dict[str, str] = {}
        """Of each trial, where its last result came from."""
        self.found: dict[Lost, dict[str, Trial]] = {}
        self.since = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a restore that we never do, and a console holds a lock."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "node" in result:
            self.nodes[trial.trial_id] = result["node"]

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        cause = lost(last_error(trial))
        if cause is None and trial.trial_id in self.nodes:
            cause = Lost(self.nodes[trial.trial_id])
        if cause is not None:
            self.found.setdefault(cause, {})[trial.trial_id] = trial
            self.since = time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        waited = time.monotonic() - self.since
        if self.found and waited >= SETTLED:
            self._tell(waited)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._tell(NOTICED)

    def _tell(self, waited: float) -> None:
        """What is known by now to be gone. A node that is alive after NOTICED has lost only processes."""
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for cause, gone in list(self.found.items()):
            if cause.node not in alive:
                for trial in gone.values():
                    trial.run_metadata.num_failures -= 1
                self.say(_sentence(cause, len(gone)))
            if cause.node not in alive or waited >= NOTICED:
                del self.found[cause]


def _sentence(cause: Lost, trials: int) -> str:
    its = f"its {plural(trials, 'trial')} {'starts' if trials == 1 else 'start'} again"
    if not cause.node:
        return f"the broker of the devices was lost and has been replaced; {its}"
    nodes = ray.nodes()
    name = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}.get(cause.node, cause.node[:8])
    left = [node["NodeManagerAddress"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    where = f"on {left[0]}" if len(left) == 1 else f"on the {len(left)} nodes that are left"
    return f"node {name} was lost; {its} {where if left else 'as soon as another node joins'}"
