"""Evaluation in a pack: adapters at mixing coefficients, several in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rayul.spec import Evaluate
from rayul.unlearn.evaluate import Measurement, measurement
from rayul.unlearn.forward import Answers, TokenScores, token_logp
from rayul.unlearn.pack.base import Adapters, PackedBase
from rayul.unlearn.pack.lines import Lines, filled, lines
from rayul.unlearn.pack.parameters import Layout
from rayul.unlearn.task import Task


class Evaluator:
    """lanes: adapters in one forward, which has evaluate.batch_size lines in all.

    With one lane and a float32 base the adapter is added to (a copy of) the weights first. An evaluation's rows fill a
    forward by themselves, so on a CPU that beats more lanes: LoRA's thin products cost a fifth of the forward.
    """

    def __init__(self, task: Task, base: PackedBase, layout: Layout, evaluate: Evaluate, lanes: int) -> None:
        self.base, self.layout, self.lanes, self.metrics = base, layout, lanes, evaluate.metrics
        self.own = task.own
        # In a lower precision than the adapter's, small updates would vanish in the sum.
        self.merging = lanes == 1 and task.base.dtype == torch.float32
        sets = task.evaluated()
        self.groups = task.groups()
        examples = [e for rows in sets.values() for e in rows]
        by_length = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
        size = max(1, evaluate.batch_size // lanes)
        parts = [by_length[i : i + size] for i in range(0, len(by_length), size)]
        self.batches = [(part, lines([examples[i] for i in part], task.pad, task.device)) for part in parts]

    def score(self, rows: Tensor, scales: Sequence[float]) -> Iterator[list[TokenScores]]:
        """The scores of adapters rows [M, P], each at its scale (alpha / r, times the mixing), one adapter after the
        other. What is raised here is of no single one: they share a forward."""
        for begin in range(0, len(scales), self.lanes):
            lanes = filled(range(begin, min(begin + self.lanes, len(scales))), self.lanes)
            scale = torch.tensor([scales[i] for i in lanes], device=rows.device)
            yield from self._scores(Adapters(self.layout.pairs(rows[lanes]), scale))[: len(scales) - begin]

    def measure(self, scores: list[TokenScores]) -> Measurement:
        """The metrics of one adapter, from its scores."""
        return measurement(scores, self.groups, self.metrics, self.own)

    @torch.no_grad()
    def _scores(self, adapters: Adapters) -> list[list[TokenScores]]:
        """By lane, the scores of the evaluated examples."""
        weights = self.base.merged(adapters) if self.merging else None
        by_lane: list[dict[int, TokenScores]] = [{} for _ in range(self.lanes)]
        for numbers, batch in self.batches:
            repeated = Lines(*(field.repeat(self.lanes, 1) for field in batch))
            logits = self.base.predict(repeated, None if weights else adapters, weights=weights).logits
            logp = token_logp(Answers(logits, repeated.labels, repeated.mask)).double().cpu().numpy()
            match = (logits.argmax(-1) == repeated.labels).cpu().numpy()
            mask = repeated.mask.cpu().numpy()
            for line in range(len(mask)):
                lane, row = divmod(line, len(numbers))
                by_lane[lane][numbers[row]] = TokenScores(logp[line][mask[line]], match[line][mask[line]])
        return [[scores[i] for i in range(len(scores))] for scores in by_lane]
