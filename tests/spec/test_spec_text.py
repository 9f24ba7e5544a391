"""The settings by which rows become text: in a spec, and on a command line whose shell has taken the quotes away."""

from __future__ import annotations

from typing import Any

import pytest

from rayul.spec import SpecError, dump_yaml, parse_spec

MINIMAL = "name: x\nmodel: some/model\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"
DEFAULT = "Question: {question}\nAnswer: {answer}"


def model(*overrides: str, text: str = MINIMAL) -> Any:
    return parse_spec(text, overrides).model


@pytest.mark.parametrize(
    "value",
    [
        r"Question: {question}\nAnswer: {answer}",  # as "..." in a shell passes it
        DEFAULT,  # as $'...' does
        r'"Question: {question}\nAnswer: {answer}"',  # as YAML
    ],
)
def test_a_template_on_the_command_line_has_the_new_line_that_is_meant(value: str) -> None:
    assert model(f"model.template={value}").template == DEFAULT


def test_a_tab_is_meant_as_a_new_line_is() -> None:
    meant = "Q\t{question}\nA\t{answer}"
    assert model(r"model.template=Q\t{question}\nA\t{answer}").template == meant
    single = MINIMAL.replace("some/model", r"{path: some/model, template: 'Q\t{question}\nA\t{answer}'}")
    assert parse_spec(single).model.template == meant
    assert model(r"model.system=Be\tbrief.").system == "Be\tbrief."


def test_a_template_in_single_quotes_has_it_too_and_stays_as_it_is() -> None:
    text = MINIMAL.replace("some/model", r"{path: some/model, template: 'Question: {question}\nAnswer: {answer}'}")
    spec = parse_spec(text)
    assert spec.model.template == DEFAULT
    assert parse_spec(dump_yaml(spec.resolved())) == spec


@pytest.mark.parametrize(
    ("value", "read"),
    [("null", None), ("", None), ("chat", "chat"), ("{question} => {answer}", "{question} => {answer}")],
)
def test_a_template_without_quotes(value: str, read: str | None) -> None:
    assert model(f"model.template={value}").template == read


def test_a_system_message_is_text_and_needs_no_quotes() -> None:
    assert model(r"model.system=Be brief: one word.\nBe kind.").system == "Be brief: one word.\nBe kind."
    assert model("model.system=12").system == "12"
    assert model("model.system=").system is None


def test_other_values_keep_their_backslashes() -> None:
    assert model(r"model.revision='branch\new'").revision == r"branch\new"


def test_settings_of_a_chat_template_survive_being_written() -> None:
    settings = (
        "{path: some/model, system: Be brief., chat_template_args: {enable_thinking: false, date_string: 2026-07-31}}"
    )
    spec = parse_spec(MINIMAL.replace("some/model", settings))
    assert spec.model.chat_template_args == {"enable_thinking": False, "date_string": "2026-07-31"}
    assert parse_spec(dump_yaml(spec.resolved())) == spec
    assert spec.space == {}
    assert model("model.chat_template_args={enable_thinking: true}").chat_template_args == {"enable_thinking": True}
    assert model("model.date=2026-07-31").date == "2026-07-31"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.date=31.7.2026", 'model.date: "31.7.2026" is not a date'),
        ("model.chat_template_args={enable_thinking: {choice: [true, false]}}", "enable_thinking cannot be searched"),
        ("model={path: a, template: '{question}{answer}', system: Be brief.}", "model.system: is for chat templates"),
        (
            "model={path: a, template: '{question}{answer}', chat_template_args: {x: 1}}",
            "model.chat_template_args: is for chat templates",
        ),
        ("model.template={answer}", "a template has {question} and, after it, {answer}"),
    ],
)
def test_what_is_wrong_is_refused_with_its_key(override: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        model(override)
    assert said in str(caught.value)
    assert all(problem.hint for problem in caught.value.problems)
