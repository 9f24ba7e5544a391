"""The command line: parse, call, print. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import atexit
import codecs
import errno
import gc
import io
import os
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from rayul import __version__
from rayul.cli.app import app
from rayul.cli.machine import is_for_a_program, run_for_a_program
from rayul.cli.stopped import STOPPED, listen
from rayul.console import show
from rayul.errors import RayulError

# isort: off
# Each puts its commands into the application, in the order in which `--help` lists them.
from rayul.cli import specs, sweeps, finished, models  # noqa: F401
# isort: on

__all__ = ["app", "main"]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        show(f"rayul {__version__}")
        raise typer.Exit


_PLAIN = {"±": "+-", "–": "-", "→": "->", "≥": ">=", "≤": "<=", "×": "x"}


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    """What a terminal or a log file in ASCII cannot show, in letters that it can: no result is worth less for that."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in lost), error.end


def main() -> None:
    """Run a command. Exit code: 0 done, 2 bad input, 1 anything else, 130 on Ctrl-C and SIGTERM (docs/scripting.md)."""
    codecs.register_error("rayul", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rayul")
    listen()
    atexit.register(gc.freeze)  # or Python searches all of torch and Ray for cycles as it ends: a second of CPU
    try:
        if is_for_a_program(sys.argv[1:]):
            sys.exit(run_for_a_program(lambda: app(standalone_mode=False)))
        app()
    except RayulError as error:
        show(error, error=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries once more at its end
        print(f"cannot write the output: {error.strerror}; what the command made is kept", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # before a command began, or after its end
        show("stopped", error=True)
        _end_stopped()
    except SystemExit as end:
        if end.code == STOPPED:
            _end_stopped()
        raise


def _end_stopped() -> NoReturn:
    """End without taking Python apart: under threads of Ray that were just told to stop, one of ten interrupted plans
    crashed there, after its last sentence."""
    atexit._run_exitfuncs()  # trackers end their runs in these
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(STOPPED)
