"""Which Ray cluster a sweep uses, and how much of it one trial asks for."""

from __future__ import annotations

import math
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# These are read when ray.tune is imported: our own progress takes the place of Ray's tables.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Tune's snapshots of an experiment rewrite a file that grows with it, and are read by nobody: our journals are all that
# a resume needs.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "inf")
# A trial that is lost is told in a sentence (fit.Losses), or ends with a reason, not with Ray's traceback.
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
# Ray would start a task again without end while its node has no memory: we say so instead (memory.py).
os.environ.setdefault("RAY_task_oom_retries", "0")
# Ray prints each loss of a process to stdout, forty lines each: what matters of them we say ourselves.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
# run.py takes the signals itself, to know afterwards that it was stopped.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")

import ray
from ray._private import ray_constants, utils, worker
from ray.exceptions import RpcError
from ray.tune.execution import class_cache

from rayul.cores import usable_cores
from rayul.errors import InputError, RayulError
from rayul.spec import Resources
from rayul.sweep.authentication import authenticated, own_token
from rayul.sweep.run_folder import run_folder
from rayul.sweep.sigterm import kept_sigterm
from rayul.words import first_line, plural

# Tune would hand these to its trials in a runtime environment, which Ray writes to a log. Nodes have their own.
class_cache.ENV_VARS_TO_PROPAGATE = {v for v in class_cache.ENV_VARS_TO_PROPAGATE if not v.startswith("AWS_")}
# A variable of PyTorch Lightning's, which would give each trial an environment, and that a process that sets it up.
class_cache.DEFAULT_ENV_VARS = {}


_TOLD = re.compile("Raylet is terminated|The node with node id|A worker died or was killed|Task .* retries remaining")
"""Messages that Ray's nodes send to every driver, the first with the tail of a log. `fit.Losses` tells the same in a
sentence."""

_print = worker.print_to_stdstream


def _print_the_rest(data: dict[str, Any], ignore_prefix: bool) -> None:
    if not any(_TOLD.match(str(line)) for line in data["lines"]):
        _print(data, ignore_prefix)


worker.print_to_stdstream = _print_the_rest  # log_to_driver does not switch them off


@dataclass(frozen=True)
class Allocation:
    """What one trial asks Ray for. slots: trials that fit into the cluster as it is now. line: all of this in words.

    pack: trials that train together on a device, whose `1/pack` a trial then holds. awaits: in words, what has to join
    the cluster before any trial can begin, or "".
    """

    cpu: float
    gpu: float
    slots: int
    line: str
    pack: int = 1
    awaits: str = ""

    @property
    def resources(self) -> dict[str, float]:
        return {"cpu": self.cpu, "gpu": self.gpu} if self.gpu else {"cpu": self.cpu}

    @property
    def threads(self) -> int:
        """Of a process that trains. (1e-6: 3 * (1/3) may be a hair under 1.)"""
        return max(1, int(self.cpu * self.pack + 1e-6))

    @property
    def device(self) -> float:
        """GPUs, or without any cores, that work on a trial while it is its turn."""
        return (self.gpu or self.cpu) * self.pack

    @property
    def parallel(self) -> float:
        """Devices there are: how many trials' worth of work goes on at a time."""
        return self.slots * min(1.0, self.gpu) if self.gpu else self.slots / self.pack

    def unseen(self, device: str) -> str:
        """What is wrong where trials hold GPUs and have run on `device`, or ""."""
        if not self.gpu or device != "cpu":
            return ""
        return (
            "Ray counts GPUs, but PyTorch sees none in the processes of the trials: they run on CPU. Check NVIDIA's "
            "driver (nvidia-smi) and PyTorch's build (torch.version.cuda) on the nodes"
        )


_NODES_MAY_JOIN = ContextVar("_NODES_MAY_JOIN", default=True)
"""Not where Ray is our own: a trial that asks for what this machine lacks would wait for ever."""


_AT_ADDRESS = ContextVar("_AT_ADDRESS", default=False)
"""Where the user named a cluster, which they expect to have what the spec asks for."""


def _may_wait(wanted: Resources) -> bool:
    """Whether trials may ask for more than the cluster has now: `resources.concurrency` says so of one that grows."""
    return wanted.concurrency is not None and _NODES_MAY_JOIN.get()


def connecting(address: str | None) -> str:
    """What `connected` is about to do, for who waits."""
    named = address or os.environ.get("RAY_ADDRESS") or "local"
    return "starting Ray" if named == "local" else "connecting to Ray"


@contextmanager
def connected(address: str | None, warn: Callable[[str], None]) -> Iterator[bool]:
    """Connect to a running cluster (address, or RAY_ADDRESS, which `ray job submit` sets), or start Ray on this machine
    for the time being. Yields whether it is a cluster, which may have other nodes. `warn` hears of a cluster that
    everyone may use.

    A connection that is already there is used and left alone. A Ray of our own listens on the loopback only, asks for a
    token of its own, and leaves nothing behind. Raises InputError for a cluster that does not answer, or refuses.
    """
    if ray.is_initialized():
        yield True
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address and address.startswith("ray://"):
        raise InputError(
            f"--address {address}: over ray:// the driver would run on the cluster and its records would not be here",
            "submit the sweep to the cluster instead: ray job submit -- rayul sweep FILE",
        )
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    with ExitStack() as stack:
        folder = stack.enter_context(run_folder())
        if address in (None, "local"):
            stack.enter_context(own_token(folder))
            # Within the folder: Ray opens the one that it is given to everyone.
            options |= {"_temp_dir": str(folder / "r"), "_node_ip_address": "127.0.0.1", "include_dashboard": False}
            # Ray counts cores of the machine that this process may not use.
            options |= {"num_cpus": min(usable_cores(), utils.get_num_cpus())}
            stack.enter_context(_on_the_loopback())
            stack.callback(_NODES_MAY_JOIN.reset, _NODES_MAY_JOIN.set(False))
            stack.callback(ray.shutdown)  # before token and folder go
            try:
                _init("local", folder, options)
            except Exception as error:  # of any kind: that a node timed out is a plain Exception
                hint = f"set RAY_TMPDIR or TMPDIR to a folder that Ray may write to; it tried {folder}"
                if "timed out" in str(error):
                    hint = "run the command again when the machine is less busy"
                raise RayulError(f"Ray cannot start on this machine: {first_line(error)}", hint) from error
            yield False
            return
        try:
            _knock(address)
            stack.enter_context(authenticated(address, warn))
            stack.callback(ray.shutdown)
            _init(address, folder, options)
            stack.callback(_AT_ADDRESS.reset, _AT_ADDRESS.set(True))
        except (OSError, ValueError, RuntimeError, RpcError) as error:
            raise InputError(
                f"no Ray cluster at {address}: {error}", "start one with `ray start --head`, or leave --address out"
            ) from error
        yield True


@contextmanager
def _on_the_loopback() -> Iterator[None]:
    """Let Ray listen at 127.0.0.1 where it is asked to: on Linux it would take an address that others can reach, in
    case that nodes join, which it does not where clusters are off, as by default on macOS."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _init(address: str, folder: Path, options: Mapping[str, Any]) -> None:
    # Ray lets workers import from the current folder, which may be one that somebody else filled.
    with kept_sigterm(), chdir(folder):
        ray.init(address=address, **options)


def cluster_line() -> str:
    """Which cluster it is and what it has, in words."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    count = Counter[str]()
    for node in nodes:
        names = [key.partition(":")[2] for key in node if key.startswith("accelerator_type:")]
        if node.get("GPU"):
            count[names[0] if names else "of no known type"] += int(node["GPU"])
    kinds = ", ".join(f"{number} {name}" for name, number in count.most_common())
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    gpus = f"{sum(count.values())} GPU ({kinds})" if count else "no GPU"
    address = ray.get_runtime_context().gcs_address
    return f"Ray cluster {address}: {len(nodes)} node{'s' * (len(nodes) != 1)}, {cpus:g} CPU, {gpus}"


def _knock(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself tries for three minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def allocate(wanted: Resources, pack: int = 1) -> Allocation:
    """What one trial gets of the connected cluster: its fraction of a GPU where there are any, or where the cluster may
    grow (resources.concurrency), else of the cores.

    pack: trials that train together on a device; with 1, `trials_per_gpu` processes share a GPU. Counted node by node,
    since a trial never spans two. Raises InputError where a device is more GPUs than any node has, for which Ray would
    wait without end, and where a cluster that the user named has none of the GPUs that trials ask for.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [node.get("CPU", 0.0) for node in nodes]
    gpus = [node.get("GPU", 0.0) for node in nodes]
    have = f"{sum(gpus):g} GPU, {sum(cpus):g} CPU" if sum(gpus) else f"{sum(cpus):g} CPU"
    together = f" (packs of {pack})" if pack > 1 else ""
    if not on_cpu(wanted):
        sharing = pack if pack > 1 else 1 if wanted.trials_per_gpu == "auto" else wanted.trials_per_gpu
        gpu = wanted.gpu / sharing
        if (not _may_wait(wanted) and wanted.gpu > max(gpus)) or (gpu > 1 and gpu % 1):
            raise InputError(
                f"resources: a device is {wanted.gpu:g} GPUs, of which a trial gets {gpu:g} (gpu {wanted.gpu:g} / "
                f"trials_per_gpu {sharing}); the cluster has {sum(gpus):g}, {max(gpus):g} at most on one node, and "
                "more than one must be a whole number",
                "change resources.gpu or resources.trials_per_gpu, or name a larger cluster with --address",
            )
        # A trial's cores must not leave a GPU idle: 8 trials share a GPU on a machine of 4 cores per GPU.
        cpu = min([wanted.cpu / pack, *(max(c / g * gpu, 0.01) for c, g in zip(cpus, gpus, strict=True) if g)])
        # A fraction never spans two GPUs. 1e-6: 1 / (1/49) is a hair under 49.
        on_one = int(1 / gpu + 1e-6)
        fitting = sum(int(g) * on_one if gpu <= 1 else int(g // gpu) for g in gpus)
        slots = wanted.concurrency or fitting
        asked = math.ceil(slots / on_one) if gpu <= 1 else slots * gpu
        growth = _growth(slots, fitting, f": {asked:g} GPU asked for, ")
        line = f"{have}: {plural(slots, 'trial')} at a time, {gpu:g} GPU each{together}{growth}"
        awaits = "" if fitting else f"a node with {'a GPU' if gpu <= 1 else f'{gpu:g} GPUs'}"
        return Allocation(cpu, gpu, slots, line, pack, awaits)
    if wanted.gpu and _AT_ADDRESS.get():
        raise InputError(
            f"resources.gpu: trials ask for GPUs ({wanted.gpu:g} per device), and the cluster has none now ({have})",
            "where nodes with GPUs are to join, set resources.concurrency to the number of trials at a time (GPUs x "
            "trials_per_gpu); to run on its cores, set resources.gpu=0",
        )
    cores = min(wanted.cpu, max(cpus)) if sum(cpus) else wanted.cpu
    fitting = sum(int(c / cores + 1e-6) for c in cpus) * pack
    slots = wanted.concurrency or max(1, fitting)
    why = "no GPU here, so on CPU" if wanted.gpu else "on CPU"
    at_once = f"{have}: {plural(slots, 'trial')} at a time"
    line = f"{at_once}, {cores / pack:g} CPU each{together} ({why}){_growth(slots, fitting)}"
    return Allocation(cores / pack, 0.0, slots, line, pack)


def on_cpu(wanted: Resources) -> bool:
    """Whether trials run on cores: none asks for a GPU, or there is none, nor may the cluster grow."""
    return not (wanted.gpu and (ray.cluster_resources().get("GPU") or _may_wait(wanted)))


def device_count(wanted: Resources) -> int:
    """GPUs of the connected cluster that trials may use, or without any its cores by `resources.cpu`."""
    have = ray.cluster_resources()
    if wanted.gpu and have.get("GPU"):
        return max(1, int(have["GPU"]))
    return max(1, int(have.get("CPU", 1.0) // wanted.cpu))


def _growth(slots: int, fitting: int, asked: str = "; ") -> str:
    """asked: what the trials together ask for, in words."""
    wait = "wait for nodes to join" if _NODES_MAY_JOIN.get() else "wait their turn"
    return f"{asked}room for {fitting} now, the rest {wait}" if slots > fitting else ""
