"""The criteria of the spec: a trial that breaks a limit at several evaluations in a row is stopped."""

from __future__ import annotations

from rayul.records import Evaluation
from rayul.spec import Control, Criterion, Spec
from rayul.sweep.pruning.history import History, Rule, Stop, value


def rule(spec: Spec) -> Rule | None:
    return verdict if spec.pruning.criteria else None


def verdict(history: History, trial_id: str, step: int) -> Stop | None:
    """A criterion stops a trial when it is violated at `patience` evaluations in a row, the first `grace` steps not
    counted. Not with mixing: calibration repairs the violation (stall.py)."""
    spec = history.spec_of(trial_id)
    if spec.control.mixing:
        return None
    steps = history.of(trial_id, step)
    for criterion in spec.criteria:
        limit = criterion.limit.on(history.baseline)
        streak = 0
        for s, rows in steps.items():
            # `not (<= 0)` also counts a violation that is NaN
            broken = s > criterion.grace and not _violation(criterion, rows[-1], history, spec.control) <= 0
            streak = streak + 1 if broken else 0
        if streak >= criterion.patience:
            found = value(steps[step][-1], criterion.metric)
            sign = "<" if criterion.limit.at_least else ">"
            origin = f" ({criterion.limit.to_yaml()})" if criterion.limit.relative else ""
            times = f", for {streak} evaluations" if streak > 1 else ""
            reason = f"{criterion.metric} {found:.4g} {sign} {limit:.4g}{origin} at step {step}{times}"
            return Stop(criterion.metric, reason)
    return None


def _violation(criterion: Criterion, row: Evaluation, history: History, control: Control) -> float:
    """Of this criterion. The row's own is the worse one where two criteria limit a metric (a floor at once, a tighter
    limit with patience), but with control.confidence only it knows the bound that was judged."""
    if control.confidence is not None:
        return row.violation[criterion.metric]
    return criterion.limit.violation(value(row, criterion.metric), history.baseline)
