"""Which cluster a sweep uses, and what a trial asks of it; on logical GPUs, which Ray counts like real ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray

from rayul.errors import InputError
from rayul.spec import Resources
from rayul.sweep.cluster import allocate
from rayul.sweep.connection import connected


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_a_connection_that_is_there_is_used_and_left_alone(two_gpus: None) -> None:
    with connected("127.0.0.1:1", print):
        assert ray.cluster_resources()["GPU"] == 2
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("asked", "gpu", "slots"),
    [
        ({"gpu": 1, "trials_per_gpu": 1}, 1, 2),
        ({"gpu": 1, "trials_per_gpu": 2}, 1 / 2, 4),
        ({"gpu": 1, "trials_per_gpu": 3}, 1 / 3, 6),
        ({"gpu": 1, "trials_per_gpu": 49}, 1 / 49, 98),
        ({"gpu": 0.6, "trials_per_gpu": 1}, 0.6, 2),
        ({"gpu": 2, "trials_per_gpu": 1}, 2, 1),
    ],
)
def test_a_trial_asks_for_its_fraction_of_a_gpu(two_gpus: None, asked: Any, gpu: float, slots: int) -> None:
    allocation = allocate(Resources(**asked))
    assert allocation.gpu == pytest.approx(gpu)
    assert allocation.resources["gpu"] == allocation.gpu
    assert allocation.slots == slots
    assert allocation.cpu * slots <= 2 + 1e-9, "its cores must not leave a GPU idle"
    assert f"{slots} trial{'s' if slots > 1 else ''} at a time" in allocation.line


@pytest.mark.parametrize("trials_per_gpu", [1, 2, 3])
def test_ray_runs_exactly_so_many_at_a_time(two_gpus: None, trials_per_gpu: int) -> None:
    allocation = allocate(Resources(gpu=1, trials_per_gpu=trials_per_gpu))

    class Trial:
        def gpus(self) -> list[Any]:
            return ray.get_gpu_ids()

    remote = ray.remote(num_cpus=allocation.cpu, num_gpus=allocation.gpu)(Trial)
    actors = [remote.remote() for _ in range(allocation.slots + 1)]
    ready, waiting = ray.wait([a.gpus.remote() for a in actors], num_returns=allocation.slots, timeout=120)
    assert len(ready) == allocation.slots
    devices = [device for (device,) in ray.get(ready)]
    assert sorted(devices) == sorted([*set(devices)] * trials_per_gpu)
    assert len(set(devices)) == 2
    assert ray.wait(waiting, timeout=1)[0] == []
    for actor in actors:
        ray.kill(actor)


@pytest.mark.parametrize("asked", [{"gpu": 4}, {"gpu": 3, "trials_per_gpu": 2}, {"gpu": 8, "trials_per_gpu": 4}])
def test_what_can_never_run_is_refused(two_gpus: None, asked: Any) -> None:
    with pytest.raises(InputError, match="the cluster has 2") as caught:
        allocate(Resources(**asked))
    assert "resources.gpu" in caught.value.hint


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"trials_per_gpu": 4}, "16 trials at a time, 0.25 GPU each: 4 GPU asked for, room for 8 now"),
        ({"trials_per_gpu": 3}, "16 trials at a time, 0.333333 GPU each: 6 GPU asked for, room for 6 now"),
        ({"gpu": 0.6}, "16 trials at a time, 0.6 GPU each: 16 GPU asked for, room for 2 now"),
        ({"gpu": 4}, "16 trials at a time, 4 GPU each: 64 GPU asked for, room for 0 now"),
    ],
)
def test_who_asks_for_more_than_there_is_reads_how_many_gpus(two_gpus: None, asked: Any, said: str) -> None:
    """Two GPUs, and one trial fits on each where it takes more than half."""
    allocation = allocate(Resources(concurrency=16, **asked))
    assert said in allocation.line
    assert "the rest wait for nodes to join" in allocation.line
    assert allocation.awaits == ("a node with 4 GPUs" if asked.get("gpu") == 4 else "")


def test_trials_that_hold_gpus_and_run_on_cores_are_told_of(two_gpus: None) -> None:
    allocation = allocate(Resources(gpu=1))
    assert "PyTorch sees none" in allocation.unseen("cpu")
    assert not allocation.unseen("NVIDIA L4")
    assert not allocate(Resources(gpu=0)).unseen("cpu")


def test_a_spec_without_gpu_runs_on_cores(two_gpus: None) -> None:
    allocation = allocate(Resources(gpu=0, cpu=1))
    assert (allocation.gpu, allocation.cpu, allocation.slots) == (0, 1, 2)
    assert allocation.resources == {"cpu": 1}
    assert allocation.line.endswith("(on CPU)")


def test_more_cores_than_there_are_become_all_there_are(two_gpus: None) -> None:
    assert allocate(Resources(gpu=0, cpu=64)).cpu == 2
