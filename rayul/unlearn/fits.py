"""Whether rows fit into a model: its positions, and its embedding of the tokenizer's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayul.errors import InputError
from rayul.unlearn.data import Row
from rayul.unlearn.template import AnyTemplate, template_for
from rayul.unlearn.tokens import Example, encode


def positions(model: Any) -> int | None:
    """Tokens that the model can read at once; None where its configuration names no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit is not None and limit > 0 else None


def check_fits(model: Any, examples: Mapping[str, Sequence[Example]]) -> None:
    """Raises InputError for rows (by set, counted from 1) that are longer than the model's positions, and for tokens
    that it has no embedding for."""
    limit, known = positions(model), int(model.get_input_embeddings().num_embeddings)
    for name, rows in examples.items():
        long = [(i, len(row.ids)) for i, row in enumerate(rows, 1) if limit is not None and len(row.ids) > limit]
        if long:
            place, tokens = long[0]
            raise InputError(
                f"{len(long)} of {len(rows)} {name} rows are too long for the model: row {place} has {tokens:,} "
                f"tokens, and the model has {limit:,} positions",
                "shorten or split these rows, or choose a model with more positions",
            )
        for i, row in enumerate(rows, 1):
            if max(row.ids) >= known:
                raise InputError(
                    f"{name} row {i} has token {max(row.ids)}, and the model embeds only {known} tokens: the tokenizer "
                    "is larger than the model",
                    "name the tokenizer's own model, or resize the embedding (model.resize_token_embeddings) and save",
                )


def reworded(tokenizer: Any, template: AnyTemplate, rows: Sequence[Row]) -> list[Example]:
    """What the final suite scores of the rows besides themselves: paraphrases and wrong answers."""
    pairs = [
        (row, question, answer)
        for row in rows
        for question, answer in (
            (row.paraphrased_question, row.answer),
            (row.question, row.paraphrased_answer),
            *((row.question, wrong) for wrong in row.perturbed_answer),
        )
        if question and answer
    ]
    return [encode(tokenizer, template_for(row, template), question, answer) for row, question, answer in pairs]
