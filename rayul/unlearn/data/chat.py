"""Rows as conversations: lists of messages {role, content}, as Hugging Face's chat data sets have them."""

from __future__ import annotations

from typing import Any, NamedTuple

from rayul.errors import InputError


class Conversation(NamedTuple):
    """An assistant's last answer, the user's message that it answers, and what was said before, as (role, text)."""

    history: tuple[tuple[str, str], ...]
    question: str
    answer: str


def conversation(messages: Any, place: str, column: str) -> Conversation:
    """The conversation up to the assistant's last message; what follows that is no part of it.

    Raises InputError that names the place: no list of messages, no assistant's message, or none of the user's right
    before it.
    """
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{place}: {column!r} is no list of messages", 'write [{"role": "user", "content": ...}, ...]')
    turns = [_turn(message, place, column) for message in messages]
    roles = [role for role, _ in turns]
    if "assistant" not in roles:
        raise InputError(
            f"{place}: {column!r} has no message of the role assistant, whose last one is the answer",
            f"the roles are {', '.join(dict.fromkeys(roles))}: rename one, or remove the row",
        )
    last = len(roles) - 1 - roles[::-1].index("assistant")
    if roles[:last][-1:] != ["user"]:
        before = f"follows one of the role {roles[last - 1]}" if last else "is the first"
        raise InputError(
            f"{place}: {column!r}: the assistant's last message {before}, not one of the user",
            "the answer has to answer a message of the role user",
        )
    return Conversation(tuple(turns[: last - 1]), turns[last - 1][1], turns[last][1])


def _turn(message: Any, place: str, column: str) -> tuple[str, str]:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        found = ", ".join(map(str, message)) if isinstance(message, dict) else f"a {type(message).__name__}"
        raise InputError(
            f"{place}: {column!r} holds a message without role and content: {found}",
            "rename its keys to role (system, user or assistant) and content",
        )
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or not isinstance(content, str):
        what = "role" if not isinstance(role, str) else "content"
        raise InputError(
            f"{place}: {column!r}: the {what} of a message is a {type(message[what]).__name__}, not a text",
            "write the text itself; pictures, tool calls and lists of parts are not read",
        )
    return role, content
