"""Know before you spend: what a spec would search, on which rows, at what cost, and what looks wrong about it.

Nothing is written (but for the embedded testbed, which is built into its cache on first use). Each name is imported
when it is first used: `rayul validate` needs a part of this alone, and no records.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayul.plan.plan import Plan, make_plan
    from rayul.plan.text import plan_text

__all__ = ["Plan", "make_plan", "plan_text"]

_HOMES = {"Plan": "rayul.plan.plan", "make_plan": "rayul.plan.plan", "plan_text": "rayul.plan.text"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rayul.plan' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
