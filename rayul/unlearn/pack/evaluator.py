"""Evaluation in a pack: adapters at mixing coefficients, several in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rayul.spec import Evaluate, Spec
from rayul.unlearn.answered import answered
from rayul.unlearn.attacks.steering import Trained, under_attack
from rayul.unlearn.evaluate import measurement
from rayul.unlearn.forward import TokenScores
from rayul.unlearn.measured import Groups, Measurement
from rayul.unlearn.pack.base import Adapters, PackedBase
from rayul.unlearn.pack.lines import filled
from rayul.unlearn.pack.parameters import Layout
from rayul.unlearn.pack.scorer import Scorer
from rayul.unlearn.task import Task

SetNames = tuple[str, ...] | None
"""Names of sets; None: all that an evaluation reads."""


class ScoredSets(NamedTuple):
    """Of some sets: the metrics and the group of each row by set, and what scores their rows."""

    metrics: Mapping[str, Sequence[str]]
    groups: Mapping[str, Groups]
    scorer: Scorer


class Evaluator:
    """lanes: adapters in one forward, which has evaluate.batch_size lines in all.

    With one lane and a float32 base the adapter is added to (a copy of) the weights first. An evaluation's rows fill a
    forward by themselves, so on a CPU that beats more lanes: LoRA's thin products cost a fifth of the forward.
    """

    def __init__(self, task: Task, base: PackedBase, layout: Layout, evaluate: Evaluate, lanes: int) -> None:
        self.task, self.base, self.layout, self.lanes, self.size = task, base, layout, lanes, evaluate.batch_size
        self.metrics = task.forward_metrics(evaluate.metrics)
        self._scorings: dict[SetNames, ScoredSets] = {}

    def score(self, rows: Tensor, scales: Sequence[float], sets: SetNames = None) -> Iterator[list[TokenScores]]:
        """The scores of adapters rows [M, P], each at its scale (alpha / r, times the mixing), one adapter after the
        other. sets: on these; None: on all that an evaluation reads. What is raised here is of no single one: they
        share a forward."""
        scorer = self.scoring(sets).scorer
        for begin in range(0, len(scales), self.lanes):
            lanes = filled(range(begin, min(begin + self.lanes, len(scales))), self.lanes)
            yield from scorer.score(rows[lanes], [scales[i] for i in lanes])[: len(scales) - begin]

    def under_attack(self, row: Tensor, scale: float, spec: Spec, seed: int) -> Measurement:
        """What the trial's spec asks for under attacks, of one adapter, row [1, P] at its scale. The row stays as it
        is."""
        leaves = [t.detach().clone().requires_grad_() for pair in self.layout.pairs(row) for t in pair]
        adapters = Adapters(list(zip(leaves[::2], leaves[1::2], strict=True)), torch.tensor([scale], device=row.device))

        @contextmanager
        def unadapted() -> Iterator[tuple[Any, Mapping[Any, Tensor]]]:
            yield self.task.base, self.base.added(adapters)

        trained = Trained(lambda: self.base.adapted(adapters), leaves, unadapted)
        return under_attack(trained, self.task, spec, seed)

    def measure(self, scores: list[TokenScores], row: Tensor, scale: float, sets: SetNames = None) -> Measurement:
        """The metrics of one adapter, row [1, P] at its scale: from its scores on these sets and, of all sets where a
        probe asks for more than these, from the model with this adapter alone on it."""
        own = self.scoring(sets)
        found = measurement(scores, own.groups, own.metrics, self.task.own)
        if sets is not None or not self.task.further_metrics(everything=False):
            return found
        with self.base.adapted(Adapters(self.layout.pairs(row), torch.tensor([scale], device=row.device))) as model:
            return found.joined(answered(model, self.task, self.size))

    def scoring(self, sets: SetNames) -> ScoredSets:
        """Made once."""
        if sets not in self._scorings:
            metrics = {name: of_set for name, of_set in self.metrics.items() if sets is None or name in sets}
            examples = [e for rows in self.task.evaluated(metrics).values() for e in rows]
            # In a lower precision than the adapter's, small updates would vanish in the sum.
            merging = self.task.base.dtype == torch.float32
            scorer = Scorer(self.base, self.layout, examples, self.task.pad, self.size, merging)
            self._scorings[sets] = ScoredSets(metrics, self.task.groups(metrics), scorer)
        return self._scorings[sets]
