"""Rules of the user's own: functions in a file, `pruning: {rules: [./mine.py:fn]}` (contract: rayul/spec/custom.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rayul.errors import InputError
from rayul.records import Evaluation
from rayul.spec import Spec
from rayul.sweep.pruning.history import History, Rule, Stop
from rayul.unlearn.own import own_function


def rules(spec: Spec) -> list[Rule]:
    """Raises InputError for a file that cannot be run."""
    return [_rule(entry, own_function(entry, spec.pruning.code)) for entry in spec.pruning.rules]


def _rule(entry: str, function: Callable[..., Any]) -> Rule:
    """An error in the function, or an answer that is none, is an InputError: the sweep stops, and can be resumed with
    the function mended, since a rule changes no evaluation."""
    hint = "mend it or take it out of pruning.rules; the same command with --resume goes on, and nothing is lost"

    def verdict(history: History, trial_id: str, step: int) -> Stop | None:
        trial = _flat(history.of(trial_id, step))
        others = {other: _flat(steps) for other, steps in history.trials.items() if other != trial_id}
        try:
            reason = function(trial, others, dict(history.baseline))
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise InputError(f"{entry} failed for trial {trial_id} at step {step}: {what}", hint) from error
        if reason is None:
            return None
        if not isinstance(reason, str) or not reason.strip():
            raise InputError(
                f"{entry} returned {reason!r} for trial {trial_id} at step {step}",
                f"a rule returns None, or why the trial must stop, in a sentence; {hint}",
            )
        return Stop(entry, reason)

    return verdict


def _flat(steps: dict[int, list[Evaluation]]) -> list[Evaluation]:
    return [row for rows in steps.values() for row in rows]
