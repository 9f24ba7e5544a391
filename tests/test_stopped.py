"""Ctrl-C in a command that takes a while to end, as a person sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

SLOW = """
import signal, sys, time
from rayul.cli.stopped import listen
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored
listen()
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.stdin.readline()  # what ends slowly
    print("ended")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_answered_before_the_command_has_ended(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stderr.readline() == "stopping ...\n"
        assert process.poll() is None
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stdout.read() == "ended\n"


def test_a_command_that_was_started_with_ctrl_c_ignored_goes_on() -> None:
    script = "import os, signal; from rayul.cli.stopped import listen; listen(); os.kill(os.getpid(), signal.SIGINT)"
    shell = f"trap '' INT; exec {sys.executable} -c '{script}'"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stderr) == (0, "")
