"""The life of a device, as the table in `rayul/sweep/packs/__init__.py` has it: a test of its name for each row.

What needs no second process is tried on a `Device` in this one, the rest on a `Broker` and its actors.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from devices import HANGS, SHAPE, STEPS, arguments_of, devices_of, failed, gone, join, of, reported
from driver import born, children_of, ended, rows, start, sweep
from test_faults import finished_is_kept, wait

from rayul.errors import InputError
from rayul.records import BASELINE, CHECKPOINTS, ORACLE, Evaluation, adapter_folder, trial_id
from rayul.sweep import packs
from rayul.sweep.cluster import Allocation  # before ray.tune: it silences Ray's own output
from rayul.sweep.deadline import Deadline
from rayul.sweep.driver_disk import DriverDisk
from rayul.sweep.losses import Lost, lost
from rayul.sweep.packs import DeviceBroken, Moved
from rayul.sweep.packs.broker import Broker, broker
from rayul.sweep.packs.device import Device
from rayul.sweep.packs.measurer import DeviceMeasurer
from rayul.sweep.packs.packed_trial import PackedTrial
from rayul.sweep.reference import reference_row, verified
from rayul.sweep.result import TrialResult

# isort: split
from ray import tune
from ray.exceptions import RayActorError, RayTaskError

MakeDevice = Callable[..., Any]
BEFORE = Evaluation(BASELINE, 0, mixing=0.0, metrics={"forget.es": 1.0, "retain.es": 1.0})


def tables() -> list[list[list[str]]]:
    """The cells of the table of states and of the table of rows, their heads left out."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", packs.__doc__ or "", re.MULTILINE):
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append(cells[2:])
    return found


def test_the_table_is_whole() -> None:
    """Its rows lead from state to state, into every one and out of it, and each has its test."""
    states, happenings = tables()
    known = {row[0] for row in states}
    left, entered = set(), set()
    for name, before, _, after, _ in happenings:
        assert f"test_{name.replace(' ', '_')}" in globals(), name
        left |= set(before.split(", ")) - {"any"}
        entered |= set(after.split(", ")) - {"same"}
    assert left == known
    assert entered == known


# --- a device in this process ----------------------------------------------------------------------------------------


def waits(call: Callable[[], object]) -> tuple[threading.Thread, list[Exception]]:
    """A call in a thread of its own, and what it has raised."""
    raised: list[Exception] = []

    def work() -> None:
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, raised


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def undisturbed(device: Any) -> list[Evaluation]:
    """The rows of trial 0 where nothing happens to it."""
    device.join(0, {}, BEFORE)
    return reported(device, 0)


def steps_of(rows: list[Evaluation]) -> list[int]:
    return [row.step for row in rows]


def test_refused(make_device: MakeDevice) -> None:
    device = make_device(lora={"target_modules": ["no_such_layer"]})
    for call in (
        lambda: device.measure(BASELINE),
        lambda: device.verify([]),
        lambda: device.join(0, {}, BEFORE),
        lambda: device.next(0),
    ):
        with pytest.raises(InputError, match="no_such_layer"):
            call()
    device.leave(0)


def test_joined(make_device: MakeDevice) -> None:
    """The first on an idle device, the second beside it."""
    device = make_device()
    join(device, 0)
    first = reported(device, 0, 2)
    join(device, 1)
    assert steps_of(reported(device, 1)) == [0, 2, 4, 6]
    assert steps_of(first + reported(device, 0)) == [0, 2, 4, 6]


def test_queued(make_device: MakeDevice) -> None:
    device = make_device()
    for number in (0, 1):
        join(device, number)
    joined = threading.Event()
    threading.Thread(target=lambda: (join(device, 2), joined.set()), daemon=True).start()
    reported(device, 0)
    assert not joined.wait(0.5), "a trial that has ended keeps its slot until it leaves"
    device.leave(0)
    assert joined.wait(60)
    assert [row.step for row in reported(device, 2)] == [0, 2, 4, 6]
    assert [row.step for row in reported(device, 1)] == [0, 2, 4, 6]


def test_reported(make_device: MakeDevice) -> None:
    """It goes on to its next evaluation while its client has the last one, and no further; the other does not wait."""
    device = make_device()
    for number in (0, 1):
        join(device, number)
    assert steps_of(reported(device, 0, 1)) == [0]
    assert steps_of(reported(device, 1)) == [0, 2, 4, 6]
    until(lambda: len(device.seats[0].ready) > 0)
    (slot,) = [s for s in device.packs.packs[0].slots.values() if s.job.trial_id == "0000"]
    assert (slot.step, len(device.seats[0].ready)) == (2, 1)
    assert steps_of(reported(device, 0)) == [2, 4, 6]


RAISES = """
import numpy as np

def mine(scores):
    if not np.isfinite(scores.logp).all():
        raise ZeroDivisionError("this model says nothing")
    return float(scores.match.mean())

mine.better = "higher"
"""


def test_trial_failed(make_device: MakeDevice, tmp_path: Path) -> None:
    """Here by a metric of one's own, which sees the trials of a pack one by one after a forward that they share."""
    (tmp_path / "raises.py").write_text(RAISES)
    sections: dict[str, Any] = {
        "training": STEPS | {"lr": {"choice": [1e-2, 1e25]}, "evaluate_every": 1},
        "evaluate": {"metrics": ["es", f"{tmp_path}/raises.py:mine"]},
    }
    alone, device = make_device(**sections), make_device(**sections)
    join(alone, 1, {"training.lr": 1e-2})
    for number, lr in enumerate((1e25, 1e-2)):
        join(device, number, {"training.lr": lr})
    until(lambda: all(seat.ready for seat in device.seats.values()))
    with device.base_in_use:  # so that their next evaluation is in one turn
        before = [reported(device, number, 1) for number in (0, 1)]
    assert "this model says nothing" in failed(device, 0).reason
    assert of(before[1] + reported(device, 1)) == of(reported(alone, 1))


def test_pack_failed(make_device: MakeDevice) -> None:
    device = make_device()
    for number in (0, 1):
        join(device, number)
        reported(device, number, 1)
    broken = [True]

    def fault(module: Any, inputs: Any) -> None:
        if broken:
            raise ArithmeticError("the kernel says no")

    with device.base_in_use:
        device.packs.task.base.get_input_embeddings().register_forward_pre_hook(fault)
    for number in (0, 1):
        assert failed(device, number).reason == "ArithmeticError: the kernel says no"
        device.leave(number)
    broken.clear()
    join(device, 2)
    assert steps_of(reported(device, 2)) == [0, 2, 4, 6]


def test_split(make_device: MakeDevice) -> None:
    """By a forward that says that its memory has run out, as torch does, when it has more rows than one trial's. Both
    trials go on from where they were, and a third finds a slot when one of them has left."""
    small: dict[str, Any] = {"evaluate": {"batch_size": 4}}
    whole, device = make_device(**small), make_device(**small)
    for one in (whole, device):
        for number in (0, 1):
            join(one, number)
            reported(one, number, 1)

    def fault(module: Any, inputs: Any) -> None:
        if len(inputs[0]) > 4:
            raise MemoryError

    assert device.packs.splits == []
    with device.base_in_use:
        device.packs.task.base.get_input_embeddings().register_forward_pre_hook(fault)
    for number in (0, 1):
        found, expected = reported(device, number), reported(whole, number)
        assert steps_of(found) == steps_of(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-3)
    assert device.packs.splits == [SHAPE]
    device.leave(1)
    join(device, 2)
    assert {row.numerics.partition(" of")[0] for row in reported(device, 2)} == {"1 slots"}


def test_checkpointed(make_device: MakeDevice) -> None:
    """And only from what its client had taken: the last row that it asked beyond is in the journal."""
    undisturbed = make_device()
    join(undisturbed, 0)
    expected = reported(undisturbed, 0)
    first = make_device(checkpoint_every=0.0)
    join(first, 0)
    reported(first, 0, 3)  # has rows 0, 2 and 4; with the question for 4 row 2 was known to be kept
    second = make_device()
    join(second, 0)
    rest = reported(second, 0)
    assert [row.step for row in rest] == [4, 6]
    assert of(rest) == of(expected)[-2:]


def test_left(make_device: MakeDevice) -> None:
    device = make_device()
    join(device, 0)
    reported(device, 0)
    ended: list[Exception] = []

    def wait() -> None:
        try:
            device.next(0)
        except RuntimeError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    device.leave(0)
    thread.join(60)
    assert len(ended) == 1
    join(device, 1)
    join(device, 2)
    waiting, raised = waits(lambda: device.join(3, {}, BEFORE))
    until(lambda: 3 in device.seats)
    device.leave(3)
    waiting.join(60)
    assert [type(error) for error in raised] == [RuntimeError]
    device.leave(1)
    join(device, 4)
    assert steps_of(reported(device, 4)) == [0, 2, 4, 6], "nobody has the slot that trial 3 waited for"


def test_rejoined(make_device: MakeDevice) -> None:
    device = make_device()
    join(device, 0)
    seen = reported(device, 0, 2)
    join(device, 0)
    again = reported(device, 0)
    assert of(again)[:2] == of(seen)
    join(device, 1)
    first, gave_way = waits(lambda: device.join(2, {}, BEFORE))
    until(lambda: 2 in device.seats)
    former = device.seats[2]
    second, raised = waits(lambda: device.join(2, {}, BEFORE))
    first.join(60)
    assert [type(error) for error in gave_way] == [RuntimeError]
    assert former.left
    device.leave(0)
    second.join(60)
    assert not raised
    assert steps_of(reported(device, 2)) == [0, 2, 4, 6]
    slots = [slot for pack in device.packs.packs for slot in pack.slots.values()]
    assert sorted(slot.job.trial_id for slot in slots) == ["0001", "0002"]


def test_measured(make_device: MakeDevice, tiny_folder: Path, tmp_path: Path) -> None:
    """Baseline, oracle and exported adapters, as a process of its own measures them, while a trial trains."""
    sections = {
        "objectives": {"forget.prob": "minimize", "retain.prob": "maximize"},
        "oracle": str(other_model(tiny_folder, tmp_path)),
    }
    undisturbed, device = make_device(**sections), make_device(**sections)
    join(undisturbed, 0)
    expected = reported(undisturbed, 0)
    points = [row for row in expected if adapter_folder(tmp_path, row).exists()]
    assert points, "some row is on the front"
    join(device, 0)
    found = []
    for name in (BASELINE, ORACLE, BASELINE):
        found += reported(device, 0, 1)
        alone = reference_row(device.spec, device.sets, device.disk, name)
        assert device.measure(name).metrics == alone.metrics
    assert device.measure(BASELINE).metrics != device.measure(ORACLE).metrics
    assert device.verify(points) == []
    notes = [json.loads((adapter_folder(tmp_path, row) / "rayul.json").read_text()) for row in points]
    assert not any(verified(device.spec, device.sets, device.disk, points))
    assert notes == [json.loads((adapter_folder(tmp_path, row) / "rayul.json").read_text()) for row in points]
    assert of(found + reported(device, 0)) == of(expected)


def other_model(folder: Path, place: Path) -> Path:
    """A model that is surer of what it says."""
    import torch
    from transformers import AutoModelForCausalLM

    other = Path(shutil.copytree(folder, place / "other"))
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    model.save_pretrained(other)
    return other


class Stale(DriverDisk):
    """Of a node whose connection to the driver's disk is lost."""

    def with_models(self, spec: Any) -> Any:
        raise OSError("stale file handle")


def test_an_error_while_it_loads_breaks_it(make_spec: Callable[..., Any], sets: Any, tmp_path: Path) -> None:
    arguments = arguments_of(make_spec, sets, tmp_path)
    device = Device(**arguments | {"disk": Stale(tmp_path, tmp_path / ".mark", "", {})}, threads=1)
    with pytest.raises(DeviceBroken, match="OSError: stale file handle"):
        device.join(0, {}, BEFORE)


# --- actors ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def node(local_ray: None) -> str:
    found: str = ray.get_runtime_context().get_node_id()
    return found


@pytest.fixture
def make_broker(node: str, make_spec: Callable[..., Any], sets: Any, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """make_broker(cores=..., idle_seconds=..., of a device) -> a broker in this process, for devices of two trials."""
    made: list[Broker] = []

    def make(cores: float = 2.0, idle_seconds: float = 60.0, **more: Any) -> Broker:
        one: Any = Broker(cores, 2, threads=1, idle_seconds=idle_seconds)
        one.device = partial(one.device, arguments=[ray.put(arguments_of(make_spec, sets, tmp_path, **more))])
        made.append(one)
        return made[-1]

    yield make
    devices = {pid: born(pid) for pid in devices_of(os.getpid())}
    for one in made:
        one.close()
    gone(devices)


class Clients:
    """Clients of trials, as Tune makes them, and the broker that they ask: an actor."""

    def __init__(self, arguments: dict[str, Any], cpu: float = 1.0) -> None:
        self.open = broker(Allocation(cpu=cpu, gpu=0.0, slots=2, line="", pack=2), arguments)
        self.devices = self.open.__enter__()
        self.kind = ray.remote(num_cpus=0)(tune.with_parameters(PackedTrial, devices=self.devices, baseline=BEFORE))

    def start(self, number: int) -> Any:
        return self.kind.remote(config={"number": number, "params": {}})

    def close(self) -> None:
        devices = {pid: born(pid) for pid in devices_of(os.getpid())}
        self.open.__exit__(None, None, None)
        gone(devices)


@pytest.fixture
def make_clients(
    node: str, make_spec: Callable[..., Any], sets: Any, tmp_path: Path
) -> Iterator[Callable[..., Clients]]:
    made: list[Clients] = []

    def make(cpu: float = 1.0, **more: Any) -> Clients:
        made.append(Clients(arguments_of(make_spec, sets, tmp_path, **more), cpu))
        return made[-1]

    yield make
    for one in made:
        one.close()


def result_of(client: Any) -> Evaluation:
    """A client's next result."""
    (row,) = TrialResult.from_ray(ray.get(client.train.remote())).evaluations
    return row


def error_of(call: Callable[[], object]) -> Exception:
    """What a call raises when it is made again and again."""
    while True:
        try:
            call()
        except Exception as error:
            return error


def identity(device: Any) -> str:
    found: str = device._actor_id.hex()
    return found


@pytest.mark.slow
def test_created(make_broker: Callable[..., Broker], node: str) -> None:
    broker = make_broker()
    assert not broker.held
    device = broker.device(0, node, None)
    (held,) = broker.held.values()
    assert held.actor is device
    assert held.holders == {0}


@pytest.mark.slow
def test_loaded(make_broker: Callable[..., Broker], node: str) -> None:
    """Both calls are made before there is a process."""
    device = make_broker().device(0, node, None)
    measured, joined = device.measure.remote(BASELINE), device.join.remote(0, {}, BEFORE)
    assert ray.get(joined) is None
    assert {"forget.es", "retain_report.es"} <= ray.get(measured).metrics.keys()
    assert ray.get(device.next.remote(0)).evaluations[0].metrics == BEFORE.metrics


@pytest.mark.slow
def test_shared(make_broker: Callable[..., Broker], node: str) -> None:
    broker = make_broker(cores=2.0)
    first, second = broker.device(0, node, None), broker.device(1, node, None)
    assert identity(first) == identity(second)
    on_gpu, beside, other = broker.device(2, node, "0"), broker.device(3, node, "0"), broker.device(4, node, "1")
    assert identity(on_gpu) == identity(beside)
    assert len({identity(device) for device in (first, on_gpu, other)}) == 3


@pytest.mark.slow
def test_spread(make_broker: Callable[..., Broker], node: str) -> None:
    broker = make_broker(cores=1.0)
    devices = [identity(broker.device(number, node, None)) for number in range(3)]
    assert devices[0] != devices[1]
    broker.release(0)
    broker.release(2)
    assert identity(broker.device(3, node, None)) == devices[0]
    assert broker.device(1, node, None) == broker.device(1, node, None), "who is alone somewhere stays there"


@pytest.mark.slow
def test_moved(make_broker: Callable[..., Broker], node: str) -> None:
    broker = make_broker()
    former = broker.device(0, node, "0")
    ray.get(former.join.remote(0, {}, BEFORE))
    assert ray.get(former.next.remote(0)).evaluations[0].step == 0
    now = broker.device(0, node, "1")
    error = error_of(lambda: ray.get(former.next.remote(0)))  # in the middle of its results, or after
    assert isinstance(error, RuntimeError)
    assert "trial 0 is not on this device" in str(error)
    ray.get(now.join.remote(0, {}, BEFORE))
    assert [ray.get(now.next.remote(0)).evaluations[0].step for _ in range(4)] == [0, 2, 4, 6]


@pytest.mark.parametrize("every", [2, "auto"])
@pytest.mark.parametrize("taken", [0, 1, 2])
def test_spread_out(make_device: MakeDevice, taken: int, every: int | str) -> None:
    """Of two trials on a device one goes on on another: both have the rows that they would have had, each once, and the
    one that stays does not wait. An evaluation that repeats the last one does so there, too."""
    steady = {"training": {**STEPS, "lr": 1e-6, "evaluate_every": every}}
    alone, former, now = (make_device(**steady) for _ in range(3))
    for device in (alone, former):
        for number in (0, 1):
            device.join(number, {}, BEFORE)
    expected = [reported(alone, number) for number in (0, 1)]
    assert any(row.step and not row.rows for row in expected[1]) == (every == "auto")
    found = reported(former, 1, taken)
    former.move(1)
    assert isinstance(error_of(lambda: found.extend(reported(former, 1, 1))), Moved)
    assert rows_of(reported(former, 0)) == rows_of(expected[0])
    assert len(found) < len(expected[1])
    now.join(1, {}, BEFORE)
    assert rows_of(found + reported(now, 1)) == rows_of(expected[1])


def rows_of(rows: list[Evaluation]) -> list[Evaluation]:
    """Without the clock."""
    return [replace(row, train_seconds=0.0) for row in rows]


BREAKS = """
from pathlib import Path
from rayul.unlearn.pack.parameters import Parameters

def fails(*_):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

def mine(scores):
    if Path({file!r}).exists():
        Parameters.clear = fails  # after such an error every call of the GPU fails
        fails()
    return float(scores.match.mean())

mine.better = "higher"
"""


@pytest.fixture
def breaking(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A file that breaks a device while it is there, and the sections of a spec that make it so."""
    file = tmp_path / "break"
    (tmp_path / "breaks.py").write_text(BREAKS.format(file=str(file)))
    return file, {"evaluate": {"metrics": ["es", f"{tmp_path}/breaks.py:mine"]}}


@pytest.mark.slow
def test_broken(
    make_clients: Callable[..., Clients], make_device: MakeDevice, breaking: tuple[Path, dict[str, Any]]
) -> None:
    """Whoever asks hears why, and the broken device is not the next one's."""
    file, sections = breaking
    expected = undisturbed(make_device(**sections))
    clients = make_clients(checkpoint_every=0.0, **sections)
    first, second = clients.start(0), clients.start(1)
    assert [result_of(client).step for client in (first, second, first)] == [0, 0, 2]
    file.touch()
    error = error_of(lambda: result_of(first))
    assert isinstance(error, RayTaskError)
    assert isinstance(error.cause, DeviceBroken)
    assert "RuntimeError: CUDA error: an illegal memory access" in error.cause.message
    assert isinstance(error_of(lambda: result_of(second)), DeviceBroken | RayActorError)
    file.unlink()
    again = clients.start(0)
    rest = [result_of(again)]
    while rest[-1].step < 6:
        rest.append(result_of(again))
    assert rest[0].step >= 2
    assert of(rest) == of(expected[-len(rest) :])


def killed() -> dict[int, str]:
    """Kill the device actors of this process; when each was born."""
    victims = {pid: born(pid) for pid in devices_of(os.getpid())}
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    return victims


@pytest.mark.slow
def test_died(make_clients: Callable[..., Clients], make_device: MakeDevice) -> None:
    """With the trial's next result, and then while nobody calls."""
    expected = undisturbed(make_device())
    clients = make_clients(checkpoint_every=0.0)
    client = clients.start(0)
    found = [result_of(client) for _ in range(3)]
    killed()
    with pytest.raises(RayActorError):
        result_of(client)
    again = clients.start(0)  # as Tune does
    rest = [result_of(again) for _ in range(2)]
    assert of(found) == of(expected[:3])
    assert of(rest) == of(expected[2:])
    gone(killed())
    assert result_of(clients.start(1)).step == 0


@pytest.mark.slow
def test_narrowed(make_clients: Callable[..., Clients], make_device: MakeDevice) -> None:
    """Two trials on a device of two slots, which its node has no memory for. Here it is killed, and a holder says why;
    Ray's own monitor does both in test_odd_machines."""
    expected = undisturbed(make_device())
    clients = make_clients(checkpoint_every=0.0)
    client = clients.start(0)
    found = [result_of(client) for _ in range(3)]
    assert found[-1].numerics.startswith("2 slots")
    lost_one = ray.get(clients.devices.here(1))
    killed()
    ray.get(clients.devices.here(1, lost_one._actor_id.hex(), no_memory=True))
    again = clients.start(0)
    rest = [result_of(again) for _ in range(2)]
    assert {row.numerics.partition(" of")[0] for row in rest} == {"1 slots"}
    for ours, theirs in zip(rest, expected[2:], strict=True):
        assert ours.step == theirs.step
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-3)


@pytest.mark.slow
def test_the_last_trials_share_the_devices(
    make_clients: Callable[..., Clients], make_device: MakeDevice, tmp_path: Path
) -> None:
    """Two devices of a core each: when one is empty and no trial is to come, one of the other's goes on there, and its
    client's results are those that it would have had."""
    alone = make_device()
    alone.join(2, {}, BEFORE)
    expected = reported(alone, 2)
    clients = make_clients(cpu=0.5)
    stays, ends, moves = clients.start(0), clients.start(1), clients.start(2)
    assert result_of(stays).step == 0  # one after the other: the third shares the device of the first
    assert result_of(ends).step == 0
    found = [result_of(moves)]
    ray.get(clients.devices.release(1, spread=True))
    found += [result_of(moves) for _ in expected[1:]]
    assert of(found) == of(expected)
    assert [path.stem for path in (tmp_path / CHECKPOINTS).glob("*")] == [trial_id(2)]
    assert [result_of(stays).step for _ in expected[1:]] == steps_of(expected[1:])
    assert len(devices_of(os.getpid())) == 2


@pytest.mark.slow
def test_lost_its_broker(make_clients: Callable[..., Clients], make_device: MakeDevice) -> None:
    """The device goes with it. Who was there hears that this was no fault of its trial, and the next broker has another
    device for it."""
    expected = undisturbed(make_device())
    clients = make_clients(checkpoint_every=0.0)
    client = clients.start(0)
    found = [result_of(client) for _ in range(3)]
    devices = {pid: born(pid) for pid in devices_of(os.getpid())}
    (pid,) = [pid for pid, line in children_of(os.getpid()).items() if line.startswith("ray::Broker")]
    os.kill(pid, signal.SIGKILL)
    gone(devices)
    assert lost(str(error_of(lambda: result_of(client)))) == Lost("")
    again = clients.start(0)  # as Tune does
    rest = [result_of(again) for _ in range(2)]
    assert of(found) == of(expected[:3])
    assert of(rest) == of(expected[2:])


@pytest.mark.slow
def test_replaced(make_broker: Callable[..., Broker], node: str) -> None:
    """At the word of the first who tells. The former device is ended: it may live, and only be broken."""
    broker = make_broker()
    former = broker.device(0, node, None)
    assert broker.device(1, node, None) == former
    ray.get(former.leave.remote(0))  # it has loaded
    now = broker.device(0, node, None, identity(former))
    assert now != former
    assert broker.device(1, node, None, identity(former)) == now
    (held,) = broker.held.values()
    assert held.holders == {0, 1}
    assert isinstance(error_of(lambda: ray.get(former.leave.remote(0))), RayActorError)
    ray.get(now.join.remote(0, {}, BEFORE))
    assert ray.get(now.next.remote(0)).evaluations[0].step == 0


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_a_device_that_breaks_is_replaced_for_those_who_measure(
    make_clients: Callable[..., Clients], breaking: tuple[Path, dict[str, Any]], own: bool
) -> None:
    file, sections = breaking
    clients = make_clients(**sections)
    client = clients.start(0)
    file.touch()
    assert result_of(client).step == 0
    (device,) = devices_of(os.getpid())
    before = {device: born(device)}
    broken = ray.get(clients.devices.here(1))
    assert isinstance(error_of(lambda: ray.get(broken.verify.remote([]))), DeviceBroken)
    file.unlink()
    measurer = DeviceMeasurer(clients.devices, Allocation(cpu=1.0, gpu=0.0, slots=2, line="", pack=2), own=own)
    assert {"forget.mine", "retain_report.mine"} <= measurer.measure([BASELINE])[BASELINE].metrics.keys()
    gone(before)


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_who_measures_hears_why_a_device_refused(make_clients: Callable[..., Clients], own: bool) -> None:
    clients = make_clients(lora={"target_modules": ["no_such_layer"]})
    measurer = DeviceMeasurer(clients.devices, Allocation(cpu=1.0, gpu=0.0, slots=2, line="", pack=2), own=own)
    with pytest.raises(InputError, match="no_such_layer"):
        measurer.measure([BASELINE])


@pytest.mark.slow
def test_all_devices_load_while_one_measures(
    local_ray: None, make_spec: Callable[..., Any], sets: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    """On cores of its own a sweep asks them itself, without a process for each question, and the trials find every
    device begun; what is measured does not depend on who asks."""
    oracle = str(other_model(tiny_folder, tmp_path))
    arguments = arguments_of(make_spec, sets, tmp_path, oracle=oracle)
    one_core = Allocation(cpu=0.5, gpu=0.0, slots=4, line="", pack=2)
    with broker(one_core, arguments) as devices:
        found = DeviceMeasurer(devices, one_core, own=True).measure([BASELINE])
        asked = {line for line in children_of(os.getpid()).values() if "_ask" in line}
        assert not asked
        assert len(devices_of(os.getpid())) == 2
        both = DeviceMeasurer(devices, one_core).measure([ORACLE, BASELINE])
    assert list(both) == [ORACLE, BASELINE]
    assert both[BASELINE].metrics == found[BASELINE].metrics != both[ORACLE].metrics
    assert found[BASELINE].metrics == reference_row(arguments["spec"], sets, arguments["disk"], BASELINE).metrics


@pytest.mark.slow
def test_hung(make_broker: Callable[..., Broker], node: str, tmp_path: Path) -> None:
    """The driver has given up the trial by then, and the next one has another device."""
    hang = tmp_path / "hang"
    hang.touch()
    (tmp_path / "hangs.py").write_text(HANGS.format(file=str(hang)))
    metrics = {"metrics": ["es", f"{tmp_path}/hangs.py:mine"]}
    broker = make_broker(evaluate=metrics, search={"trial_time_limit": 5.0})
    deadline, trial = Deadline(5.0), SimpleNamespace(trial_id="tune's", max_failures=5)
    deadline.start(trial)
    device = broker.device(0, node, None)
    ray.get(device.join.remote(0, {}, BEFORE))
    assert ray.get(device.next.remote(0)).evaluations[0].step == 0
    with pytest.raises(RayActorError):
        ray.get(device.next.remote(0))
    deadline.check()
    assert trial.max_failures == 0
    assert "took longer than search.trial_time_limit of 5 s" in deadline.why(trial)
    hang.unlink()
    device = broker.device(1, node, None, identity(device))
    ray.get(device.join.remote(1, {}, BEFORE))
    assert [ray.get(device.next.remote(1)).evaluations[0].step for _ in range(4)] == [0, 2, 4, 6]


@pytest.mark.slow
def test_unused(make_broker: Callable[..., Broker], node: str) -> None:
    broker = make_broker(cores=1.0, idle_seconds=1.0)
    first, second = broker.device(0, node, None), broker.device(1, node, None)
    assert first != second, "each core has a device of its own before any has two trials"
    ray.get([first.join.remote(0, {}, BEFORE), second.join.remote(1, {}, BEFORE)])
    broker.release(0)
    deadline = time.monotonic() + 60
    while len(broker.held) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(first.next.remote(0))
    assert ray.get(second.next.remote(1)).evaluations[-1].step == 0, "one that has a trial stays"
    assert broker.device(2, node, None) != second
    assert broker.device(3, node, None) != broker.device(1, node, None)


@pytest.mark.slow
def test_closed(node: str, make_spec: Callable[..., Any], sets: Any, tmp_path: Path) -> None:
    allocation = Allocation(cpu=1.0, gpu=0.0, slots=2, line="", pack=2)
    with broker(allocation, arguments_of(make_spec, sets, tmp_path)) as of_the_sweep:
        device = ray.get(of_the_sweep.here(0))
        ray.get(device.join.remote(0, {}, BEFORE))
        devices = {pid: born(pid) for pid in devices_of(os.getpid())}
        assert len(devices) == 1
    gone(devices)


@pytest.mark.slow
def test_orphaned(make_spec_file: Callable[..., Path], tmp_path: Path, families: dict[int, str]) -> None:
    """And the resume keeps the packs as they were."""
    driver = start(make_spec_file(checkpoint_every="0.1s"), tmp_path / "results")
    folder = tmp_path / "results" / "tiny"
    wait(lambda: len(rows(folder)) >= 20, driver)
    devices = {pid: born(pid) for pid in devices_of(driver.pid)}
    assert devices
    families |= {pid: born(pid) for pid in children_of(driver.pid)}
    driver.kill()
    driver.wait(timeout=60)
    before = (folder / "evaluations.jsonl").read_bytes().split(b"\n")[:-1]
    gone(devices)
    again = sweep(make_spec_file(trials_per_gpu=2), tmp_path / "results", "--resume")
    assert again.returncode == 0, again.stderr
    finished_is_kept(before, folder)
    assert set(ended(folder).values()) == {"completed"}
    assert {row["numerics"][:7] for row in rows(folder) if row["trial_id"].isdigit()} == {"4 slots"}
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
def test_of_two_clients_of_a_trial_the_one_that_steps_has_the_seat(make_clients: Callable[..., Clients]) -> None:
    """Tune starts a process for each trial, and gives the trial to another that is free before that one is up. And a
    client that takes another's place is not sent away for it."""
    clients = make_clients()
    first = clients.start(0)
    assert result_of(first).step == 0
    in_vain = clients.start(0)
    ray.get(in_vain.__ray_ready__.remote())
    assert result_of(first).step == 2
    ray.kill(first)
    for _ in range(20):
        assert result_of(in_vain).step == 0
        ray.get(in_vain.reset.remote({"number": 0, "params": {}}))
