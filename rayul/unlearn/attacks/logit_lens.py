"""Logit lens: what the layers below the last one already say, read with the model's own head (nostalgebraist 2020;
for unlearned models Patil et al. 2024, arXiv 2309.17410)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rayul.unlearn.attacks.target import Attempts, Target, everywhere
from rayul.unlearn.forward import Answers, Model, TokenScores, last_logits, token_logp
from rayul.unlearn.probe import Missing
from rayul.unlearn.tokens import Example, collate

NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
"""What architectures call the norm between the last layer and the head."""


def logit_lens(target: Target) -> Attempts:
    """Every layer in turn. The last one is the model itself, so the worst of them is never below what it says."""
    layers = lens_scores(target.model, target.examples, target.pad, target.batch_size)
    for layer, scores in enumerate(layers, 1):
        yield everywhere(f"layer {layer} of {len(layers)}", scores)


@torch.no_grad()
def lens_scores(model: Model, examples: Sequence[Example], pad: int, batch_size: int) -> list[list[TokenScores]]:
    """Scores of the answers by layer, then by example: the head's reading of the normed hidden states after it."""
    norm, head = final_norm(model), model.get_output_embeddings()
    device = next(model.parameters()).device
    found: dict[int, list[TokenScores]] = {}
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        batch = collate([examples[i] for i in chosen], pad, device)
        first = int(batch.answer.any(0).nonzero()[0])
        states = model(
            input_ids=batch.ids,
            attention_mask=batch.attention,
            use_cache=False,
            output_hidden_states=True,
            **last_logits(model, 1),
        ).hidden_states
        readings = []
        for layer, state in enumerate(states[1:], 1):
            seen = state[:, first - 1 : -1]
            logits = head(seen if layer == len(states) - 1 else norm(seen))  # the last one is normed already
            answers = Answers(logits, batch.ids[:, first:], batch.answer[:, first:])
            logp, match = (
                token_logp(answers).double().cpu().numpy(),
                (logits.argmax(-1) == answers.labels).cpu().numpy(),
            )
            readings.append((logp, match))
        mask = batch.answer[:, first:].cpu().numpy()
        for row, i in enumerate(chosen):
            found[i] = [TokenScores(logp[row][mask[row]], match[row][mask[row]]) for logp, match in readings]
    return [list(layer) for layer in zip(*(found[i] for i in range(len(examples))), strict=True)]


def final_norm(model: Model) -> Any:
    """The norm before the head. Raises Missing where no known name has one."""
    body = model.base_model
    for part in (body, getattr(body, "decoder", None)):
        for name in NORMS:
            if getattr(part, name, None) is not None:
                return getattr(part, name)
    raise Missing(f"{type(model).__name__} has no norm before its head under any of {', '.join(NORMS)}")
