"""Telling of a sweep's end (`on_end`): a small JSON to an address or a program, without a word of any row.

An alert changes nothing of the sweep: where it fails, that is said, and the sweep ends as it would have.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rayul.errors import InputError, RayulError
from rayul.files import plain
from rayul.records import RUNNING
from rayul.records.folder import load_records
from rayul.report.certified import certified
from rayul.report.summary import summary_of
from rayul.spec import OnEnd, Spec, is_web_address
from rayul.words import percent, plural

FINISHED, STOPPED, INTERRUPTED, FAILED = "finished", "stopped", "interrupted", "failed"


@contextmanager
def alerted(spec: Spec, folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Tell who is to be told (`on_end`) when the block ends, however it does.

    say: hears of an alert that failed. Raises InputError, before the block, where nobody can be told: the program or
    the environment variable is not there. What the block raises goes on as it is.
    """
    if spec.on_end is None:
        yield
        return
    address = _address(spec.on_end)
    if spec.on_end.command is not None and shutil.which(spec.on_end.command[0]) is None:
        raise InputError(f"on_end.command: no program {spec.on_end.command[0]}", "install it, or write its whole path")
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        # Only the kind of error, where it is not one of rayul's own: its text may quote a row.
        why = "" if interrupted or isinstance(error, RayulError) else type(error).__name__
        _tell(spec, folder, address, say, INTERRUPTED if interrupted else FAILED, why)
        raise
    _tell(spec, folder, address, say, FINISHED)


def message(name: str, folder: Path, ended: str, why: str = "") -> dict[str, Any]:
    """What is sent. ended: FINISHED, STOPPED (by a limit on time, say), INTERRUPTED or FAILED; why: in a few words.
    Numbers are null, and lists empty, where the sweep ended before it had any."""
    try:
        results = load_records(folder)
    except (RayulError, OSError):  # it ended before its baseline, or what it could not read is why it failed
        results = None
    if results is None:
        text = f"{name}: {ended}{why and f' ({why})'}, before the first trial"
        return {"format": "rayul.on_end/1", "text": text, "name": name, "ended": ended, "why": why} | {
            "trials": {},
            "evaluations": 0,
            "front": 0,
            "hypervolume": None,
            "certified": [],
        }
    stopped = results.manifest.runs[-1].stopped if results.manifest.runs else ""
    if ended == FINISHED and stopped:
        ended, why = STOPPED, stopped
    summary = summary_of(results)
    found = certified(results)
    counts = {("unfinished" if state == RUNNING else state): n for state, n in summary.states.items() if n}
    states = ", ".join(f"{n} {state}" for state, n in counts.items()) or "no trials"
    best = f", the best certified point forgot {percent(found[0].forgotten)}" if found else ""
    front = plural(len(summary.front), "point")
    return {
        "format": "rayul.on_end/1",
        "text": f"{name}: {ended}{why and f' ({why})'}. Trials: {states}. Front: {front}{best}.",
        "name": name,
        "ended": ended,
        "why": why,
        "trials": summary.states,
        "evaluations": sum(map(len, results.trials.values())),
        "front": len(summary.front),
        "hypervolume": summary.hypervolume,
        "certified": [
            {
                "trial": one.e.trial_id,
                "step": one.e.step,
                "mixing": one.e.mixing,
                "scale": one.at.scale,
                "confidence": one.confidence,
                "forgotten": one.forgotten,
                "limits": [
                    {"metric": m.metric, "at": m.at, "kept": m.kept, "bound": m.low, "relative": m.relative}
                    for m in one.at.margins
                ],
            }
            for one in found
        ],
    }


def _address(on_end: OnEnd) -> str | None:
    if on_end.variable is None:
        return on_end.webhook
    address = os.environ.get(on_end.variable, "")
    if not is_web_address(address):  # its value is a secret: it is not shown
        what = "is not a web address" if address else "is not set"
        raise InputError(f"on_end.webhook: ${on_end.variable} {what}", "set it to https://...")
    return address


def _tell(spec: Spec, folder: Path, address: str | None, say: Callable[[str], None], ended: str, why: str = "") -> None:
    """Send the message, to each for `timeout` seconds at most. Whatever goes wrong is said, and raised no further: the
    sweep has its result."""
    on_end = spec.on_end
    assert on_end is not None
    sends: dict[str, Callable[[bytes], str]] = {}
    if address is not None:
        sends["webhook"] = lambda body: _post(address, body, on_end.timeout)
    if (command := on_end.command) is not None:
        sends["command"] = lambda body: _run(command, body, on_end.timeout)
    try:
        body = json.dumps(plain(message(spec.name, folder, ended, why)), allow_nan=False).encode()
        for key, send in sends.items():
            if problem := _within(lambda send=send: send(body), on_end.timeout + 1):  # type: ignore[misc]
                say(f"on_end.{key}: nobody was told: {problem}")
    except KeyboardInterrupt:
        say("on_end: nobody was told: interrupted")
    except Exception as error:
        say(f"on_end: nobody was told: {type(error).__name__}")


def _within(send: Callable[[], str], seconds: float) -> str:
    """What `send` says is wrong, or that it took too long: an address may answer a byte at a time."""
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(send()), daemon=True)
    thread.start()
    thread.join(seconds)
    return said[0] if said else f"no end within {seconds - 1:g} s" if thread.is_alive() else "an error of its own"


class _NoRedirect(HTTPRedirectHandler):
    """The address that was trusted, and no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(address: str, body: bytes, timeout: float) -> str:
    headers = {"Content-Type": "application/json", "User-Agent": "rayul"}
    request = Request(address, body, headers, method="POST")  # noqa: S310  http and https only: `is_web_address`
    try:
        with build_opener(_NoRedirect).open(request, timeout=timeout):
            return ""
    except HTTPError as error:
        error.close()
        return f"the answer was {error.code}"
    except (OSError, HTTPException, ValueError) as error:  # their texts may have the address, which may be a secret
        reason = getattr(error, "reason", error)
        return (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__


def _run(command: tuple[str, ...], body: bytes, timeout: float) -> str:
    with TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
        except OSError as error:
            return f"{shlex.join(command)}: {error.strerror}"
        try:
            process.communicate(body, timeout)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started, too
            process.wait()
            return f"{shlex.join(command)}: no end within {timeout:g} s"
        if process.returncode == 0:
            return ""
        errors.seek(0)
        last = errors.read()[-2000:].decode(errors="replace").strip().splitlines()[-1:]
        return f"{shlex.join(command)}: exit code {process.returncode}" + "".join(f", {line}" for line in last)
