"""What a process says that ends without a word of its own, and what one says that does not: nothing."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from rayul.sweep.last_words import last_words

TEXT = "error: 100 % gone\n  hint: go on with: rayul sweep 'a b.yaml' \\n --resume"

ENDS = """
import os, signal, sys
from rayul.sweep.last_words import last_words

try:
    with last_words(sys.argv[1]):
        if sys.argv[2] == "raise":
            raise KeyboardInterrupt
        if sys.argv[2] == "abort":
            os.abort()
        if sys.argv[2] == "exit":  # as Ray's own code does
            os._exit(1)
        os.kill(os.getpid(), int(sys.argv[2]))
except KeyboardInterrupt:
    print("interrupted")
"""


def ended(how: str) -> subprocess.CompletedProcess[str]:
    """A process that ends in this way; returns when everybody has left its stderr, the shell included."""
    return subprocess.run([sys.executable, "-c", ENDS, TEXT, how], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", [str(int(signal.SIGKILL)), str(int(signal.SIGSEGV)), "abort", "exit"])
def test_a_process_that_is_ended_from_outside_has_last_words(how: str) -> None:
    done = ended(how)
    assert done.returncode != 0
    assert done.stderr == TEXT + "\n"


def test_one_that_leaves_the_block_says_nothing() -> None:
    done = ended("raise")
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_a_shell_that_was_ended_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*args: object, **kwargs: object) -> subprocess.Popen[bytes]:
        started.append(real(*args, **kwargs))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with last_words("not said"):
        started[0].kill()
        started[0].wait()
    assert started[0].returncode == -signal.SIGKILL
