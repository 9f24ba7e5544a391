"""Which Ray cluster a sweep uses, and how much of it one trial asks for."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import ray

from rayul.errors import InputError
from rayul.spec import Resources
from rayul.sweep.connection import AT_ADDRESS, NODES_MAY_JOIN
from rayul.words import plural


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


def _may_wait(wanted: Resources) -> bool:
    """Whether trials may ask for more than the cluster has now: `resources.concurrency` says so of one that grows."""
    return wanted.concurrency is not None and NODES_MAY_JOIN.get()


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
    if wanted.gpu and AT_ADDRESS.get():
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
    wait = "wait for nodes to join" if NODES_MAY_JOIN.get() else "wait their turn"
    return f"{asked}room for {fitting} now, the rest {wait}" if slots > fitting else ""
