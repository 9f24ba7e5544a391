"""The connection to Ray: to a running cluster, or to a Ray of our own, which starts beside whatever else begins."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from contextvars import ContextVar
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
from ray.job_config import JobConfig

from rayul.cores import usable_cores
from rayul.errors import InputError, RayulError
from rayul.sweep.authentication import authenticated, own_token
from rayul.sweep.run_folder import run_folder
from rayul.sweep.sigterm import kept_sigterm, machines_sigterm_kept
from rayul.words import first_line

_TOLD = re.compile("Raylet is terminated|The node with node id|A worker died or was killed|Task .* retries remaining")
"""Messages that Ray's nodes send to every driver, the first with the tail of a log. `fit.Losses` tells the same in a
sentence."""

_print = worker.print_to_stdstream


def _print_the_rest(data: dict[str, Any], ignore_prefix: bool) -> None:
    if not any(_TOLD.match(str(line)) for line in data["lines"]):
        _print(data, ignore_prefix)


worker.print_to_stdstream = _print_the_rest  # log_to_driver does not switch them off

OPTIONS = {"logging_level": "ERROR", "log_to_driver": False}

OWN_RAY = "Ray of our own"
"""Name of the thread that starts and ends it."""

NODES_MAY_JOIN = ContextVar("NODES_MAY_JOIN", default=True)
"""Not where Ray is our own: a trial that asks for what this machine lacks would wait for ever."""

AT_ADDRESS = ContextVar("AT_ADDRESS", default=False)
"""Where the user named a cluster, which they expect to have what the spec asks for."""


def connecting(address: str | None) -> str:
    """What `connected` is about to do, for who waits."""
    return "starting Ray" if _is_own(address) else "connecting to Ray"


@contextmanager
def starting(address: str | None) -> Iterator[None]:
    """Start a Ray of our own while the block goes on, where `connected(address)` in it will want one: it takes 4 s, for
    most of which it waits (results/peer). It ends with the block."""
    earlier = _OWN.get()
    if earlier is not None and earlier.over.is_set():
        earlier.end()
    elif not _is_own(address) or earlier is not None or ray.is_initialized():
        yield
        return
    own = _OwnRay()
    before = _OWN.set(own)
    try:
        yield
    finally:
        _OWN.reset(before)
        own.end()


@contextmanager
def connected(address: str | None, warn: Callable[[str], None]) -> Iterator[bool]:
    """Connect to a running cluster (address, or RAY_ADDRESS, which `ray job submit` sets), or start Ray on this machine
    for the time being. Yields whether it is a cluster, which may have other nodes. `warn` hears of a cluster that
    everyone may use.

    A connection that is already there is used and left alone. A Ray of our own listens on the loopback only, asks for a
    token of its own, and leaves nothing behind. Raises InputError for a cluster that does not answer, or refuses.
    """
    if _OWN.get() is None and ray.is_initialized():
        yield True
        return
    if _is_own(address):
        with starting(address):
            own = _OWN.get()
            assert own is not None
            own.wait()
            before = NODES_MAY_JOIN.set(False)
            try:
                yield False
            finally:
                NODES_MAY_JOIN.reset(before)
                own.over.set()  # it ends beside what is left to do
        return
    address = address or os.environ["RAY_ADDRESS"]
    if address.startswith("ray://"):
        raise InputError(
            f"--address {address}: over ray:// the driver would run on the cluster and its records would not be here",
            "submit the sweep to the cluster instead: ray job submit -- rayul sweep FILE",
        )
    with ExitStack() as stack:
        folder = stack.enter_context(run_folder())
        try:
            _knock(address)
            stack.enter_context(authenticated(address, warn))
            stack.callback(ray.shutdown)
            # Ray lets workers import from the current folder, which may be one that somebody else filled.
            with kept_sigterm(), chdir(folder):
                ray.init(address=address, **OPTIONS)
            stack.callback(AT_ADDRESS.reset, AT_ADDRESS.set(True))
        except (OSError, ValueError, RuntimeError, RpcError) as error:
            raise InputError(
                f"no Ray cluster at {address}: {error}", "start one with `ray start --head`, or leave --address out"
            ) from error
        yield True


class _OwnRay:
    """A Ray that starts at once, and until `end`. One thread starts and ends it: Linux ends a child with the thread
    that started it, no signal of this process can land in the middle of either, and others go on meanwhile."""

    def __init__(self) -> None:
        self.over, self.is_up = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._live, name=OWN_RAY, daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Until Ray is up. Raises RayulError where it cannot start."""
        self.is_up.wait()
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        self.over.set()
        self.thread.join()

    def _live(self) -> None:
        try:
            with run_folder() as folder, own_token(folder), _on_the_loopback():
                try:
                    self._start(folder)
                    self.is_up.set()
                    self.over.wait()
                finally:
                    ray.shutdown()
        except Exception as error:  # for who waits
            self.error = error
        finally:
            self.is_up.set()

    def _start(self, folder: Path) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that no signal is handled by its thread
        # The folder is within our own: Ray opens the one that it is given to everyone.
        place = {"_temp_dir": str(folder / "r"), "_node_ip_address": "127.0.0.1", "include_dashboard": False}
        # Ray counts cores of the machine that this process may not use.
        cores = min(usable_cores(), utils.get_num_cpus())
        try:
            with machines_sigterm_kept():
                ray.init(address="local", num_cpus=cores, job_config=_FromElsewhere(), **place, **OPTIONS)
        except Exception as error:  # of any kind: that a node timed out is a plain Exception
            hint = f"set RAY_TMPDIR or TMPDIR to a folder that Ray may write to; it tried {folder}"
            if "timed out" in str(error):
                hint = "run the command again when the machine is less busy"
            raise RayulError(f"Ray cannot start on this machine: {first_line(error)}", hint) from error


_OWN: ContextVar[_OwnRay | None] = ContextVar("_OWN", default=None)


class _FromElsewhere(JobConfig):  # type: ignore[misc]
    """Workers import nothing from the current folder, which may be one that somebody else filled. (Another thread may
    read files of it, so that this process cannot leave it for the time being.)"""

    def _serialize(self) -> str:
        here = str(Path.cwd())
        self._py_driver_sys_path: list[str] = [path for path in self._py_driver_sys_path if path != here]
        found: str = super()._serialize()
        return found


def _is_own(address: str | None) -> bool:
    return (address or os.environ.get("RAY_ADDRESS") or "local") == "local"


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


def _knock(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself tries for three minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
