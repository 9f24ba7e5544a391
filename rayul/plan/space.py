"""The space of a spec, counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rayul.spec import Choice, Distribution, Float, Int, Spec


def size(spec: Spec) -> tuple[int, tuple[str, ...]]:
    """How many combinations of the discrete values there are, and the keys that are continuous.

    A parameter multiplies only the combinations in which it is active.
    """
    space = dict(spec.space)
    names = space.pop("method.name", None)
    drawn = [{"method.name": name} for name in names.options] if isinstance(names, Choice) else [{}]
    combinations = sum(
        math.prod(_count(one) or 1 for key, one in space.items() if spec.is_active(key, params)) for params in drawn
    )
    return combinations, tuple(key for key, one in space.items() if _count(one) is None)


def largest(value: Any) -> Any:
    """The largest number that a leaf of a spec may take; None counts least."""
    if isinstance(value, (Float, Int)):
        return value.high
    if isinstance(value, Choice):
        numbers = [o for o in value.options if isinstance(o, (int, float))]
        return max(numbers, default=None)
    return value


def _count(distribution: Distribution) -> int | None:
    """Single values; None for a continuous range."""
    match distribution:
        case Choice(options):
            return len(options)
        case Int(low, high, _, step):
            return (high - low) // step + 1
        case Float(low, high, _, float() as step):
            return int((high - low) / step + 1e-9) + 1
    return None


def settings(params: Mapping[str, Any]) -> str:
    """Drawn values in one line."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items())
