"""What is scored is what plain transformers make of the whole text of a row, for every kind of tokenizer."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from tokenizers import normalizers
from tokenizers_by_kind import KINDS, PEOPLE, TOWNS, Longest, byte_fallback, byte_level, ids_of, memorised, truth

from rayul.errors import InputError
from rayul.unlearn.attacks.noise import asked_span, noised
from rayul.unlearn.attacks.target import Target
from rayul.unlearn.data import Row
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.task import Task
from rayul.unlearn.tokens import encode, encode_rows, encode_sets

TEMPLATES = {
    "default": "Question: {question}\nAnswer: {answer}",
    "nothing before the answer": "[INST] {question} [/INST]{answer}",
    "a line before the answer": "### Question:\n{question}\n\n### Response:\n{answer}\n###",
    "a passage": "{question}{answer}",
}
QUESTIONS = [
    Row(f"Where was {person} born?", f"{person} was born in {town}, in 19{i}7.")
    for i, (person, town) in enumerate(zip(PEOPLE, TOWNS, strict=True))
]
PASSAGES = [
    Row(f"{person} was born in {town}.", f"\n{town} was Where in 19{i}7.", text=f"{person} {town}")
    for i, (person, town) in enumerate(zip(PEOPLE, TOWNS, strict=True))
]


def rows_of(name: str) -> list[Row]:
    return PASSAGES if name == "a passage" else QUESTIONS


def text_of(template: str, row: Row) -> tuple[str, int, int]:
    """(the whole text, where its answer begins, where it ends); a blank before the answer is counted with it."""
    before, after = template.replace("{question}", row.question).split("{answer}")
    begin = len(before) - before.endswith(" ")
    return before + row.answer + after, begin, len(before + row.answer)


def tokens_of(tokenizer: Any, text: str, begin: int, end: int) -> tuple[list[int], int, int]:
    """(ids, first, last + 1) as the tokenizer itself tells them."""
    if isinstance(tokenizer, Longest):
        pieces, ends = tokenizer.tokenize(text), [0]
        for piece in pieces:
            ends.append(ends[-1] + len(piece))
        first = max(i for i, at in enumerate(ends) if at <= begin)
        last = min(i for i, at in enumerate(ends) if at >= end)
        return ids_of(tokenizer, text), 1 + first, 1 + last  # after <s>
    encoded = tokenizer(text)
    first = next(token for at in range(begin, end) if (token := encoded.char_to_token(at)) is not None)
    last = next(token for at in range(end - 1, begin, -1) if (token := encoded.char_to_token(at)) is not None)
    return encoded["input_ids"], first, last + 1


@cache
def tokenizer_of(kind: str) -> Any:
    return KINDS[kind]()


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_are_those_of_the_whole_text(kind: str, template: str) -> None:
    tokenizer = tokenizer_of(kind)
    for row in rows_of(template):
        ids, start, stop = tokens_of(tokenizer, *text_of(TEMPLATES[template], row))
        (example,) = encode_rows(tokenizer, TEMPLATES[template], [row])
        assert list(example.ids[: len(ids)]) == ids
        assert set(example.ids[len(ids) :]) <= {tokenizer.eos_token_id}
        assert (example.start, example.stop) == (start, stop)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_knows_its_rows_by_heart_scores_one(kind: str) -> None:
    """One model for each kind, trained by transformers' loss on the rows in every template."""
    tokenizer = tokenizer_of(kind)
    texts = [text_of(text, row) for name, text in TEMPLATES.items() for row in rows_of(name)]
    model = memorised(tokenizer, [text for text, _, _ in texts], steps=120)
    for name, template in TEMPLATES.items():
        rows = tuple(rows_of(name))
        found = evaluate_model(model, tokenizer, {"forget": rows}, template=template, metrics=["es", "prob"]).measured
        right = [truth(model, *tokens_of(tokenizer, *text_of(template, row))) for row in rows]
        assert found["forget.es"].value == pytest.approx(sum(es for es, _ in right) / len(right), abs=1e-12)
        assert found["forget.prob"].value == pytest.approx(sum(p for _, p in right) / len(right), abs=1e-4)
        assert found["forget.es"].value == 1
        assert found["forget.prob"].value > 0.98


# --- the boundary ---------------------------------------------------------------------------------------------------


def words(tokenizer: Any, example: Any) -> tuple[list[str], list[str], list[str]]:
    ids = list(example.ids)
    parts = ids[: example.start], ids[example.start : example.stop], ids[example.stop :]
    return tuple(tokenizer.convert_ids_to_tokens(part) for part in parts)  # type: ignore[return-value]


def test_a_token_that_straddles_the_boundary_belongs_to_the_answer() -> None:
    tokenizer = Longest()
    before, answer, after = words(tokenizer, encode(tokenizer, "{question}\n{answer}", "A:", "[INST] Korb"))
    assert (before, answer, after) == (["<s>", "A", ":"], ["\n[", "I", "N", "S", "T", "]", " Korb"], ["</s>"])
    # and at its end: the template's blank and "was" are one token with nothing of the answer, ": " is one with it
    before, answer, after = words(tokenizer, encode(tokenizer, "{question} {answer} was", "A", "B:"))
    assert (before, answer, after[:-1]) == (["<s>", "A"], [" ", "B", ": "], ["w", "a", "s"])


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback", "Metaspace never"])
def test_one_blank_before_the_answer_belongs_to_it_also_as_a_token_of_its_own(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    for answer in ("1987", "Korb", "Xu"):
        example = encode(tokenizer, "Q {question}: {answer}", "A", answer)
        ids = ids_of(tokenizer, f"Q A: {answer}")
        assert list(example.ids[: example.stop]) == ids[: example.stop]
        assert tokenizer.decode(list(example.ids[example.start : example.stop])).strip() == answer
        assert not words(tokenizer, example)[0][-1].endswith((" ", "▁", "Ġ"))


@pytest.mark.parametrize("kind", ["byte-level", "byte-level, BOS not added", "byte fallback", "Metaspace first"])
def test_letters_of_several_tokens_are_all_the_answers(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    example = encode(tokenizer, "Question: {question}\nAnswer: {answer}", "Who?", "猫é")
    assert tokenizer.decode(list(example.ids[example.start : example.stop])).strip() == "猫é"
    assert len(example.ids[example.start : example.stop]) == 1 + 3 + 2


def test_offsets_that_find_nothing_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tokenizers had them for some models: (0, 0) for every token."""
    tokenizer = byte_level()
    right = encode(tokenizer, None, "Where?", "Tarn")
    call = type(tokenizer).__call__

    def broken(self: Any, text: str, **options: Any) -> Any:
        found = call(self, text, **options)
        if "offset_mapping" in found:
            found["offset_mapping"] = [(0, 0)] * len(found["input_ids"])
        return found

    monkeypatch.setattr(type(tokenizer), "__call__", broken)
    assert encode(tokenizer, None, "Where?", "Tarn") == right


def test_a_template_that_writes_its_own_bos_gets_no_second_one() -> None:
    tokenizer = byte_fallback()
    bos = tokenizer.bos_token_id
    ids = encode(tokenizer, "<s>[INST] {question} [/INST] {answer}", "Who?", "Ada").ids
    assert ids.count(bos) == 1
    assert ids[0] == bos
    assert encode(tokenizer, "[INST] {question} [/INST] {answer}</s>", "Who?", "Ada").ids.count(2) == 1


def test_an_answer_without_a_token_before_it_is_refused() -> None:
    tokenizer = byte_level()
    with pytest.raises(InputError, match="begins within the first token"):
        encode(tokenizer, "{question}{answer}", "A", "da")  # "Ada" is one token
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("x", "")
    for template in ("{question}:{answer}", "{question}: {answer}"):
        with pytest.raises(InputError, match="an answer has no tokens"):
            encode(tokenizer, template, "Who?", "xx")
        assert encode(tokenizer, template, "Who?", "xA").start


def test_an_error_names_the_set_and_the_row() -> None:
    rows = (Row("Who?", "Ada"), Row("Who?", "\u0301"))
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.StripAccents()
    with pytest.raises(InputError, match="retain row 2: an answer has no tokens") as refused:
        encode_sets(tokenizer, None, {"forget": rows[:1], "retain": rows})
    assert refused.value.hint == "remove the row"


# --- who else makes text of a row ------------------------------------------------------------------------------------


def test_refusals_and_openings_continue_a_passage_after_a_blank() -> None:
    from rayul.unlearn.attacks.jailbreak import OPENINGS, opened

    tokenizer = byte_level()
    sets = {"forget": tuple(PASSAGES), "retain": tuple(PASSAGES)}
    model = memorised(tokenizer, ["Ada"], steps=1)
    task = Task(model, tokenizer, sets, None, None, {})
    for row, example in zip(PASSAGES, task.examples["idk"], strict=True):
        text = tokenizer.decode(list(example.ids[:-1]))
        assert text.startswith(f"{row.question} ")
        assert text[len(row.question) + 1] != " "
    begun = opened(Target(model, tokenizer, sets), 0, OPENINGS[0])
    row = PASSAGES[0]
    assert tokenizer.decode(list(begun.ids[:-1])) == f"{row.question} {OPENINGS[0]}{row.answer}"
    assert tokenizer.decode(list(begun.ids[begun.start : begun.stop])) == row.answer


@pytest.mark.parametrize("kind", ["byte-level", "Unigram", "byte fallback", "no fast tokenizer"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_noise_changes_the_tokens_of_the_question_and_no_other(kind: str, template: str) -> None:
    tokenizer, rows = tokenizer_of(kind), tuple(rows_of(template))
    target = Target(None, tokenizer, {"forget": rows}, TEMPLATES[template])
    for row, before, after in zip(rows, target.examples, noised(target, 1.0, seed=3), strict=True):
        begin, end = asked_span(target, row)
        assert row.question in tokenizer.decode(list(before.ids[begin:end]))
        assert (before.ids[:begin], before.ids[end:]) == (after.ids[:begin], after.ids[end:])
        assert sum(a != b for a, b in zip(before.ids[begin:end], after.ids[begin:end], strict=True)) > (end - begin) / 2
