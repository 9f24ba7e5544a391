"""Words for ROUGE in any script."""

from __future__ import annotations

import re
import unicodedata

from nltk.stem import porter
from rouge_score.tokenizers import Tokenizer

from rayul.unlearn.scripts import is_unspaced

STEMMED_ABOVE = 3
"""Characters of the shortest word that rouge_score does not stem."""


def mostly_latin(text: str) -> bool:
    """Whether rouge_score's own tokenizer, which knows a to z and digits, sees most of the words: two thirds of their
    letters. Of Vietnamese it sees fragments. (TOFU has English answers that quote a Ukrainian title, and names such as
    Márquez; published numbers are of its tokens.)"""
    found = words(text)
    seen = sum(3 * sum(c.isascii() and c.isalnum() for c in word) >= 2 * len(word) for word in found)
    return 2 * seen >= len(found)


class ScriptTokenizer(Tokenizer):  # type: ignore[misc]
    """Unicode words (letters, digits and their marks), single characters where a script puts no blanks between words,
    and, where asked for, words of plain Latin letters stemmed as rouge_score stems them.

    rouge_score's own tokenizer drops every letter but a to z: a perfect copy of a Russian answer scores 0 with it.
    """

    def __init__(self, stem: bool = True) -> None:
        self.stemmer = porter.PorterStemmer() if stem else None

    def tokenize(self, text: str) -> list[str]:
        return [self._stemmed(word) for word in words(unicodedata.normalize("NFKC", text).lower())]

    def _stemmed(self, word: str) -> str:
        plain = re.fullmatch("[a-z0-9]+", word) and len(word) > STEMMED_ABOVE
        return str(self.stemmer.stem(word)) if self.stemmer is not None and plain else word


def words(text: str) -> list[str]:
    """The words of a text, and its symbols where it has no word."""
    found: list[str] = []
    growing = alone = False
    """Whether the last word may take another letter; whether it is a character of an unspaced script."""
    for character in text:
        kind = unicodedata.category(character)[0]
        if kind == "M" and found and (growing or alone):  # a mark belongs to the letter before it
            found[-1] += character
        elif kind not in "LN":
            growing = alone = False
        elif is_unspaced(character):
            found.append(character)
            growing, alone = False, True
        elif growing:
            found[-1] += character
        else:
            found.append(character)
            growing, alone = True, False
    return found or [c for c in text if not c.isspace()]
