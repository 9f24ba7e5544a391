"""Ctrl-C and SIGTERM in a command: an answer at once, one sentence about what is kept and how to go on, and exit code
130."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from typing import Any

import typer
from typer.core import TyperGroup

from rayul.console import show

GOES_ON = {
    "report": "the records are as they were; write the report with",
    "export": "nothing was exported; begin again with",
    "certify": "what was read and attacked is kept; go on with",
    "audit": "what was measured is kept; go on with",
    "repair": "what was set aside is kept; go on with",
    "testbed": "what was trained is kept; go on with",
    "sweep": "nothing was begun; begin with",
}
"""By command, what an interrupted one leaves. All others leave nothing: they write, if at all, at their end."""

STOPPED = 130
"""Exit code."""

AT_ONCE = 0.3
"""Seconds: a command that ends sooner has said enough with its last sentence."""


def listen() -> None:
    """Have Ctrl-C and SIGTERM raise KeyboardInterrupt, and say at once that the command stops: to end what it has
    begun, such as Ray, takes seconds. Whoever started the command with a signal ignored (`nohup`, `&`) wants it so."""
    signals = [one for one in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(one) is not signal.SIG_IGN]

    def stop(number: int, frame: object) -> None:
        said = threading.Timer(AT_ONCE, show, ["stopping ..."], {"error": True})
        said.daemon = True
        said.start()
        for one in signals:
            signal.signal(one, signal.default_int_handler)  # raises for any signal
        raise KeyboardInterrupt

    for one in signals:
        signal.signal(one, stop)


def sentence(command: str, arguments: list[str]) -> str:
    """What a person reads. arguments: of the command line, after the name of the program."""
    if command not in GOES_ON:
        return "stopped: nothing was written"
    if command == "certify":  # of a second reading: what was begun goes on without it
        arguments = [one for one in arguments if one != "--again"]
    return f"stopped: {GOES_ON[command]}: {shlex.join(['rayul', *arguments])}"


class Commands(TyperGroup):
    """The group of all commands."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            show(sentence(ctx.invoked_subcommand or "", sys.argv[1:]), error=True)
            raise typer.Exit(STOPPED) from None
