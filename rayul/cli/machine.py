"""`--json`: a command for a program. Standard output holds one JSON document and nothing else, also where it fails."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import typer

from rayul.cli.stopped import STOPPED
from rayul.errors import RayulError

FLAG = "--json"

_USAGE: Any = typer.BadParameter.__mro__[2]
"""The error for whatever a command line gets wrong; Typer exports only this one kind of it."""


def is_for_a_program(arguments: Sequence[str]) -> bool:
    return FLAG in (arguments[: arguments.index("--")] if "--" in arguments else arguments)


def run_for_a_program(command: Callable[[], Any]) -> int:
    """Run a command that returns its document (rayul/cli/documents.py), print that or an error's, and return the exit
    code. What else the command and its libraries print goes to standard error."""
    with _standard_output_kept() as output:
        document, code = _outcome(command)
        if document is not None:
            output.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
    return code


def _outcome(command: Callable[[], Any]) -> tuple[dict[str, Any] | None, int]:
    """The document, None for a command that has none (--help), and the exit code."""
    from rayul.cli.documents import ErrorDocument, Printed

    try:
        result = command()
    except RayulError as error:
        result = ErrorDocument.of(error)
    except KeyboardInterrupt:
        result = STOPPED
    except _USAGE as error:
        message = error.format_message()
        result = ErrorDocument(code="usage", message=message, hint="see rayul COMMAND --help", exit_code=2)
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        result = ErrorDocument(code="internal", message=message, hint="please report this bug", exit_code=1)
    if result == STOPPED:
        result = ErrorDocument(code="interrupted", message="stopped by Ctrl-C or SIGTERM", exit_code=STOPPED)
    if isinstance(result, ErrorDocument):
        return result.plain(), result.exit_code
    return (result.plain(), 0) if isinstance(result, Printed) else (None, int(result or 0))


@contextmanager
def _standard_output_kept() -> Iterator[TextIO]:
    """Standard output for the block's own use. All that others write to it meanwhile, also in C or in child processes,
    goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with open(os.dup(kept), "w", encoding="utf-8") as output, redirect_stdout(sys.stderr):
            yield output
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
