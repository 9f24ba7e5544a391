"""With mixing a broken limit is repaired, so a trial is stopped when its calibrated objective no longer improves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rayul.records import Evaluation
from rayul.spec import Criterion, Spec, violations
from rayul.sweep.pruning.history import History, Rule, Stop, value

STALL = 4
"""Evaluations without a better calibrated value before a mixing trial is stopped."""


def rule(spec: Spec) -> Rule | None:
    return verdict if spec.pruning.criteria else None


def verdict(history: History, trial_id: str, step: int) -> Stop | None:
    """Stops a trial with mixing when, past the limit at mixing 1, its calibrated first objective has not improved for
    STALL evaluations."""
    spec = history.spec_of(trial_id)
    if not spec.control.mixing:
        return None
    metric, direction = next(iter(spec.objectives.items()))
    sign = 1.0 if direction == "minimize" else -1.0
    targets = [history.spec.criteria_at(tau) for tau in history.spec.targets]
    best, since, at = [float("inf")] * max(1, len(targets)), 0, 0
    for s, rows in history.of(trial_id, step).items():
        kept = [row for row in rows if row.feasible and s]
        # Of several targets each has its own best: a trial that gets on at one of them has not stalled.
        by_target = [[row for row in kept if _keeps(row, criteria, history.baseline)] for criteria in targets] or [kept]
        values = [min((sign * value(row, metric) for row in of), default=float("inf")) for of in by_target]
        if any(now < known - 1e-9 for now, known in zip(values, best, strict=True)):
            best = [min(pair) for pair in zip(values, best, strict=True)]
            since, at = 0, s
        elif s and any(row.mixing == 1 and not row.feasible for row in rows):
            # Only a trial that has spent its utility can stall: before that, ascent is slow to show at all (on the
            # testbed forget.es stays at the baseline's value for half of the steps, and then falls to 0.4).
            since += 1
    if since < STALL:
        return None
    found = f"{sign * min(best):.3f} at step {at}" if at else "none was feasible"
    return Stop("stall", f"calibrated {metric} has not improved for {since} evaluations (best: {found})")


def _keeps(row: Evaluation, criteria: Iterable[Criterion], baseline: Mapping[str, float]) -> bool:
    return all(v <= 0 for v in violations(criteria, row.metrics, baseline).values())
