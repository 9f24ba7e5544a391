"""The control scheduler: stops a trial that breaks the criteria, and remembers which, by how much and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from rayul.records import Evaluation, from_json
from rayul.records.objectives import score, trade_off
from rayul.spec import Control, Criterion, Spec, limits, violations
from rayul.sweep.pruning.dominance import Floats, Rivals, can_catch_up, front_at, is_behind


class ControlScheduler(FIFOScheduler):  # type: ignore[misc]
    """A Ray `TrialScheduler` that applies the criteria of a spec to the evaluations a trial reports.

    A criterion stops a trial when it is violated at `patience` evaluations in a row, the first `grace` steps not
    counted. With model mixing on, a violation at mixing 1 is what calibration repairs, so instead a trial is stopped
    when, past the limit at mixing 1, its calibrated first objective has not improved for `STALL` evaluations.

    A trial that stays behind the front of the others at matched utility is stopped too (dominance.py).

    The verdict of the criteria depends on the trial's own evaluations up to it and on nothing else, and as in the
    journal the first evaluation of a key stays. So a trial that starts again after a crash is judged the same, and
    `history` (plain data, refilled from the journal on a resume) is all the state there is.

    inner: another Ray scheduler to ask when no rule here objects, such as the budget rule (halving.py); the metric of
    Ray's own may be any "<set>.<metric>", their time_attr "step".
    """

    def __init__(
        self,
        spec: Spec,
        baseline: Mapping[str, float],
        history: Iterable[Evaluation] = (),
        inner: TrialScheduler | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.baseline, self.inner = spec, dict(baseline), inner
        self.history: dict[str, dict[int, list[Evaluation]]] = {}
        self.rivals = Rivals()
        self.specs: dict[str, Spec] = {}
        self.reasons: dict[str, str] = {}
        for evaluation in history:
            self._remember([evaluation])

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        evaluations = [from_json(line) for line in result["evaluations"]]
        self._remember(evaluations)
        reason = self.verdict(evaluations[0].trial_id, evaluations[0].step)
        decision: str = TrialScheduler.CONTINUE
        if reason:
            decision = TrialScheduler.STOP
        elif self.inner is not None:
            decision = self.inner.on_trial_result(tune_controller, trial, result)
            # The budget rule has its reasons; Ray's own schedulers have none to tell.
            told: dict[str, str] = getattr(self.inner, "reasons", {})
            stopped = f"stopped by {type(self.inner).__name__} at step {evaluations[0].step}"
            reason = told.get(evaluations[0].trial_id, stopped)
        if decision == TrialScheduler.STOP:
            self.reasons[evaluations[0].trial_id] = reason
        return decision

    def verdict(self, trial_id: str, step: int) -> str:
        """Why the trial must stop at this step, in a sentence; "" when it may go on."""
        steps = {s: rows for s, rows in sorted(self.history[trial_id].items()) if s <= step}
        mixing = self._spec_of(next(iter(steps.values()))[0]).control.mixing
        judged = self._stalled if mixing else self._broken
        return (judged(steps) if self.spec.pruning.criteria else "") or self._dominated(trial_id, steps)

    def _broken(self, steps: Mapping[int, list[Evaluation]]) -> str:
        step = max(steps)
        spec = self._spec_of(next(iter(steps.values()))[0])
        for criterion in spec.criteria:
            limit = criterion.limit.on(self.baseline)
            streak = 0
            for s, rows in steps.items():
                # `not (<= 0)` also counts a violation that is NaN
                broken = s > criterion.grace and not _violation(criterion, rows[-1], self.baseline, spec.control) <= 0
                streak = streak + 1 if broken else 0
            if streak >= criterion.patience:
                value = steps[step][-1].metrics[criterion.metric]
                sign = "<" if criterion.limit.at_least else ">"
                origin = f" ({criterion.limit.to_yaml()})" if criterion.limit.relative else ""
                times = f", for {streak} evaluations" if streak > 1 else ""
                return f"{criterion.metric} {value:.4g} {sign} {limit:.4g}{origin} at step {step}{times}"
        return ""

    def _dominated(self, trial_id: str, steps: Mapping[int, list[Evaluation]]) -> str:
        """Behind the front of the other trials at matched utility, and not going to catch up. Two objectives only."""
        rule, axes = self.spec.pruning.dominance, trade_off(self.spec.objectives)
        if rule is None or axes is None:
            return ""
        utility = axes[1]
        gained, kept = self._positions([rows[-1] for rows in steps.values()], axes)
        front_gained, front_kept = self.rivals.front_of_others(trial_id)
        bound = limits(self.spec.criteria, self.baseline).get(utility)
        limit = -np.inf
        if bound is not None:
            limit = float(score(utility, self.spec.objectives[utility], bound, self.baseline.get(utility, np.nan)))
        trained = np.array(list(steps)) > 0
        if not is_behind(gained[trained], kept[trained], front_gained, front_kept, rule.margin, rule.patience):
            return ""
        own = self._spec_of(next(iter(steps.values()))[0])
        last, mixing = own.training.steps, own.control.mixing
        if can_catch_up(list(steps), gained, kept, front_gained, front_kept, limit, last, mixing):
            return ""
        ahead = float(front_at(kept[-1:], front_gained, front_kept)[0])
        return (
            f"dominance at step {max(steps)}: with {kept[-1]:.1%} of {utility} kept it has forgotten {gained[-1]:.1%}, "
            f"the front {ahead:.1%}, and it would not catch up by step {last}"
        )

    def _positions(self, rows: Sequence[Evaluation], axes: tuple[str, str]) -> tuple[Floats, Floats]:
        """gained [n] and kept [n] of these rows."""
        gained, kept = (
            score(
                metric,
                self.spec.objectives[metric],
                [e.metrics.get(metric, np.nan) for e in rows],
                self.baseline.get(metric, np.nan),
            )
            for metric in axes
        )
        return gained, kept

    def _stalled(self, steps: Mapping[int, list[Evaluation]]) -> str:
        metric, direction = next(iter(self.spec.objectives.items()))
        sign = 1.0 if direction == "minimize" else -1.0
        targets = [self.spec.criteria_at(tau) for tau in self.spec.targets]
        best, since, at = [float("inf")] * max(1, len(targets)), 0, 0
        for step, rows in steps.items():
            kept = [r for r in rows if r.feasible and step]
            # Of several targets each has its own best: a trial that gets on at one of them has not stalled.
            by_target = [[r for r in kept if self._keeps(r, criteria)] for criteria in targets] or [kept]
            values = [min((sign * r.metrics[metric] for r in of), default=float("inf")) for of in by_target]
            if any(value < known - 1e-9 for value, known in zip(values, best, strict=True)):
                best = [min(pair) for pair in zip(values, best, strict=True)]
                since, at = 0, step
            elif step and any(r.mixing == 1 and not r.feasible for r in rows):
                # Only a trial that has spent its utility can stall: before that, ascent is slow to show at all (on
                # the testbed forget.es stays at the baseline's value for half of the steps, and then falls to 0.4).
                since += 1
        if since < STALL:
            return ""
        found = f"{sign * min(best):.3f} at step {at}" if at else "none was feasible"
        return f"calibrated {metric} has not improved for {since} evaluations (best: {found})"

    def _spec_of(self, row: Evaluation) -> Spec:
        """The spec of its trial, made once: a validation takes longer than all of a verdict."""
        if row.trial_id not in self.specs:
            self.specs[row.trial_id] = self.spec.at(row.params)
        return self.specs[row.trial_id]

    def _keeps(self, row: Evaluation, criteria: Iterable[Criterion]) -> bool:
        return all(v <= 0 for v in violations(criteria, row.metrics, self.baseline).values())

    def _remember(self, evaluations: list[Evaluation]) -> None:
        axes = trade_off(self.spec.objectives)
        for e in evaluations:
            if e.is_reference or not e.metrics:
                continue
            rows = self.history.setdefault(e.trial_id, {}).setdefault(e.step, [])
            if any(r.mixing == e.mixing for r in rows):
                continue
            rows.append(e)
            if axes is not None and e.feasible and e.step:
                (gained,), (kept,) = self._positions([e], axes)
                self.rivals.add(e.trial_id, float(gained), float(kept))

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return self.inner is None or bool(self.inner.set_search_properties(metric, mode, **spec))

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        if self.inner is not None:
            self.inner.on_trial_add(tune_controller, trial)

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        if self.inner is not None:
            self.inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        if self.inner is not None:
            self.inner.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        if self.inner is not None:
            self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        if self.inner is not None:
            return self.inner.choose_trial_to_run(tune_controller)
        return super().choose_trial_to_run(tune_controller)


STALL = 4
"""Evaluations without a better calibrated value before a mixing trial is stopped."""


def _violation(criterion: Criterion, row: Evaluation, baseline: Mapping[str, float], control: Control) -> float:
    """Of this criterion. The row's own is the worse one where two criteria limit a metric (a floor at once, a tighter
    limit with patience), but with control.confidence only it knows the bound that was judged."""
    if control.confidence is not None:
        return row.violation[criterion.metric]
    return criterion.limit.violation(row.metrics[criterion.metric], baseline)
