"""The most expensive corner of a search space: what a probe of time and memory measures."""

from __future__ import annotations

from typing import Any

from rayul.spec.gradients import GRADIENTS
from rayul.spec.space import Distribution, Float, Int
from rayul.spec.spec import Spec


def heaviest(spec: Spec) -> dict[str, Any]:
    """Values for `spec.at` that cost the most time and memory: of numbers the largest, of methods the one that reads
    most, of gradient rules the one with most passes, of intervals between evaluations the smallest; the learning rate
    is the lowest, so that a probe holds."""
    params: dict[str, Any] = {}
    for key, distribution in spec.space.items():
        if spec.is_active(key, params):
            params[key] = _heaviest(spec, key, distribution)
    return params


def _heaviest(spec: Spec, key: str, distribution: Distribution) -> Any:
    cheap = key in ("training.lr", "training.evaluate_every")
    if isinstance(distribution, (Float, Int)):
        return distribution.low if cheap else distribution.high
    options = distribution.options
    if key == "method.name":
        return max(options, key=lambda name: len(spec.method.of(str(name)).needs))
    if key == "method.gradient":
        return max(options, key=lambda name: GRADIENTS[str(name)].passes)
    if key == "training.micro_batch_size" and None in options:
        return None
    numbers = [option for option in options if isinstance(option, (int, float))]
    return options[0] if not numbers else (min if cheap else max)(numbers)
