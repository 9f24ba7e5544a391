"""What a process was lost to, read from Ray's errors: its node, the actor that owned it, or itself."""

from __future__ import annotations

import re
from typing import NamedTuple

from ray.exceptions import RayTaskError

_NODE = re.compile(r"because (?:its|the) node .{0,200}?node(?: |_)id:? ?'?([0-9a-f]{56})", re.IGNORECASE | re.DOTALL)
_OWNER = re.compile(r"because its owner has died", re.IGNORECASE)


class Lost(NamedTuple):
    """Something whose loss is no trial's fault. node: the id of a node that is gone; "" where the broker of the
    devices was lost."""

    node: str


def root_cause(error: BaseException) -> BaseException:
    """What was raised in the process where it began: Ray wraps an error once for each process that it passes."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def lost(text: str) -> Lost | None:
    """What a process was lost to, from the text of Ray's error; None where the process itself died or raised, which its
    trial may have brought about."""
    if node := _NODE.search(text):
        return Lost(node[1])
    return Lost("") if _OWNER.search(text) else None
