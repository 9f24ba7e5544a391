"""When a trial is evaluated, and which evaluations need not read anything: those between which nothing was lost.

Extraction strength and exact memorisation ask which token is the most probable. One that has more than half of the
probability is, so as long as every answer token that the steps read has it, these metrics stand where they stood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rayul.records import Evaluation
from rayul.records.objectives import MIN_FORGOTTEN, score
from rayul.spec import Spec, is_forgetting

SURE = math.log(0.5)
"""A token with this log-probability is the most probable one."""
STEADY = 0.1
"""Nats that a token which was not sure before may lose and count as it was."""
INTERVALS, MIXED = 12, 4
"""Evaluations of a trial whose `evaluate_every` is auto, those that read nothing included; and with mixing, where each
measures up to seven coefficients, and scaling brings back what fell in between (results/packs)."""
BY_FIRST_CHOICE = ("es", "em")
"""Metrics that follow from which token is the most probable."""


def evaluation_steps(spec: Spec) -> list[int]:
    """Steps at which a trial is evaluated, 0 and the last included.

    `evaluate_every` is an interval; "auto": a twelfth of the steps, with mixing a quarter; or "geometric": 1, 2, 3, 4,
    6, 8, 11, 16, ... (factor sqrt 2), since gradient ascent can collapse between two evenly spaced evaluations.
    """
    steps, every = spec.training.steps, spec.training.evaluate_every
    intervals = MIXED if spec.control.mixing is True else INTERVALS
    if every == "geometric":
        points = {round(2 ** (i / 2)) for i in range(2 * max(1, steps).bit_length())}
    else:
        interval = max(1, round(steps / intervals)) if every == "auto" else int(every)
        points = set(range(0, steps, interval))
    return sorted({0, steps} | {p for p in points if p < steps})


class Watch:
    """What the steps since the last evaluation say of the rows that they read anyway, to forget and to keep.

    An evaluation is repeated, without reading a row, where all these rows stand as they stood, and the last one was no
    solution: the repeated one is none either, so it can neither enter the front nor be what a search is told of a trial
    that has a solution. The first and the last evaluation of a trial are never repeated. Of 16,032 evaluations on the
    testbed 44% had forgotten nothing, and none of these had broken the limit (results/search, the second space).
    """

    def __init__(self, spec: Spec) -> None:
        self.on = spec.training.evaluate_every == "auto" and all(
            key.partition(".")[2] in BY_FIRST_CHOICE for key in spec.steering
        )
        self.spec = spec
        self.last: Evaluation | None = None
        """The last evaluation, where it may be repeated."""
        self._lost: Tensor | None = None

    def state(self) -> dict[str, Any]:
        """As JSON, for `resume`."""
        last = None if self.last is None else {"metrics": self.last.metrics, "violation": self.last.violation}
        return {"last": last, "lost": None if self._lost is None else bool(self._lost)}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; without one, from a step at which nothing is known."""
        last, lost = state.get("last"), state.get("lost")
        self.last = None if last is None else Evaluation("", 0, mixing=1.0, **last)
        self._lost = None if lost is None else torch.tensor(lost)

    def note(self, logp: Tensor, before: Tensor, mask: Tensor) -> None:
        """logp, before [..., B, S]: of the labels of rows that a step reads, now and of the model before unlearning;
        mask: the answer tokens."""
        lost = (mask & (logp.detach() < SURE) & (logp.detach() < before - STEADY)).any()
        self._lost = lost if self._lost is None else self._lost | lost

    def reported(self, rows: list[Evaluation], baseline: Mapping[str, float]) -> None:
        """An evaluation has these rows."""
        self._lost = None
        self.last = rows[0] if self.on and self._is_repeatable(rows, baseline) else None

    def repeats(self, step: int) -> bool:
        """Whether the evaluation of this step is the last one again."""
        if self.last is None or self._lost is None or step in (0, self.spec.training.steps):
            return False
        return not bool(self._lost)

    def repeated(self, row: Evaluation) -> Evaluation:
        """The last evaluation as that of another step; row: what it is of. That it has no rows says that none was
        read."""
        assert self.last is not None
        known = {key: self.last.metrics[key] for key in self.spec.steering}
        return replace(row, mixing=1.0, metrics=known, violation=self.last.violation, feasible=True)

    def _is_repeatable(self, rows: list[Evaluation], baseline: Mapping[str, float]) -> bool:
        (one, *others) = rows
        if others or one.mixing != 1.0 or not one.feasible or not all(key in one.metrics for key in self.spec.steering):
            return False
        forgets = [(key, direction) for key, direction in self.spec.objectives.items() if is_forgetting(key)]
        gone = [float(score(key, direction, one.metrics[key], baseline[key])) for key, direction in forgets]
        return bool(gone) and all(share < MIN_FORGOTTEN for share in gone)
