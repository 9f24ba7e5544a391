"""Measures of generated answers: how much of the truth they hold, and whether the model has collapsed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rayul.spec import Rouge
from rayul.unlearn.measured import Groups, Measured
from rayul.unlearn.rouge_by_sentence import rouge_by_sentence

_TOFU = Rouge()
_SCORE = {"recall": "recall", "f1": "fmeasure"}


def rouge_l(answers: Sequence[str], generated: Sequence[str], rouge: Rouge = _TOFU) -> NDArray[np.float64]:
    """LCS(answer, generated) / |answer| over lower-case words, [N] in [0, 1] (Lin 2004), stemmed by default (TOFU's
    ROUGE-L recall); or the F1 of that and of LCS / |generated|.

    An answer whose letters are mostly not Latin is split into words as `ScriptTokenizer` does, any other as rouge_score
    does. With `words: blanks` it is `rouge_by_sentence`.
    """
    if rouge.words == "blanks":
        return np.array(
            [getattr(rouge_by_sentence(*pair), _SCORE[rouge.kind]) for pair in zip(answers, generated, strict=True)]
        )
    from rouge_score.rouge_scorer import RougeScorer  # NLTK, and with it a second of SciPy

    from rayul.unlearn.rouge_words import ScriptTokenizer, mostly_latin

    latin = RougeScorer(["rougeL"], use_stemmer=rouge.stem)
    other = RougeScorer(["rougeL"], tokenizer=ScriptTokenizer(rouge.stem))
    scores = [
        (latin if mostly_latin(answer) else other).score(answer, text)["rougeL"]
        for answer, text in zip(answers, generated, strict=True)
    ]
    return np.array([getattr(score, _SCORE[rouge.kind]) for score in scores])


def empty(generated: Sequence[str]) -> NDArray[np.float64]:
    """1.0 where the text has nothing but white space, [N]. Higher is worse."""
    return np.array([float(not text.strip()) for text in generated])


def repetition(generated: Sequence[Sequence[int]], n: int = 4) -> NDArray[np.float64]:
    """1 - distinct n-grams / n-grams within each answer's tokens, [N] in [0, 1] (seq-rep-n, Welleck et al. 2020).

    0 for an answer of fewer than n tokens. Higher is worse: near 1 the model is in a loop.
    """
    return np.array([1.0 - len(set(g)) / len(g) if (g := _ngrams(tokens, n)) else 0.0 for tokens in generated])


def distinct(generated: Sequence[Sequence[int]], groups: Groups | None = None, n: int = 2) -> Measured:
    """Distinct n-grams / n-grams over all answers together, in [0, 1] (Li et al. 2016); 0 when there is no n-gram.

    Lower is worse: it falls when one answer repeats itself and when all questions get the same answer. It shrinks with
    the number of rows, so compare equal sets only. Standard error by the jackknife over groups.
    """
    grams = [_ngrams(tokens, n) for tokens in generated]
    counts = Counter(gram for row in grams for gram in row)
    total = counts.total()
    of_group: dict[int, list[tuple[int, ...]]] = {}
    for i, row in enumerate(grams):
        of_group.setdefault(i if groups is None else int(groups[i]), []).extend(row)
    without = np.zeros(len(of_group))
    for k, own in enumerate(of_group.values()):
        lost = sum(counts[gram] == times for gram, times in Counter(own).items())
        without[k] = (len(counts) - lost) / max(1, total - len(own))
    stderr = float(np.sqrt((len(without) - 1) * without.var())) if len(without) > 1 else float("nan")
    return Measured(len(counts) / max(1, total), stderr, len(grams), len(without))


WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""Of the entropies of n-grams, by n."""


def fluency(generated: Sequence[str]) -> NDArray[np.float64]:
    """Entropy of each text's n-grams of words in bits, the mean of 2/3 that of 2-grams and 4/3 that of 3-grams, [N]
    (generation entropy of ROME, arXiv 2202.05262; fluency of RWKU). Lower is worse: a loop has few n-grams, and an
    empty text 0. It grows with a text's length, so compare equal limits only.

    Words are NLTK's. It looks for the ends of sentences in a file that has to be downloaded, and here a sentence ends
    with ".", "!" or "?" and a blank, so that also the point of "Dr. " is a word.
    """
    return np.array([_entropy_of_ngrams(_words(text)) for text in generated])


def _entropy_of_ngrams(words: Sequence[str]) -> float:
    entropies = []
    for n, weight in WEIGHTS.items():
        counts = np.array(list(Counter(_ngrams(words, n)).values()), dtype=np.float64)
        shares = counts / max(1.0, counts.sum())
        entropies.append(weight * float(-(shares * np.log2(shares)).sum()))
    return float(np.mean(entropies))


def _words(text: str) -> list[str]:
    from nltk.tokenize import NLTKWordTokenizer

    from rayul.unlearn.rouge_words import ScriptTokenizer, mostly_latin

    if not mostly_latin(text):
        return list(ScriptTokenizer().tokenize(text))
    split = NLTKWordTokenizer()
    return [word for sentence in re.split(r"(?<=[.!?])\s+", text) for word in split.tokenize(sentence)]


Item = TypeVar("Item")


def _ngrams(tokens: Sequence[Item], n: int) -> list[tuple[Item, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
