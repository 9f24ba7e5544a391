"""A trial in a pack as Ray Tune sees it: a thin client of its device actor. It holds the trial's share of the device
and imports no torch, so that many fit beside each other."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.tune import Trainable

from rayul.errors import ResultsUnwritable
from rayul.records import Evaluation
from rayul.sweep.deadline import arm
from rayul.sweep.losses import here, is_memory_pressure, root_cause
from rayul.sweep.packs import Moved
from rayul.sweep.packs.broker import LOST, Devices
from rayul.sweep.result import TrialResult, unwritable


class PackedTrial(Trainable):  # type: ignore[misc]
    """Config as of `UnlearningTrial`; its results are those of `Device.next`.

    The trial joins with its first step. Tune starts a process for each, and gives the trial to another that is free
    before that one is up: a process that is never to step must not take the trial's seat.
    """

    def setup(self, config: dict[str, Any], devices: Devices, baseline: Evaluation, limit: float | None = None) -> None:
        self.devices, self.baseline, self.limit = devices, baseline, limit
        self.device: Any = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in the same process. The driver has released the one before."""
        self.config, self.device = new_config, None
        return True

    def step(self) -> dict[str, Any]:
        if self.device is None:
            self._join()
            arm(self.limit)  # only now: it may have waited for the device to load the model
        try:
            result: TrialResult = ray.get(self.device.next.remote(self.config["number"]))
        except LOST as error:
            # Tune starts the trial again, from its last checkpoint, and counts: see fit.MAX_FAILURES.
            ray.get(self._instead_of(self.device, error))
            raise
        except RayTaskError as error:
            if isinstance(cause := root_cause(error), ResultsUnwritable):
                return unwritable(cause)
            if not isinstance(cause, Moved):
                raise
            self._join()
            return self.step()
        if result.ended:
            arm(None)  # the process waits for its next trial
        return result.to_ray() | here()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the device writes checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass

    def cleanup(self) -> None:
        arm(None)

    def _join(self) -> None:
        trial = self.config["number"], self.config["params"], self.baseline
        device = ray.get(self.devices.here(self.config["number"]))
        try:
            ray.get(device.join.remote(*trial))
        except LOST as error:  # it died while nobody was looking
            device = ray.get(self._instead_of(device, error))
            ray.get(device.join.remote(*trial))
        self.device = device

    def _instead_of(self, device: Any, error: Exception) -> Any:
        """The broker's reference to another device, where this one was lost as the error says."""
        lost, no_memory = device._actor_id.hex(), is_memory_pressure(error)
        return self.devices.here(self.config["number"], lost, no_memory=no_memory)
