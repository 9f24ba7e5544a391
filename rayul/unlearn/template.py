"""How a question and its answer become one text: by a template, by the tokenizer's chat template, or as they are."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from rayul import spec as specs
from rayul.errors import InputError
from rayul.unlearn.data import CHAT, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

DEFAULT_TEMPLATE = "Question: {question}\nAnswer: {answer}"
VERBATIM = "{question}{answer}"
CHOICE = "{question} {answer}"

TEMPLATE_SECONDS = 10.0
"""That a chat template may take for a row: it is a program, and may be one without an end."""

_MARK = "\ue000\uf8ff"
"""Stands for a text while its place in a rendered chat is found: private characters, which no template writes."""

_DATE = re.compile(r"""strftime_now\s*\(\s*(["'])((?:(?!\1).)*)\1\s*\)""")


@dataclass(frozen=True)
class Template:
    """What the section `model` of a spec says about text.

    text: with {question} and {answer}; CHAT; None for the tokenizer's chat template where it has one, and
    DEFAULT_TEMPLATE where not. before: stands before every text, in a chat before the question. asked: stands in
    the place of the question. opening: given first words of every answer. Of a chat template alone: the system
    message, further arguments, the day ("2026-07-31") that it is told if it asks for the date (None for the day on
    which it is rendered), and what was said before the question, as (role, text); a system message among it takes
    the place of `system`.
    """

    text: str | None = None
    system: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    day: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    before: str = ""
    asked: str = "{question}"
    opening: str = ""

    @classmethod
    def of(cls, model: specs.Model) -> Template:
        return cls(model.template, model.system, model.chat_template_args, model.date)


AnyTemplate = Template | str | None
"""A template, or its text alone."""


class Rendered(NamedTuple):
    """The answer is whole[begin:end], the question whole[asked:begin] and what the template writes between them.

    special: whether the tokenizer adds its special tokens (a chat template writes them itself).
    """

    whole: str
    begin: int
    end: int
    special: bool


def template_for(row: Row, template: AnyTemplate) -> AnyTemplate:
    """The template of this row: a verbatim passage has none around its halves, and that of multiple choice, which ends
    with "Answer:", none but its probe's; a conversation brings its earlier turns, and a probe its wording."""
    if row.text:
        return VERBATIM
    own = _template(template)
    if row.choices and (row.wording is None or row.wording.text is None):
        own = Template(CHOICE)
    if row.wording is not None:
        text, before, asked, opening = row.wording
        own = replace(own, text=text or own.text, before=before, asked=asked, opening=opening)
    return replace(own, history=row.history)


def rendered(tokenizer: Tokenizer, template: AnyTemplate, question: str, answer: str) -> Rendered:
    """The whole text of a row. Raises InputError for a chat template that is missing, or that does not render it."""
    template = _template(template)
    text = _text(tokenizer, template)
    question, opening = template.asked.replace("{question}", question), template.opening
    if text == CHAT:
        asked, given = template.before + question, opening + answer
        whole, begin, end = _place(lambda answer: _chat(tokenizer, template, asked, answer), given)
        return Rendered(whole, begin + len(opening), end, special=False)
    before, _, after = text.partition("{answer}")
    before = template.before + before.replace("{question}", question) + opening
    return Rendered(before + answer + after, len(before), len(before + answer), special=True)


def prompt(tokenizer: Tokenizer, template: AnyTemplate, question: str) -> Rendered:
    """The text before an answer that is still to be written; of a chat template its prompt for one."""
    template = _template(template)
    text = _text(tokenizer, template)
    if text == CHAT:
        whole = _chat(tokenizer, template, template.before + question, None)
    else:
        whole = template.before + text.partition("{answer}")[0].replace("{question}", question)
    return Rendered(whole, len(whole), len(whole), special=text != CHAT)


def question_place(tokenizer: Tokenizer, template: AnyTemplate, question: str, answer: str) -> tuple[int, int]:
    """Where the question stands in the whole text, as (begin, end)."""
    template = _template(template)
    text = _text(tokenizer, template)
    if text == CHAT:
        asked = template.before + question
        _, begin, end = _place(lambda asked: _chat(tokenizer, template, asked, answer), asked)
        return end - len(question.strip()), end
    begin = len(template.before) + text.index("{question}")
    return begin, begin + len(question)


def text_after_answer(tokenizer: Tokenizer, template: AnyTemplate) -> str:
    """What a text template writes behind an answer; "" for a chat template, which closes a turn with an end token."""
    text = _text(tokenizer, _template(template))
    return "" if text == CHAT else text.partition("{answer}")[2]


def text_notices(tokenizer: Tokenizer, template: AnyTemplate) -> Iterator[str]:
    """What to know about the texts of a chat template: that its prompt for an answer is not what it writes before one
    (rows are read as the latter has it: it is what a model is trained on), and that it tells the date.

    Raises InputError for a system message that it leaves out.
    """
    template = _template(template)
    if _text(tokenizer, template) != CHAT:
        return
    asked, turn = prompt(tokenizer, template, "Who?").whole, rendered(tokenizer, template, "Who?", "Ada")
    without = rendered(tokenizer, replace(template, system=None), "Who?", "Ada")
    if template.system and template.system not in turn.whole and turn == without:
        raise InputError(
            "model.system: the chat template leaves the system message out of a turn with an answer",
            "leave it out, or write it into a text as model.template",
        )
    before = turn.whole[: turn.begin].removesuffix(" ")  # which belongs to the answer
    same = shared_start(asked, before)
    if asked.removesuffix(" ") != before:
        yield (
            f"the chat template ends its prompt with {asked[same:]!r}, but writes {before[same:]!r} there in a turn "
            "with an answer: rows are trained on and scored with the latter (see model.chat_template_args)"
        )
    if template.day and asked != prompt(tokenizer, replace(template, day="2000-01-01"), "Who?").whole:
        yield f"the chat template is told the date {template.day} (model.date)"


def shared_start(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many of their first items two sequences share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _template(template: AnyTemplate) -> Template:
    return template if isinstance(template, Template) else Template(template)


def _text(tokenizer: Tokenizer, template: Template) -> str:
    """CHAT, or the text with {question} and {answer} that is in force."""
    can_chat = bool(getattr(tokenizer, "chat_template", None))
    if template.text == CHAT and not can_chat:
        raise InputError('model.template is "chat" but the tokenizer has no chat template', "give a text template")
    if template.history and not (can_chat and template.text in (None, CHAT)):
        raise InputError(
            "a conversation of several turns needs a chat template, and "
            + ("model.template is a text" if can_chat else "the tokenizer has none"),
            "remove model.template" if can_chat else "name a model that has one, or give rows of one question each",
        )
    if template.text is not None or can_chat:
        return template.text or CHAT
    if template.system is not None or template.arguments:
        raise InputError(
            "model.system and model.chat_template_args are for chat templates, and the tokenizer has none",
            "write them into model.template",
        )
    return DEFAULT_TEMPLATE


def _place(render: Callable[[str], str], text: str) -> tuple[str, int, int]:
    """(whole, begin, end): what a chat template makes of a text, and where the text stands in it, perhaps with other
    blanks. Raises InputError where it stands there changed, cut, or twice: after its first copy a model need not know
    it."""
    whole, frame = render(text), render(_MARK)
    before, found, after = frame.partition(_MARK)
    begin, end = len(before), len(whole) - len(after)
    way_out = "give a text as model.template, or another tokenizer"
    if _MARK in after:
        raise InputError("the chat template writes a message twice", way_out)
    if found and begin <= end and whole.startswith(before) and whole.endswith(after):
        if whole[begin:end].split() != text.split():
            raise InputError("the chat template does not write a message as it is", way_out)
        return whole, begin, end
    begin = whole.rfind(text.strip())  # a template that looks into the text, as those do that cut out a thought
    if begin < 0:
        raise InputError("the chat template does not write a message as it is", way_out)
    return whole, begin, begin + len(text.strip())


def _chat(tokenizer: Tokenizer, template: Template, question: str, answer: str | None) -> str:
    """One turn by the chat template; without an answer the prompt for one."""
    messages = [{"role": role, "content": text} for role, text in (*template.history, ("user", question))]
    if template.system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": template.system})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    source = _source(tokenizer, template)
    for name in template.arguments:
        if name != "tools" and not re.search(rf"\b{re.escape(name)}\b", source):
            raise InputError(
                f"model.chat_template_args.{name}: the chat template reads nothing of that name",
                "correct the name, or leave it out",
            )
    dated = _dated(source, template.day)
    try:
        with _within(TEMPLATE_SECONDS):
            return str(
                tokenizer.apply_chat_template(
                    messages,
                    chat_template=dated,
                    tokenize=False,
                    add_generation_prompt=answer is None,
                    **template.arguments,
                )
            )
    except Exception as error:  # it is a program of somebody's: it may divide by zero, recurse, index beyond an end
        why = " ".join(str(error).split()) or type(error).__name__
        hint = "check model.system and model.chat_template_args, or give a text as model.template"
        raise InputError(f"the chat template cannot be rendered: {why}", hint) from error


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in a block that takes longer. Only in the main thread, which alone gets signals; every
    command renders its first row there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} s for one row")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _source(tokenizer: Tokenizer, template: Template) -> str:
    return str(tokenizer.get_chat_template(tools=template.arguments.get("tools")))


def _dated(source: str, day: str | None) -> str:
    """A chat template that is told this day wherever it asks for the date of today (`strftime_now`)."""
    if day is None:
        return source
    moment = date.fromisoformat(day)
    fixed = _DATE.sub(lambda call: json.dumps(moment.strftime(call[2])), source)
    if re.search(r"strftime_now\s*\(", fixed):
        raise InputError(
            "the chat template computes the format of the date that it asks for, so the date cannot be fixed",
            "write the format into the template (strftime_now with a text in quotes)",
        )
    return fixed
