"""Measures of generated text, against rouge-score and counts done by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
from rouge_score import rouge_scorer

from rayul.unlearn import text_quality

ANSWERS = [
    "The author was born in Lima, Peru, on 3 May 1961.",
    "Her novels explore grieving families.",
    "Both parents worked as florists.",
    "He won the Amber Quill.",
]
GENERATED = [
    "the author was BORN in Lima",
    "Her novel explored grief and the family.",
    "",
    "He won the Amber Quill. He won the Amber Quill.",
]


def lcs(a, b):
    if not a or not b:
        return 0
    return 1 + lcs(a[1:], b[1:]) if a[0] == b[0] else max(lcs(a[1:], b), lcs(a, b[1:]))


def test_rouge_l_is_that_of_rouge_score_with_stemming():
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    expected = [scorer.score(a, g)["rougeL"].recall for a, g in zip(ANSWERS, GENERATED, strict=True)]
    np.testing.assert_array_equal(text_quality.rouge_l(ANSWERS, GENERATED), expected)


COPIES = {
    "Russian": "Автор родился в Лиме 3 мая 1961 года.",
    "Greek": "Ο συγγραφέας γεννήθηκε στη Λίμα.",
    "Hindi": "लेखक का जन्म लीमा में हुआ था।",
    "Arabic": "وُلِدَ الكاتب في ليما عام 1961.",
    "Chinese": "作者出生于利马,他写了三本小说。",
    "Japanese": "著者はリマで生まれました。",
    "Korean": "작가는 리마에서 태어났다.",
    "Thai": "ผู้เขียนเกิดที่ลิมา",
    "Vietnamese": "Tác giả sinh ra ở Lima.",
    "emoji": "🙂 🎉",
}


@pytest.mark.parametrize("language", COPIES)
def test_a_perfect_copy_scores_one_in_every_script_and_an_unrelated_text_zero(language):
    answer = COPIES[language]
    measured = text_quality.rouge_l([answer] * 3, [answer, "Qqq zzz.", ""])
    np.testing.assert_array_equal(measured, [1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("answer", "generated", "recall"),
    [
        ("Автор родился в Лиме", "автор Родился, но где?", 2 / 4),  # words, whatever their case
        ("作者生于利马", "作者死于利马", 5 / 6),  # a character each
        ("作者 John Explored 利马", "作者 explores 罗马", 4 / 6),  # with the English among them stemmed
        ("हिन्दी भाषा", "हिन्दी", 1 / 2),  # vowel signs are no ends of words
        ("ลิมา", "ลมา", 2 / 3),  # a Thai letter with its vowel sign is one character
        # Latin letters that rouge_score does not know: it reads "d" in the first, and c, y, sinh, n, ng in the second
        ("Żółć łódź", "ódź", 0.0),
        ("Żółć łódź", "łódź", 0.5),
        ("Cô ấy sinh ở Đà Nẵng", "C y sinh", 1 / 6),
    ],
)
def test_rouge_in_other_scripts_by_hand(answer, generated, recall):
    assert text_quality.rouge_l([answer], [generated])[0] == pytest.approx(recall)


def test_an_english_answer_that_quotes_another_script_scores_as_rouge_score_has_it():
    answer = 'The book titled "Лісова пісня" (Forest Song) by Idar Eriksen'
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    for generated in (answer, "the book by Idar Eriksen", "Лісова пісня"):
        expected = scorer.score(answer, generated)["rougeL"].recall
        assert text_quality.rouge_l([answer], [generated])[0] == expected


def test_rouge_l_by_hand():
    measured = text_quality.rouge_l(ANSWERS, GENERATED)
    # Stems: "novel", "explor" agree (three words over of three characters are stemmed); "famili" = "famili".
    stems = (["her", "novel", "explor", "griev", "famili"], ["her", "novel", "explor", "grief", "and", "the", "famili"])
    assert measured[0] == pytest.approx(6 / 11)
    assert measured[1] == pytest.approx(lcs(*stems) / len(stems[0]))
    assert measured[2] == 0.0
    assert measured[3] == 1.0


def test_empty_answers():
    np.testing.assert_array_equal(text_quality.empty(["", " \n", "a"]), [1.0, 1.0, 0.0])


def test_repetition_is_zero_without_a_loop_and_near_one_in_it():
    loop, plain, short = [7] * 50, list(range(50)), [1, 1, 1]
    measured = text_quality.repetition([loop, plain, short, [1, 2, 3, 4, 1, 2, 3, 4]])
    np.testing.assert_allclose(measured, [1 - 1 / 47, 0.0, 0.0, 1 - 4 / 5])


def test_distinct_sees_that_all_answers_are_the_same():
    answer = [1, 2, 3]
    assert text_quality.distinct([answer]).value == 1.0
    assert text_quality.distinct([answer] * 10).value == pytest.approx(2 / 20)
    assert text_quality.distinct([[], [5]]).value == 0.0


def test_distinct_error_is_the_jackknife():
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 6, rng.integers(1, 9)).tolist() for _ in range(25)]
    measured = text_quality.distinct(rows)
    without = [text_quality.distinct(rows[:i] + rows[i + 1 :]).value for i in range(25)]
    pairs = [pair for row in rows for pair in pairwise(row)]
    assert measured.value == pytest.approx(len(set(pairs)) / len(pairs))
    assert measured.stderr == pytest.approx(np.sqrt(24 / 25 * np.sum((without - np.mean(without)) ** 2)))


def test_fluency_of_a_hand_computed_case():
    """2-grams "a b" twice and "b a" once, 3-grams "a b a" and "b a b"."""
    twos = -(2 / 3) * math.log2(2 / 3) - (1 / 3) * math.log2(1 / 3)
    assert text_quality.fluency(["a b a b"])[0] == pytest.approx((2 / 3 * twos + 4 / 3 * 1) / 2, rel=1e-12)
    assert text_quality.fluency(["", "word", "no no no no no"]).tolist() == [0.0, 0.0, 0.0]


def test_fluency_is_the_generation_entropy_of_rome():
    """By NLTK's own words, n-grams and counts."""
    import nltk

    texts = ["It's the river, the lake and the river again", "Ada (born 1907) didn't write; she didn't write."]
    expected = []
    for text in texts:
        words = nltk.word_tokenize(text, preserve_line=True)
        entropies = []
        for n in (2, 3):
            counts = nltk.FreqDist(nltk.ngrams(words, n))
            entropies.append(-sum(counts.freq(gram) * math.log2(counts.freq(gram)) for gram in counts))
        expected.append(np.mean(np.array(entropies) * [2 / 3, 4 / 3]))
    np.testing.assert_allclose(text_quality.fluency(texts), expected, rtol=1e-12)
    apart, together = text_quality.fluency(["One lake. Two lakes.", "One lake . Two lakes ."])
    assert apart == pytest.approx(together)


def test_fluency_falls_on_a_loop_in_any_script():
    for sentence in ("The river rose at Lorn and nobody crossed it until May", "川は五月まで誰も渡らなかった"):
        varied, loop = text_quality.fluency([sentence, sentence[:8] * 4])
        assert varied > loop > 0
