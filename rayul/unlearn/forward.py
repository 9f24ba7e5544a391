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
from rayul.unlearn.tokens import Batch, Example, collate

Model = Any
"""A `transformers` causal LM, with or without PEFT adapters."""


class Answers(NamedTuple):
    """Predictions of a batch over its last S positions, aligned: logits[b, s] predicts labels[b, s].

    logits [B, S, V], labels [B, S] int64, mask [B, S] bool (True on answer tokens); hidden [B, S, L * D], if asked for,
    of L layers side by side; logp [B, S], the labels' log-probabilities by these logits, where they are known already.
    """

    logits: Tensor
    labels: Tensor
    mask: Tensor
    hidden: Tensor | None = None
    logp: Tensor | None = None

    def with_logits(self, logits: Tensor) -> Answers:
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
    output = model(
        input_ids=batch.ids,
        attention_mask=batch.attention,
        use_cache=False,
        output_hidden_states=bool(layers),
        **last_logits(model, keep),
    )
    hidden = torch.cat([output.hidden_states[i][:, first - 1 : -1] for i in layers], -1) if layers else None
    return Answers(output.logits[:, -keep:-1], batch.ids[:, first:], batch.answer[:, first:], hidden)


def last_logits(model: Model, keep: int) -> dict[str, int]:
    """The argument by which a model projects its last `keep` positions only; none where its forward (remote code) does
    not know it, and projects all."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {"logits_to_keep": keep} if "logits_to_keep" in signature(base.forward).parameters else {}


def token_logp(answers: Answers) -> Tensor:
    """log p of each label, [B, S] float32; 0 outside the mask."""
    logp = label_logp(answers.logits, answers.labels) if answers.logp is None else answers.logp
    return torch.where(answers.mask, logp, 0.0)


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
        answers = forward(model, collate([examples[i] for i in chosen], pad, device))
        logp = token_logp(answers).double().cpu().numpy()
        match = (answers.logits.argmax(-1) == answers.labels).cpu().numpy()
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
    device, width = answers.logits.device, max(len(examples[i].options) for i in asked)
    rows = torch.tensor(asked, device=device)
    letter = answers.mask.shape[1] - 1 - answers.mask[rows].flip(1).int().argmax(1)  # an answer's last token
    tokens = torch.tensor([[*examples[i].options, *[0] * (width - len(examples[i].options))] for i in asked])
    logp = answers.logits[rows, letter].float().log_softmax(-1).gather(1, tokens.to(device)).double().cpu().numpy()
    return {
        i: (logp[n, : len(examples[i].options)], examples[i].options.index(examples[i].ids[examples[i].stop - 1]))
        for n, i in enumerate(asked)
    }
