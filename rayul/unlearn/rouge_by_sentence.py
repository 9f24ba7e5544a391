"""ROUGE-L as the package `rouge` computes it, which RWKU uses (arXiv 2406.10890).

Sentences end at full stops, and words are what stands between blanks, with capitals and other punctuation. A word
counts once however often it occurs: the overlap is the set of words in a longest common subsequence of any sentence of
the one text with any of the other, over the set of all words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

NO_ANSWER = "NOANSWER"
"""What RWKU scores in place of an empty answer."""


class WordOverlap(NamedTuple):
    """Both in [0, 1]."""

    recall: float
    fmeasure: float


def rouge_by_sentence(answer: str, text: str) -> WordOverlap:
    """Of a generated text against the true answer. 0 where one of them has no sentence."""
    true, generated = _sentences(answer), _sentences(text if text.strip() else NO_ANSWER)
    common = {word for one in true for other in generated for word in _common(one, other)}
    recall, precision = (len(common) / max(1, len({w for s in side for w in s})) for side in (true, generated))
    return WordOverlap(recall, 2 * recall * precision / (recall + precision + 1e-8))


def _sentences(text: str) -> list[list[str]]:
    # Blanks between two full stops are a sentence with one word, the empty one, as they are in the package.
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def _common(true: Sequence[str], generated: Sequence[str]) -> set[str]:
    """The words of a longest common subsequence: of several, the one that is found from the ends of both, leaving out
    a generated word first."""
    lengths = [[0] * (len(generated) + 1) for _ in range(len(true) + 1)]
    for i, one in enumerate(true, 1):
        for j, other in enumerate(generated, 1):
            longer = max(lengths[i - 1][j], lengths[i][j - 1])
            lengths[i][j] = lengths[i - 1][j - 1] + 1 if one == other else longer
    found, i, j = set(), len(true), len(generated)
    while i and j:
        if true[i - 1] == generated[j - 1]:
            found.add(true[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
