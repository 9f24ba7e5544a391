"""Whether a generated answer is a right one, as SQuAD's evaluation compares them (Rajpurkar et al. 2016, arXiv
1606.05250), and after it TriviaQA's and RWKU's: words in lower case, without punctuation and articles."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(right: Sequence[str], text: str) -> float:
    """1 where the words of the text are those of one of the right answers, else 0."""
    return float(any(_words(text) == _words(one) for one in right))


def token_f1(right: Sequence[str], text: str) -> float:
    """F1 of the words that the text shares with a right answer, each as often as both have it; of several right
    answers the best. In [0, 1]; where one of the two has no words, 1 if both have none."""
    return max(_f1(_words(one), _words(text)) for one in right)


def extracted(text: str, pattern: str | None) -> str:
    """The first group of the first match, or the match of a pattern without a group; the text where there is none."""
    found = None if pattern is None else re.search(pattern, text)
    return text if found is None else str(found[1] if found.re.groups else found[0]).strip()


def _f1(right: Sequence[str], text: Sequence[str]) -> float:
    if not right or not text:
        return float(right == text)
    common = (Counter(right) & Counter(text)).total()
    return 2 * common / (len(right) + len(text))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()
