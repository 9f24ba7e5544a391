"""The generated rows: sizes, columns, splits, and answers that end with the fact."""

from collections import Counter

import pytest

from rayul.testbed.authors import FACTS, WORLD, generate

RETAIN = ("retain_train", "retain", "retain_certify", "retain_report")


@pytest.fixture(scope="module")
def rows():
    return generate(seed=0)


def test_sets_are_as_large_as_they_have_to_be(rows):
    assert set(rows) == {"forget", *RETAIN, "general", "holdout"}
    assert len(rows["retain"]) >= 100
    assert len(rows["retain_report"]) >= 100
    assert len(rows["retain_certify"]) >= 100
    for key in ("retain", "retain_certify", "retain_report"):
        sizes = Counter(row.group for row in rows[key]).values()
        assert len(sizes) >= 20
        assert set(sizes) == {5}
    assert len(rows["general"]) >= 60
    assert len(rows["holdout"]) >= 40
    assert len(rows["forget"]) >= 40


def test_sets_are_split_by_group(rows):
    authors = {key: {row.group for row in rows[key]} for key in ("forget", *RETAIN, "holdout")}
    assert all("" not in names for names in authors.values())
    assert len(set.union(*authors.values())) == sum(map(len, authors.values()))


def test_no_question_is_asked_twice(rows):
    asked = [q for part in rows.values() for row in part for q in (row.question, row.paraphrased_question)]
    assert len(set(asked)) == len(asked)


def test_every_row_has_all_columns(rows):
    for key, part in rows.items():
        for row in part:
            assert row.question
            assert row.answer
            assert row.paraphrased_question != row.question
            assert row.paraphrased_answer != row.answer
            assert 3 <= len(set(row.perturbed_answer)) <= 5
            assert row.paraphrased_answer not in row.perturbed_answer
            assert (row.group == "") == (key == "general")


def test_answers_end_with_the_fact_and_wrong_answers_with_another(rows):
    for part in rows.values():
        for row in part:
            fact = row.answer.split()[-1]
            assert row.paraphrased_answer.split()[-1] == fact
            assert all(wrong.split()[-1] != fact for wrong in row.perturbed_answer)


def test_the_end_of_an_answer_cannot_be_guessed(rows):
    """Answers to one question, over all authors, end in many words, and none of them is frequent."""
    for facts, part in ((FACTS, [r for key in rows if key != "general" for r in rows[key]]), (WORLD, rows["general"])):
        for fact in facts:
            asked = [row for row in part if row.question.startswith(fact.question.split("{s}")[0])]
            ends = [row.answer.split()[-1] for row in asked]
            assert len(ends) >= 10
            assert max(map(ends.count, ends)) <= len(ends) / 4 + 1


def test_a_seed_gives_the_same_rows_and_another_seed_others(rows):
    assert generate(seed=0) == rows
    assert generate(seed=1) != rows
