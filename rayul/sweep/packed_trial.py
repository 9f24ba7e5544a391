"""A trial in a pack as Ray Tune sees it: a thin client of its device actor. It holds the trial's share of the device
and imports no torch, so that many fit beside each other."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.tune import Trainable

from rayul.sweep.deadline import arm


class PackedTrial(Trainable):  # type: ignore[misc]
    """Config as of `UnlearningTrial`; its results are those of `Device.next`."""

    def setup(self, config: dict[str, Any], broker: Any, limit: float | None = None) -> None:
        self.broker, self.limit = broker, limit
        self._join(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in the same process. The driver has released the one before."""
        self._join(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            result: dict[str, Any] = ray.get(self.device.next.remote(self.config["number"]))
        except RayActorError:
            # Tune starts the trial again, from its last checkpoint, and counts: see fit.MAX_FAILURES.
            ray.get(self._place(lost=self.device._actor_id.hex()))
            raise
        if result["done"]:
            arm(None)  # the process waits for its next trial
        return result

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the device writes checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass

    def cleanup(self) -> None:
        arm(None)

    def _join(self, config: dict[str, Any]) -> None:
        self.config = config
        arm(self.limit)
        self.device = ray.get(self._place())
        try:
            ray.get(self.device.join.remote(config["number"], config["params"]))
        except RayActorError:  # it died while nobody was looking
            self.device = ray.get(self._place(lost=self.device._actor_id.hex()))
            ray.get(self.device.join.remote(config["number"], config["params"]))
        # Once more: the driver's clock of a trial starts when its process is ready, and that waited for the device.
        arm(self.limit)

    def _place(self, lost: str | None = None) -> Any:
        gpus = ray.get_gpu_ids()
        gpu = str(gpus[0]) if gpus else None
        node = ray.get_runtime_context().get_node_id()
        return self.broker.device.remote(self.config["number"], node, gpu, lost)
