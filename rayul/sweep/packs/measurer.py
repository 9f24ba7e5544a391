"""Measuring outside of trials, in a sweep whose trials share devices: the device actors do it, between two steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
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
    """A `Measurer`. Each question holds a whole device, on which no other question is; its actor is started where there
    is none, and stays for the trials.

    own: whether Ray belongs to this sweep alone. On its cores the driver then asks the devices itself, since nobody
    else could take them. Elsewhere a task asks that holds a device's share of the cluster as trials do, in a process
    that takes 0.7 s of CPU to start.
    """

    def __init__(self, devices: Devices, allocation: Allocation, *, own: bool = False) -> None:
        self.devices, self.direct = devices, own and not allocation.gpu
        self.count = max(1, allocation.slots // allocation.pack)
        # SPREAD: on CPU the task asks for little, and several would meet on one node.
        options = {
            "num_cpus": allocation.cpu,
            "num_gpus": allocation.gpu * allocation.pack,
            "scheduling_strategy": "SPREAD",
        }
        self.task = ray.remote(max_retries=RETRIES, **options)(_ask)

    def measure(self, names: Sequence[str]) -> dict[str, Evaluation]:
        if names and self.direct:
            self._start_all()
        answers = dict(self._answers([partial(_measure, name) for name in names]))
        return {name: answers[i] for i, name in enumerate(names)}

    def verify(self, points: Sequence[Evaluation]) -> Iterator[str]:
        """One point per question: on several devices at once, and a device that is lost loses one measurement."""
        for _, problems in self._answers([partial(_verify, [point]) for point in points]):
            yield "".join(problems)

    def walk(self, reading: Reading, points: Sequence[Evaluation], baseline: Mapping[str, float]) -> tuple[Found, ...]:
        """Every device walks some of the dials, of which none depends on another."""
        count = min(self.count, len(points))
        parts = [slice(i, None, count) for i in range(count)]
        walked = dict(self._answers([partial(_walk, (reading, points, baseline, part)) for part in parts]))
        return tuple(walked[i % count][i // count] for i in range(len(points)))

    def _answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Any]]:
        """The number of each question and its answer, as they come."""
        if self.direct:
            yield from _asked(self.devices, questions, self.count)
            return
        pending = {self.task.remote(self.devices, question): i for i, question in enumerate(questions)}
        while pending:
            (done,), _ = ray.wait(list(pending))
            yield pending.pop(done), fetch(done)

    def _start_all(self) -> None:
        """Let all devices load, also those that no question is for: the trials are next."""
        holders = [f"start {i}" for i in range(self.count)]
        for holder in holders:
            self.devices.here(holder)
        for holder in holders:
            self.devices.release(holder)


def _measure(name: str, device: Any) -> Any:
    return device.measure.remote(name)


def _verify(points: Sequence[Evaluation], device: Any) -> Any:
    return device.verify.remote(points)


def _walk(arguments: Any, device: Any) -> Any:
    return device.walk.remote(*arguments)


def _ask(devices: Devices, question: Question) -> Any:
    """In a task."""
    me = ray.get_runtime_context().get_task_id()
    asking = _asking(devices, me, question)
    try:
        pending = next(asking)
        while True:
            pending = _step(asking, pending)
    except StopIteration as end:
        return end.value
    finally:
        ray.get(devices.release(me))


def _asked(devices: Devices, questions: Sequence[Question], at_once: int) -> Iterator[tuple[int, Any]]:
    """In the driver: `at_once` questions at a time, the next one when a device is free. Errors as `fetch`."""
    waiting = deque(enumerate(questions))
    pending: dict[Any, tuple[int, Asking]] = {}
    try:
        while waiting or pending:
            while waiting and len(pending) < at_once:
                i, question = waiting.popleft()
                asking = _asking(devices, f"question {i}", question)
                pending[next(asking)] = i, asking
            (done,), _ = ray.wait(list(pending))
            i, asking = pending.pop(done)
            try:
                pending[_step(asking, done)] = i, asking
            except StopIteration as end:
                devices.release(f"question {i}")
                yield i, end.value
    finally:
        for i, _ in pending.values():
            devices.release(f"question {i}")


Asking = Generator[Any, Any, Any]
"""Yields references, is sent what they hold or has its error raised there, and returns the answer."""


def _asking(devices: Devices, holder: str, question: Question) -> Asking:
    lost, no_memory = None, False
    for tries_left in reversed(range(RETRIES + 1)):
        device = yield devices.here(holder, lost, no_memory=no_memory)
        try:
            return (yield question(device))
        except LOST as error:
            lost, no_memory = device._actor_id.hex(), is_memory_pressure(error)
            if not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def _step(asking: Asking, done: Any) -> Any:
    """The next reference to wait for."""
    try:
        value = fetch(done)
    except Exception as error:
        return asking.throw(error)
    return asking.send(value)
