"""The `on_end` section: who is told that a sweep has ended, and how it did."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from rayul.spec.problems import refuse, show
from rayul.spec.section import Section
from rayul.spec.tracking import refuse_secret

_VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")
_HTTP = re.compile(r"https?://[^\s/@]+(/\S*)?")


def is_web_address(text: str) -> bool:
    return _HTTP.fullmatch(text) is not None


def _check_webhook(text: str) -> str:
    if _VARIABLE.fullmatch(text):
        return text
    refuse_secret(text, "set an environment variable and name it, webhook: $MY_WEBHOOK")
    if not is_web_address(text):
        raise refuse(f"{show(text)} is no web address", "write https://..., or $NAME for an environment variable")
    return text


class OnEnd(Section):
    """What is told is how the sweep ended and its numbers, as JSON, and nothing of the rows. It is told when the sweep
    is finished, has failed or was interrupted."""

    webhook: Annotated[str, AfterValidator(_check_webhook)] | None = None
    """An address that the JSON is sent to by POST, or $NAME of the environment variable that has it: the addresses of
    chat services are secrets, and the spec is kept with the results."""
    command: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = None
    """A program and its arguments, which runs without a shell and gets the JSON as standard input."""
    timeout: float = Field(default=10.0, gt=0, le=600)
    """Seconds that each of the two may take."""

    @model_validator(mode="after")
    def _tells_somebody(self) -> OnEnd:
        if self.webhook is None and self.command is None:
            raise refuse("tells nobody", "give webhook or command, or leave on_end out")
        return self

    @property
    def variable(self) -> str | None:
        """The environment variable that has the address; None where the spec has it, or there is none."""
        found = _VARIABLE.fullmatch(self.webhook or "")
        return found[1] if found else None
