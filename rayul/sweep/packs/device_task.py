"""A task on a device: it holds the GPU as a trial's client holds its share, and asks the device actor there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError

from rayul.sweep.packs.broker import device_here

if TYPE_CHECKING:
    from rayul.sweep.cluster import Allocation

RETRIES = 2
"""Times that a question is asked again when its device, or the node, was lost."""


def ask_a_device(broker: Any, allocation: Allocation, method: str, argument: Any) -> Any:
    """A reference to the answer of a method of `DeviceActor`, on a device that no other task is on: of the cluster as
    it is or grows. Its actor is started where there is none, and stays for the trials."""
    # SPREAD: on CPU the task asks for little, and several would meet on one node.
    options = {
        "num_cpus": allocation.cpu,
        "num_gpus": allocation.gpu * allocation.pack,
        "scheduling_strategy": "SPREAD",
    }
    return ray.remote(max_retries=RETRIES, **options)(_ask).remote(broker, method, argument)


def _ask(broker: Any, method: str, argument: Any) -> Any:
    me, lost = ray.get_runtime_context().get_task_id(), None
    try:
        for tries_left in reversed(range(RETRIES + 1)):
            device = ray.get(device_here(broker, me, lost))
            try:
                return ray.get(getattr(device, method).remote(argument))
            except RayActorError:
                lost = device._actor_id.hex()
                if not tries_left:
                    raise
    finally:
        ray.get(broker.release.remote(me))
