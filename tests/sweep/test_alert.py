"""`on_end`: who is told that a sweep has ended, and what; nothing of the sweep depends on it. Ray is not started."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from rayul.errors import InputError
from rayul.records import Ending
from rayul.records.trusted import check_trusted, trust
from rayul.spec import Spec, SpecError, parse_spec
from rayul.sweep.alert import alerted
from rayul.sweep.run import run_sweep
from tests.pareto.synthetic import SPEC, sweep, write_folder
from tests.pareto.test_certified_answer import passed, reading, results_with

SECRET = "Ada Korb was born in Lorn Vesk"


class Receiver(HTTPServer):
    """Keeps what it is sent. status: of its answers. slow: seconds before each. to: where it redirects."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receives)
        self.got: list[tuple[str, Any]] = []
        self.status, self.slow, self.to = 200, 0.0, ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class Receives(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.slow)
        self.server.got.append((self.path, json.loads(body)))
        self.send_response(self.server.status)
        if self.server.to:
            self.send_header("Location", self.server.to)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.got.append((self.path, None))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a failed trial whose reason quotes a row."""
    rows = [replace(e, reason=SECRET) if isinstance(e, Ending) and e.state == "failed" else e for e in sweep(24)]
    return write_folder(tmp_path / "synthetic", rows)


def spec_with(on_end: str) -> Spec:
    return parse_spec(f"{SPEC}on_end: {on_end}\n", (), source="spec.yaml", check_files=False)


def ending(spec: Spec, folder: Path, error: BaseException | None = None) -> list[str]:
    """What is said when a sweep ends so."""
    said: list[str] = []
    if error is None:
        with alerted(spec, folder, said.append):
            pass
        return said
    with pytest.raises(type(error)) as caught, alerted(spec, folder, said.append):
        raise error
    assert caught.value is error
    return said


def test_a_finished_sweep_sends_its_numbers(folder: Path, receiver: Receiver) -> None:
    assert ending(spec_with(f"{{webhook: '{receiver.address}'}}"), folder) == []
    [(path, got)] = receiver.got
    assert path == "/hook"
    assert sum(got["trials"].values()) == 24
    assert got["trials"]["failed"] == 1
    assert (got["format"], got["name"], got["ended"], got["why"]) == ("rayul.on_end/1", "synthetic", "finished", "")
    assert got["text"].startswith("synthetic: finished. Trials: ")
    assert 0 < got["hypervolume"] < 1
    assert got["front"] > 0
    assert got["certified"] == []


def test_what_is_certified_is_told_with_its_bounds(tmp_path: Path, receiver: Receiver) -> None:
    place = write_folder(tmp_path / "synthetic", sweep(12))
    results_with(place, reading(passed("0001", 10, 0.6), passed("0002", 14, 0.49)))
    assert ending(spec_with(f"{{webhook: '{receiver.address}'}}"), place) == []
    [(_, got)] = receiver.got
    best, other = got["certified"]
    assert (best["trial"], best["step"], best["scale"], best["confidence"]) == ("0002", 30, 0.7, 0.9)
    assert best["forgotten"] == pytest.approx(1 - 0.49 / 0.98)
    assert best["limits"] == [{"metric": "retain.es", "at": 0.9, "kept": 0.96, "bound": 0.92, "relative": True}]
    assert other["trial"] == "0001"
    assert got["text"].endswith("the best certified point forgot 50.0%.")


@pytest.mark.parametrize(
    ("error", "ended", "why"),
    [
        (ValueError(SECRET), "failed", "ValueError"),
        (InputError(SECRET), "failed", ""),
        (KeyboardInterrupt(), "interrupted", ""),
    ],
)
def test_a_failed_or_interrupted_sweep_is_told_too_without_a_row(
    folder: Path, receiver: Receiver, error: BaseException, ended: str, why: str
) -> None:
    assert ending(spec_with(f"{{webhook: '{receiver.address}'}}"), folder, error) == []
    [(_, got)] = receiver.got
    assert (got["ended"], got["why"]) == (ended, why)
    assert "Ada" not in json.dumps(got)


def test_a_sweep_that_fails_before_its_first_trial_is_told(
    make_spec: Callable[..., Spec], tmp_path: Path, receiver: Receiver
) -> None:
    spec = make_spec(data=str(tmp_path / "no rows"), on_end={"webhook": receiver.address})
    with pytest.raises(InputError, match="no rows"):
        run_sweep(spec, tmp_path / "r")
    [(_, got)] = receiver.got
    assert (got["ended"], got["trials"], got["hypervolume"]) == ("failed", {}, None)


def test_a_command_gets_the_same(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "got.json"
    assert ending(spec_with(json.dumps({"command": ["sh", "-c", f"cat > '{out}'"]})), folder) == []
    assert json.loads(out.read_text())["ended"] == "finished"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["sh", "-c", "echo no such room >&2; exit 3"], "exit code 3, no such room"),
        (["sh", "-c", "sleep 600 & sleep 600"], "no end within 0.5 s"),
        (["true"], ""),  # reads nothing of its input
    ],
)
def test_a_command_that_fails_is_said_and_nothing_else(folder: Path, command: list[str], said: str) -> None:
    spec = spec_with(json.dumps({"command": command, "timeout": 0.5}))
    lines = ending(spec, folder)
    assert len(lines) == bool(said)
    assert all(line.startswith("on_end.command: nobody was told") and said in line for line in lines)
    assert len(ending(spec, folder, ValueError("as it was"))) == bool(said)


def test_an_address_that_fails_is_said_and_its_secret_is_not(
    folder: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_HOOK", receiver.address)
    spec = spec_with("{webhook: $CHAT_HOOK, timeout: 0.5}")
    receiver.status = 500
    assert ending(spec, folder) == ["on_end.webhook: nobody was told: the answer was 500"]
    receiver.status, receiver.to = 302, receiver.address.replace("hook", "elsewhere")
    assert ending(spec, folder) == ["on_end.webhook: nobody was told: the answer was 302"]
    assert {path for path, _ in receiver.got} == {"/hook"}
    receiver.slow = 1.0
    [line] = ending(spec, folder)
    assert "timed out" in line or "no end" in line or "TimeoutError" in line
    monkeypatch.setenv("CHAT_HOOK", "http://127.0.0.1:9/secret")
    [line] = ending(spec, folder, ValueError("as it was"))
    assert line == "on_end.webhook: nobody was told: Connection refused"


def test_what_cannot_tell_anybody_is_refused_before_anything_is_spent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, said in ((None, "CHAT_HOOK is not set"), ("file:///etc/passwd", "CHAT_HOOK is not a web address")):
        if value is not None:
            monkeypatch.setenv("CHAT_HOOK", value)
        with (
            pytest.raises(InputError, match=said) as caught,
            alerted(spec_with("{webhook: $CHAT_HOOK}"), folder, print),
        ):
            pytest.fail("it began")
        assert "passwd" not in str(caught.value)
    with (
        pytest.raises(InputError, match="no program no-such-program"),
        alerted(spec_with("{command: [no-such-program]}"), folder, print),
    ):
        pytest.fail("it began")


@pytest.mark.parametrize(
    ("on_end", "said"),
    [
        ("{}", "tells nobody"),
        ("{webhook: 'file:///etc/passwd'}", "no web address"),
        ("{webhook: 'https://user:password@chat.example/'}", "holds a password or token"),
        ("{webhook: 'https://chat.example/?token=x'}", "holds a password or token"),
        ("{command: []}", "on_end.command"),
        ("{command: true, timeout: 5}", "on_end.command"),
        ("{command: [a], timeout: 0}", "on_end.timeout"),
        ("{command: [a], shell: true}", "unknown key"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(on_end: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        spec_with(on_end)


def test_a_received_folder_tells_nobody_without_trust(folder: Path, tmp_path: Path, receiver: Receiver) -> None:
    script = tmp_path / "tell.sh"
    script.write_text(f"touch '{tmp_path / 'ran'}'\n")
    text = json.dumps({"command": ["sh", str(script)], "webhook": receiver.address})
    (folder / "spec.yaml").write_text(f"{SPEC}on_end: {text}\n")
    spec = spec_with(text)
    assert [line for line in spec.notices if "on_end" in line] == [
        f"at its end the sweep runs sh {script} (on_end.command)",
        f"at its end the sweep sends its numbers to {receiver.address} (on_end.webhook)",
    ]
    with pytest.raises(InputError, match=r"tell\.sh \(on_end\.command\)(.|\n)*numbers, to http://127"):
        run_sweep(spec, folder, resume=True)
    assert receiver.got == []
    assert not (tmp_path / "ran").exists()
    check_trusted(spec, folder, trusted=False)  # an export tells nobody
    trust(spec, sends=True)
    check_trusted(spec, folder, trusted=False, sends=True)
    script.write_text("something else\n")
    with pytest.raises(InputError, match=r"tell\.sh"):
        check_trusted(spec, folder, trusted=False, sends=True)
