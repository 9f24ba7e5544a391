"""The broker: one actor that owns the device actors, so that they live as long as the driver and no longer.

An actor that a trial made would die with that trial; a detached one would outlive a killed driver.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayul.sweep.cluster import Share

MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TOP_PAD_": str(2**26)}
"""glibc keeps freed memory: without it the activations of every step go back to the system, and come again a page fault
at a time (on the testbed a third of the time)."""

IDLE_SECONDS = 20.0
"""A device without trials ends after it: on a GPU it holds memory, and its node could be given back."""


class DeviceActor:
    """A `Device` as Ray's actor. Every client that holds its handle imports this module, which therefore knows nothing
    of torch: a second and 150 MB for each of them."""

    def __init__(self, arguments: dict[str, Any], threads: int) -> None:
        from rayul.sweep.device import Device

        self.device = Device(**arguments, threads=threads)

    def join(self, number: int, params: dict[str, Any]) -> None:
        self.device.join(number, params)

    def next(self, number: int) -> dict[str, Any]:
        return self.device.next(number)

    def leave(self, number: int) -> None:
        self.device.leave(number)


@dataclass
class Held:
    """A device actor and the numbers of the trials on it."""

    actor: Any
    numbers: set[int] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)
    """When it last had a trial join or leave."""


@contextmanager
def broker(share: Share, arguments: dict[str, Any]) -> Iterator[Any]:
    """A broker beside the driver; at the end all its devices are gone. arguments: of `Device`, without its threads."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    cores = share.cpu * share.pack
    actor = (
        ray.remote(Broker)
        .options(num_cpus=0, scheduling_strategy=here)
        .remote(cores, share.pack, share.threads, [ray.put(arguments)])
    )
    try:
        yield actor
    finally:
        ray.get(actor.close.remote())
        ray.kill(actor)


class Broker:
    """Gives each trial the device actor of its place: a GPU of a node, or, on CPU, the emptiest of the node's.

    cores: of a device where no GPUs are used. slots: trials a device takes. arguments: a reference to those of `Device`
    in a list, in which Ray leaves it a reference: whoever unpickles them imports torch, and all devices wait for it.
    """

    def __init__(
        self,
        cores: float,
        slots: int,
        threads: int,
        arguments: Sequence[Any],
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.cores, self.slots, self.threads, self.arguments = cores, slots, threads, arguments
        self.idle_seconds = idle_seconds
        self.held: dict[tuple[str, str], Held] = {}
        self.lock = threading.Lock()
        threading.Thread(target=self._end_idle, daemon=True).start()

    def device(self, number: int, node: str, gpu: str | None, lost: str | None = None) -> Any:
        """The actor for a trial whose client is on `node` and holds a share of `gpu`.

        lost: id of an actor that the client found dead; it is replaced.
        """
        with self.lock:
            for place, held in list(self.held.items()):
                if number in held.numbers:
                    self._free(held, number)
                if held.actor._actor_id.hex() == lost:
                    del self.held[place]
            place = (node, gpu) if gpu is not None else self._emptiest(node)
            if place not in self.held:
                self.held[place] = Held(self._start(*place, on_gpu=gpu is not None))
            held = self.held[place]
            held.numbers.add(number)
            held.since = time.monotonic()
            return held.actor

    def release(self, number: int) -> None:
        """The trial has ended."""
        with self.lock:
            for held in self.held.values():
                if number in held.numbers:
                    self._free(held, number)

    def close(self) -> None:
        """End all device actors."""
        with self.lock:
            for held in self.held.values():
                ray.kill(held.actor)
            self.held.clear()

    def _free(self, held: Held, number: int) -> None:
        held.numbers.discard(number)
        held.since = time.monotonic()
        held.actor.leave.remote(number)

    def _emptiest(self, node: str) -> tuple[str, str]:
        there = next(n["Resources"].get("CPU", 1.0) for n in ray.nodes() if n["NodeID"] == node)
        places = [(node, f"cpu {i}") for i in range(max(1, int(there // self.cores)))]
        return min(places, key=lambda place: len(self.held[place].numbers) if place in self.held else 0)

    def _start(self, node: str, name: str, on_gpu: bool) -> Any:
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
            .remote(*self.arguments, threads=self.threads)
        )

    def _end_idle(self) -> None:
        while True:
            time.sleep(self.idle_seconds / 4)
            with self.lock:
                for place, held in list(self.held.items()):
                    if not held.numbers and time.monotonic() - held.since > self.idle_seconds:
                        ray.kill(held.actor)
                        del self.held[place]
