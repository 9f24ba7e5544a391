"""Evaluation in a pack: adapters at mixing coefficients, several in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rayul.spec import Evaluate
from rayul.unlearn.evaluate import Measurement, measurement
from rayul.unlearn.forward import TokenScores
from rayul.unlearn.pack.base import PackedBase
from rayul.unlearn.pack.lines import filled
from rayul.unlearn.pack.parameters import Layout
from rayul.unlearn.pack.scorer import Scorer
from rayul.unlearn.task import Task


class Evaluator:
    """lanes: adapters in one forward, which has evaluate.batch_size lines in all.

    With one lane and a float32 base the adapter is added to (a copy of) the weights first. An evaluation's rows fill a
    forward by themselves, so on a CPU that beats more lanes: LoRA's thin products cost a fifth of the forward.
    """

    def __init__(self, task: Task, base: PackedBase, layout: Layout, evaluate: Evaluate, lanes: int) -> None:
        self.lanes, self.metrics, self.own, self.groups = lanes, evaluate.metrics, task.own, task.groups()
        # In a lower precision than the adapter's, small updates would vanish in the sum.
        merging = task.base.dtype == torch.float32
        examples = [e for rows in task.evaluated().values() for e in rows]
        self.scorer = Scorer(base, layout, examples, task.pad, evaluate.batch_size, merging)

    def score(self, rows: Tensor, scales: Sequence[float]) -> Iterator[list[TokenScores]]:
        """The scores of adapters rows [M, P], each at its scale (alpha / r, times the mixing), one adapter after the
        other. What is raised here is of no single one: they share a forward."""
        for begin in range(0, len(scales), self.lanes):
            lanes = filled(range(begin, min(begin + self.lanes, len(scales))), self.lanes)
            yield from self.scorer.score(rows[lanes], [scales[i] for i in lanes])[: len(scales) - begin]

    def measure(self, scores: list[TokenScores]) -> Measurement:
        """The metrics of one adapter, from its scores."""
        return measurement(scores, self.groups, self.metrics, self.own)
