"""Metric values as fractions of the baseline: the two scales on which evaluations, sweeps and charts compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from rayul.spec.metrics import is_forgetting

Direction = Literal["minimize", "maximize"]
Objectives = Mapping[str, Direction]
"""Direction by metric key "<set>.<metric>", in the order of the spec."""

MIN_FORGOTTEN = 0.05
"""An evaluation that forgets less is the baseline in all but name, not a solution (DESIGN section 5)."""

Floats = npt.NDArray[np.float64]


def forget_objective(objectives: Objectives) -> str | None:
    """The objective that `forgotten` is measured on: the first one on rows to forget, None without one."""
    return next((metric for metric in objectives if is_forgetting(metric)), None)


def trade_off(objectives: Objectives) -> tuple[str, str] | None:
    """The forget and the utility metric of a sweep with exactly these two objectives; None for any other."""
    forget, utility = ([m for m in objectives if is_forgetting(m) is side] for side in (True, False))
    return (forget[0], utility[0]) if len(forget) == len(utility) == 1 else None


def score(metric: str, direction: Direction, values: npt.ArrayLike, baseline: float) -> Floats:
    """How much was forgotten, or how much utility was kept, as a fraction of the baseline; higher is better.

    A forget metric gives 1 - value/baseline (0 at the baseline, 1 when nothing is left; DESIGN section 5), any other
    value/baseline (1 at the baseline). Where the metric itself runs the other way (a perplexity: maximised on the
    forget set, minimised elsewhere) the ratio is turned over: baseline/value. Not clipped: a value better than the
    baseline's exceeds the range. NaN where the value is NaN or the baseline is not positive and finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if not (np.isfinite(baseline) and baseline > 0):
        return np.full_like(x, np.nan)
    forgetting = is_forgetting(metric)
    upright = direction == ("minimize" if forgetting else "maximize")
    with np.errstate(divide="ignore"):
        ratio = x / baseline if upright else baseline / x
    return 1.0 - ratio if forgetting else ratio
