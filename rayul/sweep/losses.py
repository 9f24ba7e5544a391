"""What a process was lost to, read from Ray's errors: its node, the actor that owned it, or itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from rayul.errors import InputError, RayulError
from rayul.words import first_line

_NODE = re.compile(r"because (?:its|the) node .{0,200}?node(?: |_)id:? ?'?([0-9a-f]{56})", re.IGNORECASE | re.DOTALL)
_RAISED = re.compile(r"^([A-Za-z_][\w.]*): (.*)", re.MULTILINE)
_DIED = ("RayActorError", "ActorDiedError", "ActorUnavailableError", "WorkerCrashedError", "NodeDiedError")
_OWNER = re.compile(r"because its owner has died", re.IGNORECASE)
_NO_MEMORY = re.compile(r"NODE_OUT_OF_MEMORY|running low on memory|memory pressure", re.IGNORECASE)


class Lost(NamedTuple):
    """Something whose loss is no trial's fault. node: the id of a node that is gone; "" where the broker of the
    devices was lost."""

    node: str


def here() -> dict[str, str]:
    """With every result of a trial: the node that it comes from."""
    return {"node": ray.get_runtime_context().get_node_id()}


def root_cause(error: BaseException) -> BaseException:
    """What was raised in the process where it began: Ray wraps an error once for each process that it passes."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def of_own_code(error: RayTaskError, code: Mapping[str, str]) -> InputError | None:
    """What a loss of the user's own raised, with its place in the file; None for what was raised elsewhere. code: the
    source text by path."""
    paths = "|".join(map(re.escape, code))
    found = re.findall(rf'File "({paths})", line (\d+), in (\w+)', str(error)) if code else []
    if not found:
        return None
    (path, line, function), cause = found[-1], root_cause(error)
    return InputError(
        f"{path}:{line}, in {function}: {type(cause).__name__}: {first_line(cause)}",
        "docs/methods.md says what a loss of your own is given and returns",
    )


def says_no_memory(text: str) -> bool:
    """Whether the text of Ray's error says that its memory monitor ended a process."""
    return _NO_MEMORY.search(text) is not None


def is_memory_pressure(error: BaseException | None) -> bool:
    """Whether Ray's memory monitor ended the process whose loss this error tells, directly or through others."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        told = isinstance(error, RayError) and says_no_memory(str(error))
        if told or isinstance(error, OutOfMemoryError):
            return True
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return False


def fetch(pending: Any) -> Any:
    """`ray.get`, with an error for the user as it was raised, not inside the traceback of a worker."""
    try:
        return ray.get(pending)
    except RayTaskError as error:
        if isinstance(error.cause, RayulError):
            raise error.cause from None
        raise


def as_they_come(streams: list[Any]) -> Iterator[Any]:
    """What tasks with streaming returns yield, each when it is there; errors as `fetch`."""
    while streams:
        (stream,), _ = ray.wait(streams, num_returns=1)
        try:
            yield fetch(next(stream))
        except StopIteration:
            streams.remove(stream)


def lost(text: str) -> Lost | None:
    """What a process was lost to, from the text of Ray's error; None where the process itself died or raised, which its
    trial may have brought about."""
    if node := _NODE.search(text):
        return Lost(node[1])
    return Lost("") if _OWNER.search(text) else None


def raised(text: str) -> tuple[str, str] | None:
    """The kind of an exception that a process raised and its message, from the text of Ray's error; None where the
    process died, or another one that it needs."""
    found = _RAISED.findall(text) if "ray::" in text else []
    if not found:
        return None
    name, message = found[-1]
    kind = name.rpartition(".")[2]
    return None if kind in _DIED or name == "ray.exceptions.OutOfMemoryError" else (kind, message)  # torch has one, too


def last_error(trial: Any) -> str:
    """The text of the last error of Tune's trial, "" without one. Tune appends each to a file in a folder of its own;
    what `Trial.get_pickled_error` looks for is elsewhere, and there only when all of Tune has ended."""
    if trial.error_file is None:
        return ""
    return Path(trial.error_file).read_text(encoding="utf-8", errors="replace").rpartition("Failure # ")[2]
