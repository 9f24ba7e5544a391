"""Whether rows still become the tokens on which a sweep's evaluations were measured."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING

from rayul.errors import InputError
from rayul.records.manifest import Manifest
from rayul.spec import Model
from rayul.testbed.resolve import dated
from rayul.unlearn.data import Row, Sets
from rayul.unlearn.template import AnyTemplate, Template, prompt, template_for
from rayul.unlearn.tokens import encode_sets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


def checked_tokens(tokenizer: Tokenizer, model: Model, sets: Sets, manifest: Manifest) -> dict[str, str]:
    """The SHA-256 of the tokens of each set, on the day that the manifest's sweep began.

    Raises InputError where that sweep was measured on other tokens: with another tokenizer or chat template, or by a
    version of rayul that encoded prompt and answer apart, where that makes a difference.
    """
    template = Template.of(dated(model, manifest.date))
    examples = encode_sets(tokenizer, template, sets)
    plain = {name: [e if e.options else e[:3] for e in found] for name, found in examples.items()}  # as earlier hashes
    tokens = {name: sha256(json.dumps(found).encode()).hexdigest() for name, found in plain.items()}
    if manifest.tokens:
        changed = [name for name, digest in tokens.items() if manifest.tokens.get(name) != digest]
        if changed:
            raise InputError(
                f"the rows of {', '.join(changed)} become other tokens than when this sweep began, so its "
                "numbers would not compare with new ones",
                "restore the tokenizer with its chat template, or begin a new sweep with --name",
            )
    elif manifest.data:
        differ = sum(
            (example.ids[: example.stop], example.start) != _encoded_apart(tokenizer, template, row)
            for name, rows in sets.items()
            for row, example in zip(rows, examples[name], strict=True)
        )
        if differ:
            raise InputError(
                "this sweep was measured by a version of rayul that encoded prompt and answer apart: "
                f"{differ} of {sum(map(len, sets.values()))} rows had other tokens than in training, so its numbers "
                "would not compare with new ones",
                "begin a new sweep with --name, or go on with the version that began this one",
            )
    return tokens


def _encoded_apart(tokenizer: Tokenizer, template: AnyTemplate, row: Row) -> tuple[tuple[int, ...], int]:
    """(ids up to the end of the answer, where the answer begins), as until 2026-11: a blank before the answer is the
    answer's, and a text template's prompt begins with a BOS wherever the tokenizer names one."""

    def encoded(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    before = prompt(tokenizer, template_for(row, template), row.question)
    blank = " " if before.whole.endswith(" ") else ""
    ids = encoded(before.whole.removesuffix(" "))
    bos = tokenizer.bos_token_id
    if before.special and bos is not None and ids[:1] != [bos]:
        ids.insert(0, bos)
    return (*ids, *encoded(blank + row.answer)), len(ids)
