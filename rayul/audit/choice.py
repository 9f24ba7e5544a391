"""Which points of a front become finalists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayul.errors import InputError
from rayul.pareto.choose import named, scores_for_knee, within
from rayul.pareto.front import front_of
from rayul.pareto.targets import target_of
from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.spec import Finalists


def finalists(results: SweepRecords, wanted: Finalists) -> list[Evaluation]:
    """The points to train again, at most one of each trial: neighbouring steps of a trial are one configuration.

    Raises InputError for an empty front, a limit that no point keeps, and a named point that is not on the front.
    """
    front = front_of(results)
    if not front:
        raise InputError(
            f"the front of {results.folder} is empty, so there is nothing to audit",
            "loosen the criteria, or continue with --resume and more --trials",
        )
    if wanted.points:
        return [_named(results, front, point) for point in wanted.points]
    kept = front if wanted.within is None else within(wanted.within.limit, front, results)
    if wanted.choose == "knee":
        bulge = scores_for_knee(kept, results.baseline, results.objectives, results.limit_values).sum(axis=1)
        kept = [kept[i] for i in np.argsort(-np.round(bulge, 12), kind="stable")]
    first_of_trial: dict[str, Evaluation] = {}
    for e in kept:
        first_of_trial.setdefault(e.trial_id, e)
    return list(first_of_trial.values())[: wanted.n]


def recalibrates(results: SweepRecords, e: Evaluation) -> bool:
    """Whether a finalist's mixing belongs to its recipe: it is the largest that kept the criteria (of several
    targets its own) at its step.

    Then every seed finds its own again, on the retain-select rows: what the sweep found is "train so, and scale back
    to the limit", and where that limit lies differs by seed. Any other mixing of the front is a number like the
    learning rate, and stays fixed.
    """
    rows = [r for r in results.trials[e.trial_id] if r.step == e.step and r.feasible]
    target = target_of(results, e)
    return e.mixing == max(r.mixing for r in rows if target is None or (target_of(results, r) or 0.0) >= target)


def _named(results: SweepRecords, front: Sequence[Evaluation], point: str) -> Evaluation:
    trial, _, step = point.partition("-")
    if step and not step.isdigit():
        raise InputError(f"{point!r} does not name a point", "write trial or trial-step, e.g. 0014-35")
    return named(results, front, trial, int(step) if step else None)
