"""A sweep with several utility targets (control.tau): the best at each of them, and the target of each point."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rayul.pareto.front import forgotten, front_of, keeps_all
from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.spec import Limit


class BestAtTarget(NamedTuple):
    """share: of the baseline's utility that is kept. best: the point of the front that forgets most and keeps it, None
    where none does. forgotten: its fraction of the forget objective, NaN without."""

    share: float
    best: Evaluation | None
    forgotten: float


def best_at_targets(results: SweepRecords) -> list[BestAtTarget]:
    """One entry for each share of control.tau, the largest first; empty where it is no list.

    Only points of the front are looked at: what forgets more within a target than a point of the front is on the front.
    """
    front = front_of(results)
    gone = forgotten(front, results.baseline, results.objectives)
    found = []
    for share, limits in results.targets:
        kept = [keeps_all(limits, e, results.baseline) for e in front]
        if any(kept):
            place = int(np.where(kept, gone, -np.inf).argmax())
            found.append(BestAtTarget(share, front[place], float(gone[place])))
        else:
            found.append(BestAtTarget(share, None, float("nan")))
    return found


def target_of(results: SweepRecords, e: Evaluation) -> float | None:
    """The largest target that a point keeps; None where it keeps none, or control.tau is no list."""
    return next((share for share, limits in results.targets if keeps_all(limits, e, results.baseline)), None)


def limits_of(results: SweepRecords, e: Evaluation) -> tuple[Limit, ...]:
    """The limits that a point is judged by: those of the largest target that it keeps, else those of the sweep."""
    return results.limits_at(target_of(results, e))
