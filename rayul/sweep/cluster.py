"""Which Ray cluster a sweep uses, and how much of it one trial asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# These are read when ray.tune is imported: our own progress takes the place of Ray's tables.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# run.py turns SIGINT into Tune's other stop signal, to know afterwards that it was stopped.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")

import ray

from rayul.errors import InputError
from rayul.spec import Resources


@dataclass(frozen=True)
class Share:
    """What one trial asks Ray for; `slots`: how many fit into the cluster as it is now; `line`: it in words."""

    cpu: float
    gpu: float
    slots: int
    line: str

    @property
    def resources(self) -> dict[str, float]:
        return {"cpu": self.cpu, "gpu": self.gpu} if self.gpu else {"cpu": self.cpu}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a running cluster (address, or RAY_ADDRESS), or start Ray on this machine for the time being.

    A connection that is already there is used and left alone. Raises InputError for a cluster that does not answer.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address and address.startswith("ray://"):
        raise InputError(
            f"--address {address}: over ray:// the driver would run on the cluster and its records would not be here",
            "submit the sweep to the cluster instead: ray job submit -- rayul sweep FILE",
        )
    try:
        ray.init(
            address=address or "local",
            logging_level="ERROR",
            log_to_driver=False,
            include_dashboard=False if address is None else None,
        )
    except (ConnectionError, TimeoutError) as error:
        raise InputError(
            f"no Ray cluster at {address}: {error}", "start one with `ray start --head`, or leave --address out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def share(wanted: Resources) -> Share:
    """A trial's share of the connected cluster: its fraction of a GPU where the cluster has any, else cores."""
    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    if wanted.gpu and gpus:
        gpu = wanted.gpu / wanted.trials_per_gpu
        # A trial's cores must not leave a GPU idle: 8 trials share a GPU on a machine of 4 cores per GPU.
        cpu = min(wanted.cpu, max(cpus / gpus * gpu, 0.01))
        slots = max(1, int(gpus // wanted.gpu * wanted.trials_per_gpu))
        return Share(cpu, gpu, slots, f"{gpus:g} GPU, {cpus:g} CPU: {slots} trials at a time, {gpu:g} GPU each")
    cpu = min(wanted.cpu, cpus) if cpus else wanted.cpu
    slots = max(1, int(cpus // cpu))
    why = "no GPU here, so on CPU" if wanted.gpu else "on CPU"
    return Share(cpu, 0.0, slots, f"{cpus:g} CPU: {slots} trials at a time, {cpu:g} CPU each ({why})")
