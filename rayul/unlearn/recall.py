"""What models still recall of the rows, by group, beside what the base recalled: numbers, and on request samples."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayul.records.recall import Counted, Recall, Sample
from rayul.spec import Spec
from rayul.unlearn.data import Row
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.measured import Measurement
from rayul.unlearn.probe import Generation, Probe
from rayul.unlearn.task import Task, spaced
from rayul.unlearn.template import Template
from rayul.unlearn.trial import REPORTED

SAMPLE_TOKENS = 64
"""Length limit of a sampled answer."""


class Recaller:
    """The rows of a task in front of the base and of models made of it.

    What the base says is measured here: an adapter that is loaded later changes the base in place.
    """

    def __init__(self, task: Task, spec: Spec) -> None:
        self.task, self.spec = task, spec
        self._before = self._counted(evaluate(task.base, task, ["es"], spec.evaluate.batch_size, REPORTED))
        self._texts_before = self._texts(task.base)

    def of(self, model: Any, measurement: Measurement) -> Recall:
        """What a model recalls. measurement: of its report (`final_measurement`)."""
        return Recall(
            before=self._before,
            after=self._counted(measurement),
            samples=tuple(
                Sample(name, row.group, row.question.strip(), row.answer.strip(), old, new)
                for (name, row), old, new in zip(self._sampled, self._texts_before, self._texts(model), strict=True)
            ),
        )

    @cached_property
    def _sampled(self) -> list[tuple[str, Row]]:
        """The rows to show, each with its set: of those to keep, rows that the search has not read."""
        retain = "retain_report" if self.task.sets.get("retain_report") else "retain"
        chosen = {name: list(self.task.sets.get(name, ())) for name in ("forget", retain, "general")}
        count = self.spec.report.samples or 0
        return [(name, row) for name, rows in chosen.items() for row in spaced(rows, count)]

    def _texts(self, model: Any) -> list[str]:
        """What a model answers to the rows to show, of all sets at once: a step of decoding costs about the same for
        fifteen rows as for five. The padding of a row, and with it the last bits of its logits, depends on the others.
        """
        options = (Template.of(self.spec.model), self.spec.evaluate.batch_size, Generation(SAMPLE_TOKENS))
        return Probe(model, self.task.tokenizer, [row for _, row in self._sampled], *options).texts

    def _counted(self, measurement: Measurement) -> dict[str, Counted]:
        of_data = [name for name in measurement.groups if self.task.probe_of(name) is None]
        rows = {name: spaced(list(self.task.sets[name]), self.task.max_rows) for name in of_data}
        return {name: counted(measurement.per_row[f"{name}.es"], rows[name]) for name in rows}


def counted(es: NDArray[np.float64], rows: list[Row]) -> Counted:
    """By group, in the order of their first rows. es: of the rows [rows], in [0, 1]."""
    members: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(row.group, []).append(i)
    own = [es[places] for places in members.values()]
    return Counted(
        groups=tuple(members),
        rows=tuple(map(len, own)),
        es=tuple(round(float(values.mean()), 6) for values in own),
        verbatim=tuple(int((values == 1).sum()) for values in own),
    )
