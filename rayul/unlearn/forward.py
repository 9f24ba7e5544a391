"""The teacher-forced forward: the logits that predict the answer tokens, and what each row scores."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayul.unlearn.label_logp import label_logp
from rayul.unlearn.products import by_hand
from rayul.unlearn.projection import Projection, passing, projecting_head
from rayul.unlearn.tokens import Batch, Example, collate

Model = Any
"""A `transformers` causal LM, with or without PEFT adapters."""


class _Fields(NamedTuple):
    logits: Tensor | Projection
    labels: Tensor
    mask: Tensor
    hidden: Tensor | None = None
    logp: Tensor | None = None


class Answers(_Fields):
    """Predictions of a batch over its last S positions, aligned: logits[b, s] predicts labels[b, s].

    logits [B, S, V], labels [B, S] int64, mask [B, S] bool (True on answer tokens); hidden [B, S, L * D], if asked for,
    of L layers side by side; logp [B, S], the labels' log-probabilities by these logits, where they are known already.

    Of a large vocabulary the logits are given as a `Projection`, and exist whole once `logits` is read.
    """

    __slots__ = ()

    @property
    def logits(self) -> Tensor:
        return self[0].whole if isinstance(self[0], Projection) else self[0]

    @property
    def predicted(self) -> Tensor | Projection:
        """The logits as they were given."""
        return self[0]

    def with_logits(self, logits: Tensor | Projection) -> Answers:
        """The same answers predicted by other logits."""
        return self._replace(logits=logits, logp=None)


def forward(model: Model, batch: Batch, layer: int | Sequence[int] | None = None) -> Answers:
    """One forward. Only positions from the first answer token of the batch on are projected on the vocabulary:
    the prompt's logits are waste (for a vocabulary of 128k, most of the memory of a step).

    `layer`: also return the hidden states after that many blocks (1..number of blocks), or after each of several."""
    layers = [layer] if isinstance(layer, int) else list(layer or ())
    length = batch.ids.shape[1]
    first = int(batch.answer.any(0).nonzero()[0]) if bool(batch.answer.any()) else length - 1
    keep = length - first + 1  # the logits at first - 1 predict the token at `first`
    head = projecting_head(model)
    with passing(head), by_hand(model):
        output = model(
            input_ids=batch.ids,
            use_cache=False,
            output_hidden_states=bool(layers),
            **attending(batch),
            **last_logits(model, keep),
        )
    hidden = torch.cat([output.hidden_states[i][:, first - 1 : -1] for i in layers], -1) if layers else None
    found = output.logits[:, -keep:-1]
    predicted = found if head is None else Projection(found, head)
    return Answers(predicted, batch.ids[:, first:], batch.answer[:, first:], hidden)


def attending(batch: Batch) -> dict[str, Tensor]:
    """The arguments by which a model knows what a token may see. Texts that share a row are told by their positions,
    which transformers reads where there is no mask: padding on the right needs none."""
    return {"attention_mask": batch.attention} if batch.positions is None else {"position_ids": batch.positions}


def last_logits(model: Model, keep: int) -> dict[str, int]:
    """The argument by which a model projects its last `keep` positions only; none where its forward (remote code) does
    not know it, and projects all."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {"logits_to_keep": keep} if "logits_to_keep" in signature(base.forward).parameters else {}


def token_logp(answers: Answers) -> Tensor:
    """log p of each label, [B, S] float32; 0 outside the mask."""
    logp = logp_of(answers, answers.labels) if answers.logp is None else answers.logp
    return torch.where(answers.mask, logp, 0.0)


def logp_of(answers: Answers, labels: Tensor) -> Tensor:
    """log p of other labels [B, S] in the answers' places, [B, S] float32."""
    predicted = answers.predicted
    return predicted.logp(labels) if isinstance(predicted, Projection) else label_logp(predicted, labels)


def token_scores(answers: Answers) -> tuple[Tensor, Tensor]:
    """log p of each label, [B, S] float32, 0 outside the mask; whether it is the most probable token, [B, S] bool."""
    predicted = answers.predicted
    if not isinstance(predicted, Projection):
        return token_logp(answers), predicted.argmax(-1) == answers.labels
    logp, match = predicted.scores(answers.labels)
    return torch.where(answers.mask, logp, 0.0), match


class TokenScores(NamedTuple):
    """One row under teacher forcing, answer tokens only: logp [L] float64 (nats), match [L] bool (label == argmax).

    options [C] float64: of multiple choice the log-probability of each option's letter, else of length 0. right: which
    of them is the right one."""

    logp: NDArray[np.float64]
    match: NDArray[np.bool_]
    options: NDArray[np.float64] = np.zeros(0)
    right: int = 0


@torch.no_grad()
def score(model: Model, examples: Sequence[Example], pad: int, batch_size: int = 64) -> list[TokenScores]:
    """Score examples, in their order. Batches are sorted by length, so little of a forward is padding."""
    device = next(model.parameters()).device
    training = [module for module in model.modules() if module.training]  # a fresh adapter's, not its base's
    model.eval()
    scores: list[TokenScores | None] = [None] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        answers = forward(model, collate([examples[i].to_answer for i in chosen], pad, device))
        found, best = token_scores(answers)
        logp, match = found.double().cpu().numpy(), best.cpu().numpy()
        mask = answers.mask.cpu().numpy()
        options = option_logp(answers, [examples[i] for i in chosen])
        for row, i in enumerate(chosen):
            scores[i] = TokenScores(logp[row][mask[row]], match[row][mask[row]], *options.get(row, ()))
    for module in training:
        module.training = True
    return [s for s in scores if s is not None]


def option_logp(answers: Answers, examples: Sequence[Example]) -> dict[int, tuple[NDArray[np.float64], int]]:
    """By the number of an example that has options: log p of each option's letter [C], and which is the right one."""
    asked = [i for i, example in enumerate(examples) if example.options]
    if not asked:
        return {}
    device, width = answers.labels.device, max(len(examples[i].options) for i in asked)
    rows = torch.tensor(asked, device=device)
    letter = answers.mask.shape[1] - 1 - answers.mask[rows].flip(1).int().argmax(1)  # an answer's last token
    tokens = torch.tensor([[*examples[i].options, *[0] * (width - len(examples[i].options))] for i in asked])
    logits = answers._replace(logits=answers.predicted[rows, letter]).logits
    logp = logits.float().log_softmax(-1).gather(1, tokens.to(device)).double().cpu().numpy()
    return {
        i: (logp[n, : len(examples[i].options)], examples[i].options.index(examples[i].ids[examples[i].stop - 1]))
        for n, i in enumerate(asked)
    }
