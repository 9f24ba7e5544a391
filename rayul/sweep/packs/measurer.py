"""Measuring outside of trials, in a sweep whose trials share devices: the device actors do it, between two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from rayul.records import Evaluation
from rayul.records.certificate import Reading
from rayul.records.recall import Found
from rayul.sweep.losses import fetch, is_memory_pressure
from rayul.sweep.packs.broker import LOST, Devices

if TYPE_CHECKING:
    from rayul.sweep.cluster import Allocation

RETRIES = 2
"""Times that a question is asked again when its device, or the node, was lost."""

Question = Callable[[Any], Any]
"""Takes the handle of a `DeviceActor`; returns the reference to its answer."""


class DeviceMeasurer:
    """A `Measurer`. Each question holds a whole device, on which no other question is, as a trial holds its share; its
    actor is started where there is none, and stays for the trials."""

    def __init__(self, devices: Devices, allocation: Allocation) -> None:
        self.devices, self.allocation = devices, allocation
        # SPREAD: on CPU the task asks for little, and several would meet on one node.
        options = {
            "num_cpus": allocation.cpu,
            "num_gpus": allocation.gpu * allocation.pack,
            "scheduling_strategy": "SPREAD",
        }
        self.task = ray.remote(max_retries=RETRIES, **options)(_ask)

    def measure(self, names: Sequence[str]) -> dict[str, Evaluation]:
        pending = [self._ask(partial(_measure, name)) for name in names]
        return dict(zip(names, fetch(pending), strict=True))

    def verify(self, points: Sequence[Evaluation]) -> Iterator[str]:
        """One point per question: on several devices at once, and a device that is lost loses one measurement."""
        pending = [self._ask(partial(_verify, [point])) for point in points]
        while pending:
            done, pending = ray.wait(pending)
            for answer in done:
                yield "".join(fetch(answer))

    def walk(self, reading: Reading, points: Sequence[Evaluation], baseline: Mapping[str, float]) -> tuple[Found, ...]:
        """Every device walks some of the dials, of which none depends on another."""
        count = max(1, min(self.allocation.slots // self.allocation.pack, len(points)))
        parts = [slice(i, None, count) for i in range(count)]
        walked = fetch([self._ask(partial(_walk, (reading, points, baseline, part))) for part in parts])
        return tuple(walked[i % count][i // count] for i in range(len(points)))

    def _ask(self, question: Question) -> Any:
        return self.task.remote(self.devices, question)


def _measure(name: str, device: Any) -> Any:
    return device.measure.remote(name)


def _verify(points: Sequence[Evaluation], device: Any) -> Any:
    return device.verify.remote(points)


def _walk(arguments: Any, device: Any) -> Any:
    return device.walk.remote(*arguments)


def _ask(devices: Devices, question: Question) -> Any:
    me, lost, no_memory = ray.get_runtime_context().get_task_id(), None, False
    try:
        for tries_left in reversed(range(RETRIES + 1)):
            device = ray.get(devices.here(me, lost, no_memory=no_memory))
            try:
                return ray.get(question(device))
            except LOST as error:
                lost, no_memory = device._actor_id.hex(), is_memory_pressure(error)
                if not tries_left:
                    raise
    finally:
        ray.get(devices.release(me))
