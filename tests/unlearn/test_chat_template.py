"""Chat templates: rows are what `apply_chat_template` makes of an answered turn, on the same day for a whole sweep."""

from __future__ import annotations

import datetime as dates
from typing import Any

import pytest
from chat_templates import CHATML, DATED, INST, THINKING, chat
from tokenizers_by_kind import PEOPLE, TOWNS, byte_fallback, byte_level, memorised, truth
from transformers.utils import chat_template_utils

from rayul.errors import InputError
from rayul.spec.spec import from_plain
from rayul.testbed import with_testbed
from rayul.unlearn.data import Row
from rayul.unlearn.probe import Generation, Probe
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.template import Template, text_notices
from rayul.unlearn.tokens import encode

ROWS = tuple(
    Row(f"Where was {person} born?", f"{person} was born in {town}.")
    for person, town in zip(PEOPLE, TOWNS, strict=True)
)


def answered(tokenizer: Any, row: Row, system: str | None = None, **arguments: Any) -> tuple[list[int], int, int]:
    """(ids, first, last + 1 of the answer) of a turn by transformers alone."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages += [{"role": "user", "content": row.question}, {"role": "assistant", "content": row.answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, **arguments)
    assert encoded["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    begin = text.rindex(row.answer)
    end = begin + len(row.answer)
    begin -= text[begin - 1] == " "
    return encoded["input_ids"], encoded.char_to_token(begin), encoded.char_to_token(end - 1) + 1


@pytest.mark.parametrize(
    ("source", "make", "system", "arguments"),
    [
        (CHATML, byte_level, None, {}),
        (CHATML, byte_fallback, "Be brief.", {}),
        (THINKING, byte_level, None, {}),
        (THINKING, byte_fallback, "Be brief.", {"enable_thinking": False}),
        (DATED, byte_level, None, {"date_string": "26 Jul 2024"}),
        (DATED, byte_fallback, "Be brief.", {}),
        (INST, byte_fallback, None, {}),
        (INST, byte_level, None, {}),
    ],
)
def test_rows_are_turns_as_transformers_renders_them(
    source: str, make: Any, system: str | None, arguments: dict[str, Any]
) -> None:
    tokenizer = chat(source, make)
    for row in ROWS:
        ids, first, last = answered(tokenizer, row, system, **arguments)
        example = encode(tokenizer, Template("chat", system, arguments), row.question, row.answer)
        assert list(example.ids[: len(ids)]) == ids
        assert (example.start, example.stop) == (first, last)


@pytest.mark.parametrize(("source", "make"), [(THINKING, byte_level), (INST, byte_fallback), (CHATML, byte_fallback)])
def test_a_model_trained_on_turns_scores_one_and_its_answers_end_with_the_turn(source: str, make: Any) -> None:
    tokenizer = chat(source, make)
    turns = [answered(tokenizer, row) for row in ROWS]
    texts = [tokenizer.decode(ids) for ids, _, _ in turns]
    if make is byte_fallback:  # its decoder drops a blank: train on what the template renders
        roles = ("user", "assistant")
        pairs = [zip(roles, (row.question, row.answer), strict=True) for row in ROWS]
        chats = [[{"role": role, "content": text} for role, text in pair] for pair in pairs]
        texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in chats]
    model = memorised(tokenizer, texts, steps=120, add_special_tokens=False)
    found = evaluate_model(model, tokenizer, {"forget": ROWS}, metrics=["es", "prob"]).measured
    right = [truth(model, *turn) for turn in turns]
    assert found["forget.es"].value == 1 == sum(es for es, _ in right) / len(right)
    assert found["forget.prob"].value == pytest.approx(sum(p for _, p in right) / len(right), abs=1e-4)
    assert Probe(model, tokenizer, ROWS, asked=Generation(60)).texts == [row.answer for row in ROWS]


def test_what_a_template_writes_only_before_an_answer_is_told() -> None:
    (line,) = text_notices(chat(THINKING), None)
    assert "ends its prompt with '', but writes '<think>\\n\\n</think>\\n\\n' there" in line
    assert list(text_notices(chat(THINKING), Template(arguments={"enable_thinking": False}))) == []
    (line,) = text_notices(chat(CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")), None)
    assert "ends its prompt with '<think>\\n', but writes '' there" in line
    assert list(text_notices(chat(CHATML), None)) == []
    assert list(text_notices(chat(INST), None)) == [], "a blank alone is the answer's"
    assert list(text_notices(byte_level(), None)) == []


def test_a_system_message_that_the_template_leaves_out_is_refused() -> None:
    """As Mistral's v3 does: it goes before the last message of a user, if that is the last of all."""
    tokenizer = chat(
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'user' and loop.last %}{{ messages[0].content }}\n\n{% endif %}{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(InputError, match=r"model\.system: the chat template leaves the system message out"):
        list(text_notices(tokenizer, Template(system="Be brief.")))
    assert list(text_notices(chat(CHATML), Template(system="Be brief."))) == []
    fixed = chat("Be brief. " + CHATML.replace("in messages", "in messages if m.role != 'system'"))
    assert not list(text_notices(fixed, Template(system="Be brief."))), "written anyway"


# --- the date --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(dates.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz) + dates.timedelta(days=1)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def tiny(date: str | None = None) -> Any:
    model = {"path": "some/model", "date": date} if date else "some/model"
    plain = {"name": "x", "model": model, "data": "testbed", "method": "ga", "training": {"lr": 1e-3}}
    return from_plain(plain | {"data": {"forget": "f.jsonl", "retain": "r.jsonl"}, "oracle": "some/oracle"})


def test_a_sweep_tells_the_day_that_it_began_on_whatever_day_it_is(tomorrow: None) -> None:
    tokenizer = chat(DATED)
    spec = with_testbed(tiny(), began=dates.datetime(2024, 7, 26, 23, 59, tzinfo=dates.UTC))
    example = encode(tokenizer, Template.of(spec.model), "Who?", "Ada Korb")
    right, _, _ = answered(tokenizer, Row("Who?", "Ada Korb"), date_string="26 Jul 2024")
    assert list(example.ids[: len(right)]) == right
    assert list(text_notices(tokenizer, Template.of(spec.model))) == [
        "the chat template is told the date 2024-07-26 (model.date)"
    ]
    assert spec.oracle is not None
    assert spec.oracle.date == "2024-07-26"
    assert with_testbed(tiny("2020-02-29"), began=dates.datetime.now(dates.UTC)).model.date == "2020-02-29"
    today = dates.datetime.now(dates.UTC).date().isoformat()
    assert with_testbed(tiny()).model.date in (today, dates.datetime.now(dates.UTC).date().isoformat())


def test_a_date_of_ones_own_stays_and_is_not_announced(tomorrow: None) -> None:
    given = Template(arguments={"date_string": "1 Jan 2020"}, day="2024-07-26")
    tokenizer = chat(DATED)
    assert "Today: 1 Jan 2020" in tokenizer.decode(list(encode(tokenizer, given, "Who?", "Ada").ids))
    assert list(text_notices(tokenizer, given)) == []


def test_a_date_that_cannot_be_fixed_is_refused() -> None:
    tokenizer = chat(DATED.replace("'%d %b %Y'", "'%d ' ~ '%b'"))
    with pytest.raises(InputError, match="computes the format of the date"):
        encode(tokenizer, Template(day="2024-07-26"), "Who?", "Ada")


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "template", "said"),
    [
        (CHATML, Template(arguments={"enable_thinkin": False}), "chat_template_args.enable_thinkin: .* reads nothing"),
        (INST, Template(system="Be brief."), "cannot be rendered: Only user and assistant roles are supported!"),
        (CHATML, Template(arguments={"add_generation_prompt": False}), "cannot be rendered: .*add_generation_prompt"),
        ("{{ messages[0].content }}", None, "does not write a message as it is"),
        (None, Template(system="Be brief."), "the tokenizer has none"),
        (None, "chat", "the tokenizer has no chat template"),
    ],
)
def test_what_a_chat_template_cannot_do_is_refused(source: Any, template: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        encode(chat(source), template, "Who?", "Ada")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("m.content | upper", "does not write a message as it is"),
        ("m.content[:10]", "does not write a message as it is"),
        ("m.content | e", "does not write a message as it is"),
        ("m.content ~ '. Once more: ' ~ m.content", "writes a message twice"),
    ],
)
def test_an_answer_that_the_template_changes_or_repeats_is_refused(written: str, said: str) -> None:
    """Otherwise its loss is of another text, or of one that stands before it."""
    tokenizer = byte_level()
    tokenizer.chat_template = f"{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ {written} }}}}{{% endfor %}}"
    with pytest.raises(InputError, match=said):
        encode(tokenizer, None, "Who?", "Ada Korb & Bela Quint")


def test_an_answer_that_the_template_trims_or_looks_into_is_found() -> None:
    tokenizer = chat(THINKING)
    for answer in ("  Ada Korb ", "\nAda Korb", "Ada Korb"):
        example = encode(tokenizer, None, "Who?", answer)
        assert tokenizer.decode(list(example.ids[example.start : example.stop])).strip() == "Ada Korb"


# --- whose text: the oracle's is the model's -------------------------------------------------------------------------


def test_the_oracle_reads_rows_as_the_model_does() -> None:
    plain = tiny().resolved()
    plain["model"] |= {"template": "Q {question} A {answer}", "date": "2024-07-26"}
    oracle = with_testbed(from_plain(plain)).oracle
    assert oracle is not None
    assert (oracle.path, oracle.template, oracle.date) == ("some/oracle", "Q {question} A {answer}", "2024-07-26")
    plain["model"] |= {"template": "chat", "system": "Be brief."}
    plain["oracle"] |= {"template": "{question} {answer}"}
    ready = with_testbed(from_plain(plain))
    assert ready.oracle is not None
    assert ready.oracle.text == {
        "template": "{question} {answer}",
        "system": None,
        "chat_template_args": {},
        "date": "2024-07-26",
    }
    assert from_plain(ready.resolved()) == ready
