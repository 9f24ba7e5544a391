"""What is said of a process that ends without a word of its own: killed, out of memory, or ended by Ray's own code,
which exits at once where it loses the GCS or the raylet, and runs no Python any more.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ENDED = (
    "error: this process was ended from outside: killed, out of memory, or by Ray, which lost its GCS or raylet. What "
    "was recorded is kept.\n  hint: go on with: "
)

_WAIT = 'read -r left || printf "%s\\n" "$1" >&2'


@contextmanager
def last_words(text: str) -> Iterator[None]:
    """Have `text` written to stderr if this process ends within the block without leaving it.

    A shell waits at the other end of a pipe, which the system closes whatever this process dies of. It is in a session
    of its own, so that no Ctrl-C of a terminal ends it first.
    """
    shell = subprocess.Popen(
        ["sh", "-c", _WAIT, "sh", text], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert shell.stdin is not None
    try:
        yield
    finally:
        with suppress(BrokenPipeError):  # somebody has ended the shell
            shell.stdin.write(b"left\n")
            shell.stdin.close()
        shell.wait()
