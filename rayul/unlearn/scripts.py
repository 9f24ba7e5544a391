"""Scripts that are written without blanks between words."""

from __future__ import annotations

import unicodedata

UNSPACED = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""How the Unicode names of their characters begin."""


def is_unspaced(character: str) -> bool:
    """Whether a character, or a mark on one, is of such a script."""
    return unicodedata.name(character, "").startswith(UNSPACED)


def is_mark(character: str) -> bool:
    """Whether a character belongs to the one before it, such as an accent or a vowel sign."""
    return unicodedata.category(character)[0] == "M"
