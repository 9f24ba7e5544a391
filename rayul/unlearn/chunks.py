"""Documents as chunks of tokens, which language models are trained on: `chunk`, `stride` and `pack` of a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from rayul.errors import InputError
from rayul.spec import Spec, check_chunks
from rayul.unlearn.data import Chunk, Row, Sets, load_sets
from rayul.unlearn.model import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

LEAST = 2
"""Tokens of a chunk: one to be asked for, and one before it."""


def load_rows(spec: Spec) -> Sets:
    """The sets that a spec names, with the documents of its sources with `chunk` cut. Raises what `load_sets`,
    `chunks` and `check_chunks` raise."""
    check_chunks(spec.data, spec.model.positions)
    sets = load_sets(spec.data, spec.probes)
    if not any(row.window for rows in sets.values() for row in rows):
        return sets
    tokenizer = load_tokenizer(spec.model)
    return {name: tuple(one for row in rows for one in chunks(row, tokenizer)) for name, rows in sets.items()}


def chunks(row: Row, tokenizer: Tokenizer) -> Iterator[Row]:
    """A document as rows of at most `window` tokens, in its order; a row without a window as it is.

    The document is encoded once, without special tokens, and cut by tokens. Each chunk begins with a BOS where the
    tokenizer adds one, which counts. None has tokens of two documents, and none an end token behind it, so that the
    last one of a document may be shorter; one of a single token is left out. Chunks are of the document's group, or
    where it has none of one of their own. Raises InputError for a tokenizer that does not
    say where its tokens stand in the text.
    """
    if row.window is None:
        yield row
        return
    if not tokenizer.is_fast:
        raise InputError(
            "chunk needs a tokenizer that says where its tokens stand in a text",
            "use a fast tokenizer (tokenizer.json), or cut the texts yourself and leave chunk out",
        )
    encoded = tokenizer(row.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, bos = list(encoded["input_ids"]), tokenizer.bos_token_id
    opening = [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []
    # A token's text ends where the next one begins: some tokenizers leave blanks out of both.
    places = [0, *(begin for begin, _ in encoded["offset_mapping"][1:]), len(row.text)]
    size, stride, pack = row.window
    group = row.group or f"document {sha256(row.key.encode()).hexdigest()[:12]}"
    room = size - len(opening)
    for begin in range(0, len(ids), min(stride, room)):
        end = min(begin + room, len(ids))
        middle = _middle(row.text, places, begin, end)
        if middle is not None:
            first, cut, last = (places[i] for i in (begin, middle, end))
            yield replace(
                row,
                question=row.text[first:cut],
                answer=row.text[cut:last],
                text=row.text[first:last],
                group=group,
                window=None,
                chunk=Chunk((*opening, *ids[begin:end]), len(opening) + middle - begin, size if pack else 0),
            )
        if end == len(ids):
            return


def _middle(text: str, places: list[int], begin: int, end: int) -> int | None:
    """The token between begin and end that the second half begins with: the nearest to the middle that begins a word,
    or else the nearest. None where there are not two halves with characters."""
    between = [i for i in range(begin + LEAST - 1, end) if places[begin] < places[i] < places[end]]
    words = [i for i in between if text[places[i]].isspace() or text[places[i] - 1].isspace()]
    return min(words or between, key=lambda i: abs(2 * i - begin - end), default=None)
