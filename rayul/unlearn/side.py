"""What a loss sees of one batch of one set."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from rayul.unlearn.forward import Answers, token_logp


class Side:
    """One batch of one set, as a loss sees it; each forward happens when a loss first asks for it.

    answers: logits [B, S, V], labels [B, S], mask [B, S]; on the forget side the controls are already applied.
    reference: the same batch through the model before unlearning (adapter disabled, no gradient).
    reference_logp: its token log-probabilities [B, S] on the mask (cached for all trials of a process).
    tokens: labels and mask [B, S] of the answers, known without a forward.
    direction: [D], for methods that read hidden states (then `answers.hidden` [B, S, L * D] is there too, of L layers).
    progress: share of the trial's steps that are done, in [0, 1).
    """

    def __init__(
        self,
        answers: Callable[[], Answers],
        reference: Callable[[], Answers],
        reference_logp: Callable[[Tensor], Tensor],
        direction: Tensor | None = None,
        tokens: Callable[[], tuple[Tensor, Tensor]] | None = None,
        progress: float = 0.0,
    ) -> None:
        self._answers, self._reference, self._reference_logp = answers, reference, reference_logp
        self._tokens = tokens or (lambda: (self.answers.labels, self.answers.mask))
        self.direction, self.progress = direction, progress

    @cached_property
    def tokens(self) -> tuple[Tensor, Tensor]:
        return self._tokens()

    @cached_property
    def answers(self) -> Answers:
        return self._answers()

    @cached_property
    def reference(self) -> Answers:
        return self._reference()

    @property
    def mask(self) -> Tensor:
        return self.answers.mask

    @cached_property
    def logp(self) -> Tensor:
        """log p_t [B, S]; 0 outside the mask."""
        return token_logp(self.answers)

    @cached_property
    def reference_logp(self) -> Tensor:
        return self._reference_logp(self.mask)
