"""The scores of a fixed set of rows by adapters of a pack's layout, several of them in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayul.unlearn.forward import Answers, TokenScores, option_logp, token_scores
from rayul.unlearn.pack.base import Adapters, PackedBase
from rayul.unlearn.pack.lines import Lines, lines
from rayul.unlearn.pack.parameters import Layout
from rayul.unlearn.projection import Projection
from rayul.unlearn.tokens import Example


class Scorer:
    """examples: the rows, scored in batches of similar length. size: lines of a forward, of all its adapters together.
    merging: a single adapter in a forward is added to (a copy of) the weights first."""

    def __init__(
        self, base: PackedBase, layout: Layout, examples: Sequence[Example], pad: int, size: int, merging: bool = False
    ) -> None:
        self.base, self.layout, self.pad = base, layout, pad
        self.examples = [example.to_answer for example in examples]
        self.size, self.merging = size, merging
        self._by_length = sorted(range(len(examples)), key=lambda i: len(self.examples[i].ids))
        self._batches: dict[int, list[tuple[list[int], Lines]]] = {}
        """By the number of adapters in a forward: the numbers of its examples, and these as tensors."""

    @torch.no_grad()
    def score(self, rows: Tensor, scales: Sequence[float]) -> list[list[TokenScores]]:
        """Adapters rows [M, P], each at its scale, in forwards of all M; the scores of the examples for each."""
        adapters = Adapters(self.layout.pairs(rows), torch.tensor(scales, device=rows.device))
        weights = self.base.merged(adapters) if self.merging and len(rows) == 1 else None
        by_lane: list[dict[int, TokenScores]] = [{} for _ in scales]
        for numbers, batch in self._batches_of(len(rows), rows.device):
            repeated = batch.each(lambda field: field.repeat(len(rows), 1))
            logits = self.base.predict(repeated, None if weights else adapters, weights=weights).logits
            answers = Answers(logits, repeated.labels, repeated.mask)
            logp, match = self._token_scores(answers, len(rows))
            mask = repeated.mask.cpu().numpy()
            options = option_logp(answers, [self.examples[i] for i in numbers] * len(rows))
            for line in range(len(mask)):
                lane, row = divmod(line, len(numbers))
                found = TokenScores(logp[line][mask[line]], match[line][mask[line]], *options.get(line, ()))
                by_lane[lane][numbers[row]] = found
        return [[scores[i] for i in range(len(scores))] for scores in by_lane]

    def _token_scores(self, answers: Answers, lanes: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Lane by lane where logits come in parts, so that they are the same parts in each."""
        count = lanes if isinstance(answers.predicted, Projection) else 1
        size = len(answers.labels) // count
        own = [slice(begin, begin + size) for begin in range(0, len(answers.labels), size)]
        found = [token_scores(Answers(answers.predicted[i], answers.labels[i], answers.mask[i])) for i in own]
        logp, match = (torch.cat(lane) for lane in zip(*found, strict=True))
        return logp.double().cpu().numpy(), match.cpu().numpy()

    def _batches_of(self, lanes: int, device: torch.device) -> Iterator[tuple[list[int], Lines]]:
        if lanes not in self._batches:
            size = max(1, self.size // lanes)
            parts = [self._by_length[i : i + size] for i in range(0, len(self._by_length), size)]
            self._batches[lanes] = [(part, lines([self.examples[i] for i in part], self.pad, device)) for part in parts]
        yield from self._batches[lanes]
