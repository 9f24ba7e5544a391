"""Text to tokens: one template for training and evaluation, and a mask that knows what the answer is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rayul.errors import InputError
from rayul.unlearn.data import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

DEFAULT_TEMPLATE = "Question: {question}\nAnswer: {answer}"
VERBATIM = "{question}{answer}"
CHAT = "chat"


class Example(NamedTuple):
    """One row as tokens. The answer is ids[start:stop]; ids[stop:] closes the turn (end token) and is no answer."""

    ids: tuple[int, ...]
    start: int
    stop: int


class Batch(NamedTuple):
    """Examples padded on the right: ids [B, T] int64, attention [B, T] int64, answer [B, T] bool.

    `answer[b, t]` marks ids[b, t] as a token of the answer, so it is predicted by the logits at t - 1.
    """

    ids: Tensor
    attention: Tensor
    answer: Tensor


def template_of(tokenizer: Tokenizer, template: str | None) -> str:
    """The template in force: the one asked for, or the tokenizer's chat template, or DEFAULT_TEMPLATE."""
    if template is not None:
        return template
    return CHAT if getattr(tokenizer, "chat_template", None) else DEFAULT_TEMPLATE


def prompt_text(tokenizer: Tokenizer, template: str | None, question: str) -> str:
    """Everything before the answer, as text (for generation it is encoded without further special tokens)."""
    template = template_of(tokenizer, template)
    if template == CHAT:
        if not getattr(tokenizer, "chat_template", None):
            raise InputError('model.template is "chat" but the tokenizer has no chat template', "give a text template")
        messages = [{"role": "user", "content": question}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return template.split("{answer}")[0].replace("{question}", question)


def encode(tokenizer: Tokenizer, template: str | None, question: str, answer: str) -> Example:
    """Tokens of one question and answer.

    Prompt and answer are encoded apart, so that the boundary is the same whatever the answer is; a blank that ends
    the prompt moves to the answer, where byte-pair tokenizers expect it. Raises InputError for an empty answer.
    """
    kind = template_of(tokenizer, template)
    prompt = prompt_text(tokenizer, template, question)
    tail = "" if kind == CHAT else kind.split("{answer}")[1]
    if prompt.endswith(" "):
        prompt, answer = prompt[:-1], " " + answer
    before = _ids(tokenizer, prompt)
    if kind != CHAT and tokenizer.bos_token_id is not None and before[:1] != [tokenizer.bos_token_id]:
        before = [tokenizer.bos_token_id, *before]
    middle = _ids(tokenizer, answer)
    if not middle:
        raise InputError("an answer has no tokens", "remove the row")
    after = _ids(tokenizer, tail) if tail else []
    if tokenizer.eos_token_id is not None:
        after.append(tokenizer.eos_token_id)
    return Example((*before, *middle, *after), len(before), len(before) + len(middle))


def encode_rows(tokenizer: Tokenizer, template: str | None, rows: Sequence[Row]) -> list[Example]:
    return [encode(tokenizer, template_for(row, template), row.question, row.answer) for row in rows]


def template_for(row: Row, template: str | None) -> str | None:
    """A verbatim passage has no template around its halves."""
    return VERBATIM if row.text else template


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def pad_id(tokenizer: Tokenizer) -> int:
    """The padding token; any token serves where the tokenizer has none, since padding is masked everywhere."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def collate(examples: Sequence[Example], pad: int, device: torch.device | str = "cpu") -> Batch:
    """Pad on the right to the longest example: B = len(examples), T = its length."""
    length = max(len(e.ids) for e in examples)
    ids = torch.tensor([[*e.ids, *[pad] * (length - len(e.ids))] for e in examples])
    at = torch.arange(length)
    attention = at < torch.tensor([[len(e.ids)] for e in examples])
    answer = (at >= torch.tensor([[e.start] for e in examples])) & (at < torch.tensor([[e.stop] for e in examples]))
    return Batch(ids.to(device), attention.long().to(device), answer.to(device))


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of `size` indices below `count`: every epoch is a fresh permutation, batches run across its end.

    `size` above `count` is cut to `count`, so that no batch holds a row twice within an epoch.
    """
    size = min(size, count)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(count, generator=generator).tolist()
        yield queue[:size]
        queue = queue[size:]
