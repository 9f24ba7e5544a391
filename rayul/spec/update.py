"""The kinds of update that a spec can name: what a trial trains. Each is a module of `rayul/unlearn/update/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayul.spec.problems import did_you_mean, expected, refuse, show
from rayul.spec.space import looks_searched


@dataclass(frozen=True)
class UpdateKind:
    """adapter: trained beside weights that stay frozen, which may then be in 4 bits or spread over several GPUs; what
    is saved is a PEFT folder, and else a whole model. alone: why such trials cannot share a pack; "" where they can."""

    summary: str
    adapter: bool
    alone: str


UPDATES = {
    "lora": UpdateKind("a low-rank adapter on frozen weights, shaped by the section lora", adapter=True, alone=""),
    "full": UpdateKind("all weights of the model, in float32", adapter=False, alone="each trial has its own weights"),
}
"""A section of the spec that has a kind's name belongs to it."""


def check_update(value: Any) -> str:
    """The name of a kind. Raises `refuse(...)`."""
    if looks_searched(value):
        hint = "write one of them, and set two sweeps side by side with rayul compare"
        raise refuse("cannot be searched: learning rates for one are not those for another", hint)
    if not isinstance(value, str):
        raise expected(" or ".join(UPDATES), value)
    if value not in UPDATES:
        raise refuse(f"unknown update {show(value)}", did_you_mean(value, UPDATES))
    return value
