"""What is told to the sampler about a trial: a decision with consequences, so it is one pure function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from rayul.pareto.front import solutions
from rayul.pareto.hypervolume import unit_scores
from rayul.records import Ending, Evaluation
from rayul.spec import Spec, limits, plainly

SOLVED = "solved"
"""The attribute of a trial in the study that says whether it had a solution."""

ROWS = "rows"
"""The attribute of a trial in the study that has its evaluations, where the sweep's own journal does not."""

HUGE = 1e9
"""Stands for infinity (the perplexity of a ruined model), which no study takes."""


class Outcome(NamedTuple):
    """values: one per objective, in the spec's order. violations: by metric of a criterion, <= 0 is feasible;
    constraints: the same, as the sampler is to see them. All are finite, as Optuna wants them. step, mixing: the
    evaluation that is told. solved: whether the trial had a solution."""

    values: tuple[float, ...]
    violations: Mapping[str, float]
    constraints: Mapping[str, float]
    step: int
    mixing: float
    solved: bool

    def attributes(self, ending: Ending) -> dict[str, Any]:
        """What a study keeps beside the values: which evaluation they are of, and how the trial ended."""
        violations = {f"violation.{metric}": violation for metric, violation in self.violations.items()}
        return ended(ending) | {"step": self.step, "mixing": self.mixing, SOLVED: self.solved} | violations


def ended(ending: Ending) -> dict[str, Any]:
    """How a trial ended, as a study keeps it."""
    return {"state": ending.state, "rule": ending.rule, "reason": ending.reason}


def outcome(rows: Sequence[Evaluation], spec: Spec, baseline: Evaluation) -> Outcome | None:
    """The evaluation that stands for a trial; None for a trial that has none (it failed before its first) or
    whose objectives were never all numbers.

    `search.tell` says which evaluation that is:

    - "last": the last, feasible or not. A trial that had a solution before counts as feasible all the same.
    - "best", "most_forgotten", "last_feasible": one of its solutions (feasible, after step 0, forgets at least 5%): the
      one that alone dominates the largest volume of the unit box, at a tie the one that forgets most; that one; the
      last. Without any solution the last evaluation, with its violations as constraints, so that the sampler learns the
      direction back to feasibility.
    - "auto": "best" with mixing, and where a limit is on no objective; else "last". Where a trial was when it ended
      follows from its parameters; which of a few evaluations happened to lie best within the limit is luck, unless
      each is scaled back to the limit. Over 40 seeds of the benchmark's space (`tests/benchmarks/search.py`, seeds 100
      to 139, 64 trials) the final hypervolume without mixing is 0.687 for 0.624 at 2 trials in flight and 0.687 for
      0.655 at 8; with mixing (20 seeds) "best" is ahead, 0.923 for 0.921 and 0.911 for 0.883.

    Step 0 is never told: as the baseline it would look like a perfect keeper of utility.
    """
    trained = (_with_return(row, spec, baseline) for row in rows if row.step > 0)
    measured = [row for row in trained if _is_measured(row, spec)]
    if not measured:
        return None
    tell = spec.search.tell
    if tell == "auto":
        limited = {criterion.metric for criterion in spec.criteria}
        tell = "last" if limited <= set(spec.objectives) and not spec.control.mixing else "best"
    candidates = solutions(measured, baseline, spec.objectives)
    if tell == "last" or not candidates:
        return _told(measured[-1], spec, solved=bool(candidates))
    if tell == "last_feasible":
        return _told(candidates[-1], spec)
    scores = unit_scores(candidates, baseline, spec.objectives, limits(spec.criteria, baseline.metrics))
    volume, gone = scores.prod(axis=1), scores[:, 0]
    order = np.lexsort((gone, volume) if tell == "best" else (volume, gone))
    return _told(candidates[int(order[-1])], spec)


def _told(row: Evaluation, spec: Spec, solved: bool = True) -> Outcome:
    values = tuple(max(-HUGE, min(row.metrics[metric], HUGE)) for metric in spec.objectives)
    violations = {metric: min(v, HUGE) for metric, v in row.violation.items()}
    constraints = {metric: min(v, 0.0) if solved else v for metric, v in violations.items()}
    return Outcome(values, violations, constraints, row.step, row.mixing, solved)


def _with_return(row: Evaluation, spec: Spec, baseline: Evaluation) -> Evaluation:
    """With the baseline's value of an objective under attack that was not measured, since the evaluation could not win:
    as if all had come back."""
    missing = {m: baseline.metrics[m] for m in spec.objectives if plainly(m) != m and m not in row.metrics}
    return replace(row, metrics=row.metrics | missing) if missing and row.metrics else row


def _is_measured(row: Evaluation, spec: Spec) -> bool:
    return not any(math.isnan(row.metrics.get(metric, math.nan)) for metric in spec.objectives)
