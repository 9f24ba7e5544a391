"""The broker: one actor that owns the device actors, so that they live as long as the driver and no longer.

An actor that a trial made would die with that trial; a detached one would outlive a killed driver.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayul.records import Evaluation
from rayul.records.certificate import Reading
from rayul.records.recall import Found
from rayul.sweep.packs import DeviceBroken
from rayul.sweep.result import TrialResult

if TYPE_CHECKING:
    from rayul.sweep.cluster import Allocation

MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}
"""glibc keeps freed memory: without it the activations of every step go back to the system, and come again a page fault
at a time (on the testbed a third of the time)."""

IDLE_SECONDS = 60.0
"""A device that nobody holds ends after it: on a GPU it has memory, and its node could be given back. Longer than the
clients of a full machine take to start, for whom it waits when it has measured the references."""

RESTARTS = 10
"""Times that Ray starts the broker again. Not without end: where Ray ends every process for want of memory, the sweep
must stop and say so."""

LOST = (RayActorError, OutOfMemoryError, DeviceBroken)
"""What a call of a device raises that must be replaced."""

CPU = "cpu "
"""How the names of places without GPUs begin."""

Holder = int | str
"""Who is on a device: a trial by its number, or a task by its id."""


class DeviceActor:
    """A `Device` as Ray's actor. Every client that holds its handle imports this module, which therefore knows nothing
    of torch (a second and 150 MB for each of them) or Tune."""

    def __init__(self, arguments: dict[str, Any], threads: int, splits: int) -> None:
        from rayul.sweep.packs.device import Device

        self.device = Device(**arguments, threads=threads, splits=splits)

    def measure(self, name: str) -> Evaluation:
        return self.device.measure(name)

    def verify(self, points: Sequence[Evaluation]) -> list[str]:
        return self.device.verify(points)

    def walk(
        self, reading: Reading, points: Sequence[Evaluation], baseline: Mapping[str, float], part: slice
    ) -> tuple[Found, ...]:
        return self.device.walk(reading, points, baseline, part)

    def join(self, number: int, params: dict[str, Any], baseline: Evaluation) -> None:
        self.device.join(number, params, baseline)

    def next(self, number: int) -> TrialResult:
        return self.device.next(number)

    def leave(self, number: int) -> None:
        self.device.leave(number)

    def move(self, number: int) -> None:
        self.device.move(number)


@dataclass
class Held:
    """A device actor and who is on it."""

    actor: Any
    holders: set[Holder] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)
    """When somebody last came or left."""
    moving: set[Holder] = field(default_factory=set)
    """Holders that are to go on elsewhere, and still are here."""


@dataclass(frozen=True)
class Devices:
    """The devices of a sweep, as their holders ask for them.

    arguments: a reference to those of `Device` in a list, in which Ray leaves it a reference: whoever unpickles them
    imports torch, and all devices wait for it. They go with each question, so that a broker that has started again has
    them too; as an argument of the actor itself they might be gone by then, and Ray warns of that.
    """

    broker: Any
    arguments: Sequence[Any]

    def here(self, holder: Holder, lost: str | None = None, *, no_memory: bool = False) -> Any:
        """The broker's reference to the device actor of this process's place: the GPU that it holds (a share of), or,
        on CPU, a place on its node. lost, no_memory: as for `Broker.device`."""
        gpus = ray.get_gpu_ids()
        node = ray.get_runtime_context().get_node_id()
        gpu = str(gpus[0]) if gpus else None
        return self.broker.device.remote(holder, node, gpu, lost, no_memory, arguments=self.arguments)

    def release(self, holder: Holder, *, spread: bool = False) -> Any:
        """The broker's reference to nothing, when the holder is on no device any more. spread: as for
        `Broker.release`."""
        return self.broker.release.remote(holder, spread)


@contextmanager
def broker(allocation: Allocation, arguments: dict[str, Any]) -> Iterator[Devices]:
    """A broker beside the driver; at the end all its devices are gone. arguments: of `Device`, without its threads.

    Ray starts it again where its process is lost. Its devices go with it, and the new one knows of none: the next
    call of a device finds it dead, and its holder asks for another.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    cores = allocation.cpu * allocation.pack
    actor = (
        ray.remote(Broker)
        .options(num_cpus=0, scheduling_strategy=here, max_restarts=RESTARTS, max_task_retries=RESTARTS)
        .remote(cores, allocation.pack, allocation.threads)
    )
    try:
        yield Devices(actor, [ray.put(arguments)])
    finally:
        with suppress(RayActorError):  # it may be gone, and its devices with it
            ray.get(actor.close.remote())
        ray.kill(actor)


class Broker:
    """Gives each holder the device actor of its place: a GPU of a node, or, on CPU, the emptiest of the node's.

    cores: of a device where no GPUs are used. slots: trials a device takes.
    """

    def __init__(
        self,
        cores: float,
        slots: int,
        threads: int,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.cores, self.slots, self.threads = cores, slots, threads
        self.idle_seconds = idle_seconds
        self.held: dict[tuple[str, str], Held] = {}
        self.splits = Counter[str]()
        """By node, the devices that it had no memory for: each halves the packs of those that follow."""
        self.lock = threading.Lock()
        threading.Thread(target=self._end_idle, daemon=True).start()

    def device(
        self,
        holder: Holder,
        node: str,
        gpu: str | None,
        lost: str | None = None,
        no_memory: bool = False,
        *,
        arguments: Sequence[Any],
    ) -> Any:
        """The actor for a holder who is on `node` and has a share of `gpu`.

        lost: id of an actor that the holder found dead or broken; it is ended and replaced. no_memory: whether Ray
        ended it for want of memory on its node. arguments: of `Devices`.
        """
        with self.lock:
            before = [held for held in self.held.values() if holder in held.holders]
            for place, held in list(self.held.items()):
                held.holders.discard(holder)
                held.moving.discard(holder)
                if held.actor._actor_id.hex() == lost:
                    ray.kill(held.actor)  # it may live yet: broken, or out of this holder's reach
                    del self.held[place]
                    self.splits[place[0]] += no_memory
            place = (node, gpu) if gpu is not None else self._emptiest(node)
            if place not in self.held:
                self.held[place] = Held(self._start(*place, arguments, on_gpu=gpu is not None))
            held = self.held[place]
            for other in before:
                if other is not held:  # from its own the trial must not be sent away: that could come after its join
                    self._free(other, holder)
            held.holders.add(holder)
            held.since = time.monotonic()
            return held.actor

    def release(self, holder: Holder, spread: bool = False) -> None:
        """The trial has ended, or the task. spread: no other trial will come, so those that are left share the devices
        of a node's cores evenly. (A trial's share of a GPU is of that one.)"""
        with self.lock:
            for held in self.held.values():
                if holder in held.holders:
                    self._free(held, holder)
            for node in {node for node, name in self.held if name.startswith(CPU)} if spread else ():
                self._spread([held for (where, _), held in self.held.items() if where == node])

    def close(self) -> None:
        """End all device actors."""
        with self.lock:
            for held in self.held.values():
                ray.kill(held.actor)
            self.held.clear()

    def _spread(self, devices: Sequence[Held]) -> None:
        count = [len(held.holders - held.moving) for held in devices]
        for _ in range(sum(len(held.moving) for held in devices)):
            count[count.index(min(count))] += 1
        while max(count) - min(count) > 1:
            full = devices[count.index(max(count))]
            trial = max((one for one in full.holders - full.moving if isinstance(one, int)), default=None)
            if trial is None:
                return
            full.moving.add(trial)
            full.actor.move.remote(trial)
            count[count.index(max(count))] -= 1
            count[count.index(min(count))] += 1

    def _free(self, held: Held, holder: Holder) -> None:
        held.holders.discard(holder)
        held.moving.discard(holder)
        held.since = time.monotonic()
        if isinstance(holder, int):  # a task has no slot
            held.actor.leave.remote(holder)

    def _emptiest(self, node: str) -> tuple[str, str]:
        there = next(n["Resources"].get("CPU", 1.0) for n in ray.nodes() if n["NodeID"] == node)
        places = [(node, f"{CPU}{i}") for i in range(max(1, int(there // self.cores)))]
        # Of empty places one that has an actor: it need not load the model.
        count = {place: len(self.held[place].holders) if place in self.held else 0.5 for place in places}
        return min(places, key=lambda place: count[place])

    def _start(self, node: str, name: str, arguments: Sequence[Any], on_gpu: bool) -> Any:
        # It asks for no GPU (its trials hold the shares of it), so Ray would not show it the right one.
        environment = MALLOC | {"OMP_NUM_THREADS": str(self.threads)}
        if on_gpu:
            environment["CUDA_VISIBLE_DEVICES"] = name
        return (
            ray.remote(DeviceActor)
            .options(
                num_cpus=0,
                max_concurrency=2 * self.slots + 4,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": environment},
            )
            .remote(*arguments, threads=self.threads, splits=self.splits[node])
        )

    def _end_idle(self) -> None:
        while True:
            time.sleep(self.idle_seconds / 4)
            with self.lock:
                for place, held in list(self.held.items()):
                    if not held.holders and time.monotonic() - held.since > self.idle_seconds:
                        ray.kill(held.actor)
                        del self.held[place]
