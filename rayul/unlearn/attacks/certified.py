"""One attack on certified weights: what it brings back, as the lines of certified/attacks.jsonl."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rayul.records.attacked import FINE_TUNE, INTERPOLATE, Attacked
from rayul.spec import Attack
from rayul.unlearn.attacks.recovery import FineTuning, Look, cells, fine_tuned, interpolated
from rayul.unlearn.attacks.table import ATTACKS
from rayul.unlearn.attacks.target import Target
from rayul.unlearn.evaluate import measurement
from rayul.unlearn.forward import TokenScores
from rayul.unlearn.measured import Measured
from rayul.unlearn.probe import Missing
from rayul.unlearn.task import Task
from rayul.unlearn.trial import is_out_of_memory
from rayul.words import plural


class Try(NamedTuple):
    """What is tried on the weights of a certified folder. cell: of fine-tuning, else None."""

    model: str
    attack: str
    cell: FineTuning | None = None

    def variant(self, budget: int) -> str:
        """What a cell is called in the records."""
        return "" if self.cell is None else f"{self.cell.words}, {plural(budget, 'step')}"


def tries(model: str, wanted: Attack) -> list[Try]:
    """All attacks on one folder that are asked for."""
    return [
        *(Try(model, FINE_TUNE, cell) for cell in cells(wanted)),
        *(Try(model, name) for name in (INTERPOLATE, *wanted.attacks)),
    ]


class Victim:
    """Certified weights. target: they, merged, with the forget rows; base: the weights before unlearning; known: what
    the base scores on these rows."""

    def __init__(self, task: Task, target: Target, base: Any, known: Sequence[TokenScores]) -> None:
        self.task, self.target, self.base, self.known = task, target, base, known
        self.groups = task.groups(["forget"])["forget"]

    def attacked(self, one: Try, wanted: Attack) -> list[Attacked]:
        """The lines of one attack, at least one. What cannot be tried is a line with its reason."""
        started = time.perf_counter()
        try:
            rows = self._rows(one, wanted)
        except Missing as missing:
            rows = [Attacked(one.model, one.attack, one.variant(wanted.budget), reason=missing.message)]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            rows = [Attacked(one.model, one.attack, one.variant(wanted.budget), reason="out of memory")]
        return [replace(row, seconds=(time.perf_counter() - started) / len(rows)) for row in rows]

    def _rows(self, one: Try, wanted: Attack) -> list[Attacked]:
        everything = list(range(len(self.target.rows)))
        if one.cell is not None:
            judged, looks = fine_tuned(self.target, one.cell, wanted.budget, wanted.every)
            return [self._row(one, one.variant(wanted.budget), judged, list(looks))]
        if one.attack == INTERPOLATE:
            return [self._row(one, "", everything, list(interpolated(self.target, self.base)))]
        return [
            self._row(one, attempt.variant, attempt.judged or everything, [Look(0, attempt.scores)])
            for attempt in ATTACKS[one.attack](self.target)
        ]

    def _row(self, one: Try, variant: str, judged: Sequence[int], looks: Sequence[Look]) -> Attacked:
        found = [self._es(look.scores, judged) for look in looks]
        return Attacked(
            one.model,
            one.attack,
            variant,
            at=tuple(look.at for look in looks),
            es=tuple(m.value for m in found),
            stderr=tuple(m.stderr for m in found),
            before=self._es([self.target.before[i] for i in judged], judged).value,
            baseline=self._es([self.known[i] for i in judged], judged).value,
            rows=len(judged),
            groups=len(set(self.groups[list(judged)].tolist())),
        )

    def _es(self, scores: Sequence[TokenScores], judged: Sequence[int]) -> Measured:
        found = measurement(scores, {"forget": self.groups[list(judged)]}, {"forget": ["es"]}, self.task.own)
        return found.measured["forget.es"]
