"""What the base says of the training rows, computed once for all trials of a pack where it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rayul.unlearn.forward import Answers, token_logp
from rayul.unlearn.pack.base import PackedBase, Predictions
from rayul.unlearn.pack.lines import Lines
from rayul.unlearn.projection import Projection, joined

BUDGET = 2**28
"""Bytes of logits, or of the hidden states that stand for them, that may be kept for a set."""
BATCH = 32
"""Rows per forward pass. A set is always computed whole, so no value depends on which trial asked first."""


class Reference:
    """sets: the training rows by name, as `Lines`."""

    def __init__(self, base: PackedBase, sets: Mapping[str, Lines]) -> None:
        self.base, self.sets = base, sets
        self._logp: dict[str, Tensor] = {}
        self._logits: dict[str, Tensor | Projection | None] = {}

    def logp(self, name: str, rows: Tensor) -> Tensor:
        """Log-probabilities of the labels [B, S]; 0 outside the answer."""
        if name not in self._logp:
            self._logp[name] = torch.cat(
                [token_logp(Answers(p.logits, part.labels, part.mask)) for part, p in self._whole(name)]
            )
        return self._logp[name].index_select(0, rows)

    @torch.no_grad()
    def predictions(self, name: str, rows: Tensor, layers: Sequence[int] = ()) -> Predictions:
        """Logits (and hidden states) [B, S, ...] of these rows."""
        if layers:
            return self.base.predict(self.sets[name].take(rows), layers=layers)
        if name not in self._logits:
            keep = self.sets[name].labels.numel() * self.base.token_bytes <= BUDGET
            self._logits[name] = joined([p.logits for _, p in self._whole(name)]) if keep else None
        kept = self._logits[name]
        if kept is None:
            return self.base.predict(self.sets[name].take(rows))
        return Predictions(kept[rows], {})

    @torch.no_grad()
    def _whole(self, name: str) -> list[tuple[Lines, Predictions]]:
        lines = self.sets[name]
        numbers = torch.arange(len(lines.ids), device=lines.ids.device)
        parts = [lines.take(some) for some in numbers.split(BATCH)]
        return [(part, self.base.predict(part)) for part in parts]
