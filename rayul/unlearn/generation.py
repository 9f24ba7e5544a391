"""Greedy answers, and the extraction strength that needs them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayul.unlearn import metrics
from rayul.unlearn.fits import positions
from rayul.unlearn.forward import Model, TokenScores
from rayul.unlearn.tokens import Example

Ids = Sequence[int]

SIMILAR = 0.5
"""A continuation is similar when its common subsequence with the truth is more than this share of it."""


@torch.no_grad()
def generate(
    model: Model,
    prompts: Sequence[Ids],
    limits: Sequence[int],
    stop: frozenset[int],
    pad: int,
    batch_size: int = 64,
    ended: Callable[[Ids], bool] | None = None,
) -> list[list[int]]:
    """Greedy continuations of the prompts, in their order: at most limits[i] tokens, and none beyond the model's last
    position, cut before the first stop token. ended: whether nothing needs to follow these; asked after each token.

    Batches are sorted by length, padded on the left, and decoded with the key-value cache.
    """
    from transformers import GenerationConfig, StoppingCriteriaList

    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    last = positions(model)
    room = [sys.maxsize if last is None else last - len(prompt) for prompt in prompts]
    limits = [min(pair) for pair in zip(limits, room, strict=True)]
    texts: dict[int, list[int]] = {i: [] for i in range(len(prompts))}
    order = sorted((i for i in texts if limits[i] > 0), key=lambda i: (limits[i], len(prompts[i])))
    for chosen in _batches(order, limits, room, batch_size):
        width = max(len(prompts[i]) for i in chosen)
        ids = torch.tensor([[*[pad] * (width - len(prompts[i])), *prompts[i]] for i in chosen], device=device)
        attention = torch.arange(width, device=device) >= torch.tensor(
            [[width - len(prompts[i])] for i in chosen], device=device
        )
        # Named in full, because what is left out comes from the model's own file: instruction-tuned models ship
        # sampling and repetition penalties there, and a penalised decoding is no argmax.
        config = GenerationConfig(
            max_new_tokens=max(limits[i] for i in chosen),
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            use_cache=True,
            eos_token_id=sorted(stop) or None,
            pad_token_id=pad,
        )
        until = _Until(width, ended)
        output = model.generate(
            input_ids=ids,
            attention_mask=attention.long(),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([until] if ended is not None else []),
        )
        for n, (i, row) in enumerate(zip(chosen, output[:, width:].tolist(), strict=True)):
            texts[i] = _until(row[: until.lengths.get(n, limits[i])][: limits[i]], stop)
    model.train(was_training)
    return [texts[i] for i in range(len(prompts))]


def similar_extraction_strength(
    model: Model,
    examples: Sequence[Example],
    scores: Sequence[TokenScores],
    stop: frozenset[int],
    pad: int,
    batch_size: int = 64,
    threshold: float = SIMILAR,
) -> NDArray[np.float64]:
    """Extraction strength with a similar instead of an exact continuation, [N] in [0, 1] (arXiv 2406.09179).

    1 - k/L for the smallest prefix of k answer tokens from which the greedy continuation g (at most L - k tokens)
    has LCS(g, rest) > threshold * |g|. LCS is over tokens; an empty g is a mismatch; the floor is 0. At least the
    exact extraction strength. (The authors' script splits at blanks, and lets g run on to the end of the line.)

    scores: of the same examples, from `score`. Where token k is predicted, success at k + 1 implies success at k
    (both sequences gain one equal token in front), so only prefixes that follow a wrong token are tried: shortest
    first, all rows side by side. What follows the last wrong token is exact, and needs no generation.
    """
    strength = np.array([metrics.es(s) for s in scores])
    prefixes = [[0, *(np.flatnonzero(~s.match) + 1).tolist()] for s in scores]
    pending = list(range(len(examples)))
    for turn in range(max(map(len, prefixes), default=0)):
        pending = [i for i in pending if turn < len(prefixes[i]) - 1]
        starts = {i: examples[i].start + prefixes[i][turn] for i in pending}
        rests = {i: examples[i].ids[starts[i] : examples[i].stop] for i in pending}
        prompts = [examples[i].ids[: starts[i]] for i in pending]
        found = generate(model, prompts, [len(r) for r in rests.values()], stop, pad, batch_size)
        similar = {i for i, g in zip(pending, found, strict=True) if lcs(g, rests[i]) > threshold * len(g)}
        for i in similar:
            strength[i] = len(rests[i]) / len(scores[i].match)
        pending = [i for i in pending if i not in similar]
    return strength


def _batches(order: Sequence[int], limits: Sequence[int], room: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in this order, at most `size` at a time, and none with less room than another's limit: a batch goes on
    until its last text has ended."""
    batch: list[int] = []
    for i in order:
        if len(batch) == size or any(room[j] < limits[i] for j in batch):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def lcs(a: Ids, b: Ids) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        above, row = row, [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


class _Until:
    """Ends the lines of a batch that have ended. lengths: how many tokens each of them had then; pads follow."""

    def __init__(self, width: int, ended: Callable[[Ids], bool] | None) -> None:
        self.width, self.ended = width, ended
        self.lengths: dict[int, int] = {}

    def __call__(self, ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        assert self.ended is not None
        for i, row in enumerate(ids[:, self.width :].tolist()):
            if i not in self.lengths and self.ended(row):
                self.lengths[i] = len(row)
        return torch.tensor([i in self.lengths for i in range(len(ids))], device=ids.device)


def _until(ids: list[int], stop: frozenset[int]) -> list[int]:
    end = next((n for n, token in enumerate(ids) if token in stop), len(ids))
    return ids[:end]
