"""What pruning rules judge by: the evaluations of all trials so far, as plain records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from rayul.records import Evaluation
from rayul.spec import Spec, plainly


class History:
    """The evaluations that trials have reported. As in the journal the first of a key stays; reference rows and rows
    without metrics are none.

    rows: all of them, in the order in which they came. trials: the same by trial and step, of a step the calibrated
    one last. spec, baseline: of the sweep, and the metrics of the model before unlearning.
    """

    def __init__(self, spec: Spec, baseline: Mapping[str, float], evaluations: Iterable[Evaluation] = ()) -> None:
        self.spec, self.baseline = spec, dict(baseline)
        self.rows: list[Evaluation] = []
        self.trials: dict[str, dict[int, list[Evaluation]]] = {}
        self._specs: dict[str, Spec] = {}
        for evaluation in evaluations:
            self.add(evaluation)

    def add(self, evaluation: Evaluation) -> None:
        if evaluation.is_reference or not evaluation.metrics:
            return
        rows = self.trials.setdefault(evaluation.trial_id, {}).setdefault(evaluation.step, [])
        if all(row.mixing != evaluation.mixing for row in rows):
            rows.append(evaluation)
            self.rows.append(evaluation)

    def of(self, trial_id: str, step: int) -> dict[int, list[Evaluation]]:
        """The trial's evaluations until a step, by step, in order."""
        return {s: rows for s, rows in sorted(self.trials[trial_id].items()) if s <= step}

    def spec_of(self, trial_id: str) -> Spec:
        """The spec with the trial's own parameters, made once: a validation takes longer than all of a verdict."""
        if trial_id not in self._specs:
            first = next(iter(self.trials[trial_id].values()))[0]
            self._specs[trial_id] = self.spec.at(first.params)
        return self._specs[trial_id]


def value(row: Evaluation, metric: str) -> float:
    """A metric of an evaluation; one under attack that was not measured, since the evaluation could not win, is told
    without the attack."""
    return row.metrics[metric] if metric in row.metrics else row.metrics[plainly(metric)]


class Stop(NamedTuple):
    """Why a trial must stop. rule: a term to group by (see `records.Ending`). reason: a sentence with its numbers."""

    rule: str
    reason: str


Rule = Callable[[History, str, int], Stop | None]
"""rule(history, trial_id, step): why this trial must stop at its evaluation of this step, None when it may go on.

A rule looks at the evaluations of the trial itself until that step (`history.of`), and of others at whatever they have
reached. It is asked after every evaluation, and after a crash about the same ones again. What it keeps between two
calls it must be able to take from the history anew: that is refilled from the journal, and nothing else is.
"""
