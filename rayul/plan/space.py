"""Values of a space in numbers and words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayul.spec import Choice, Float, Int


def largest(value: Any) -> Any:
    """The largest number that a leaf of a spec may take; None counts least."""
    if isinstance(value, (Float, Int)):
        return value.high
    if isinstance(value, Choice):
        numbers = [o for o in value.options if isinstance(o, (int, float))]
        return max(numbers, default=None)
    return value


def settings(params: Mapping[str, Any]) -> str:
    """Drawn values in one line."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items())
