"""`rayul watch` shows a folder as it grows, and nothing else, to who has the token."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pareto"))
from synthetic import sweep, write_folder

from rayul.errors import InputError
from rayul.report.serve import serving
from rayul.report.watch import Watched
from rayul.sweep.lock import held, is_held

Get = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with serving(Watched(str(folder), is_held, every=0.0, share=1.0), port=0) as address:
        yield address


@pytest.fixture
def get(address: str) -> Get:
    """get(path, header=...) -> status, headers, body, without a token of its own."""
    url = urlsplit(address)
    assert url.port is not None

    def get(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=60)
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), body

    return get


def ask(address: str, name: str) -> str:
    with urlopen(address.replace("/?", f"/{name}?"), timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def append(folder: Path, lines: list[str]) -> None:
    with open(folder / "evaluations.jsonl", "a") as file:
        file.writelines(lines)


def test_a_folder_that_does_not_exist_yet_and_then_grows(folder: Path, address: str, tmp_path: Path) -> None:
    waiting = json.loads(ask(address, "state"))
    assert waiting["line"] == "s: waiting for a sweep"
    assert f"There is no sweep in {folder} yet" in ask(address, "report")
    assert not folder.exists()

    lines = (write_folder(tmp_path / "whole", sweep(20)) / "evaluations.jsonl").read_text().splitlines(keepends=True)
    with held(folder):
        assert json.loads(ask(address, "state"))["line"] == "s: starting"
        write_folder(folder, [])
        versions, ended = {waiting["version"]}, []
        for first in range(0, len(lines), 60):
            append(folder, lines[first : first + 60])
            append(folder, ['{"trial_id": "half of a li'])
            state = json.loads(ask(address, "state"))
            versions.add(state["version"])
            count = re.match(r"synthetic: running. (\d+) of 64 trials ended", state["line"])
            assert count is not None, state
            ended.append(int(count[1]))
            assert json.loads(ask(address, "state")) == state  # nothing has changed
            text = (folder / "evaluations.jsonl").read_text()
            (folder / "evaluations.jsonl").write_text(text[: text.rindex("\n") + 1])
        assert ended == sorted(set(ended))
        assert ended[-1] == 20
        assert len(versions) == len(ended) + 1
    # The driver is gone, as after a kill: the records say what is left to do.
    assert json.loads(ask(address, "state"))["line"].startswith("synthetic: stopped, 44 to go")
    page = ask(address, "report")
    assert 'id="front"' in page
    assert "</html>" in page
    # Nothing was written beside the records.
    assert sorted(path.name for path in folder.iterdir()) == ["evaluations.jsonl", "spec.yaml"]


def test_damage_is_shown_and_the_next_look_is_a_new_one(folder: Path, address: str) -> None:
    write_folder(folder, sweep(3))
    good = (folder / "evaluations.jsonl").read_text()
    (folder / "evaluations.jsonl").write_text("<script>\n" + good)
    page = ask(address, "report")
    assert "evaluations.jsonl" in page
    assert "<script>" not in page
    (folder / "evaluations.jsonl").write_text(good)
    assert 'id="front"' in ask(address, "report")


def test_the_page_for_people_takes_the_token_out_of_the_address(folder: Path, address: str, get: Get) -> None:
    write_folder(folder, sweep(3))
    url = urlsplit(address)
    status, headers, body = get(f"{url.path}?{url.query}")
    assert status == 200
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", headers["Content-Security-Policy"])
    assert nonce is not None
    assert f'<script nonce="{nonce[1]}">' in body.decode()
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["Set-Cookie"].split("; "))
    token = parse_qs(url.query)["token"][0]
    assert token not in body.decode()
    cookie = headers["Set-Cookie"].partition(";")[0]
    status, headers, body = get("/report", Cookie=cookie, Accept_Encoding="gzip")
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert 'id="front"' in gzip.decompress(body).decode()
    assert headers["Cache-Control"] == "no-store"
    assert get("/report", Cookie='rayul-watch="; ;;=')[0] == 403


@pytest.mark.parametrize(
    "path", ["/", "/report", "/state", "/evaluations.jsonl", "/?token=", "/report?token=guess", "/report?token=%ff"]
)
def test_nothing_without_the_token(folder: Path, get: Get, path: str) -> None:
    write_folder(folder, sweep(3))
    status, _, body = get(path)
    assert status == 403
    assert b"synthetic" not in body


@pytest.mark.parametrize(
    "path",
    [
        "/evaluations.jsonl",
        "/spec.yaml",
        "/report/",
        "/report/../spec.yaml",
        "/../s/spec.yaml",
        "/%2e%2e/s/spec.yaml",
        "/..%2fspec.yaml",
        "/etc/passwd",
        "//etc/passwd",
        "/adapters/",
        "/index.html",
        "/report.html",
    ],
)
def test_no_file_has_an_address(folder: Path, address: str, get: Get, path: str) -> None:
    write_folder(folder, sweep(3))
    status, _, body = get(f"{path}?{urlsplit(address).query}")
    assert status == 404
    assert body == b"there is nothing else here\n"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8765", "localhost.", "", "[", "user@evil.example"]
)
def test_another_name_for_the_loopback_is_refused(folder: Path, address: str, get: Get, host: str) -> None:
    write_folder(folder, sweep(3))
    path = f"/report?{urlsplit(address).query}"
    assert get(path, Host=host)[0] == 421
    for own in ("localhost:9999", "127.0.0.1", "[::1]:80"):  # a tunnel's own end may have another port
        assert get(path, Host=own)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_reads(address: str, get: Get, method: str) -> None:
    assert get(f"/report?{urlsplit(address).query}", method)[0] == 501


def test_elsewhere_an_address_is_its_own_name_and_a_strange_name_is_not(folder: Path) -> None:
    with serving(Watched(str(folder), is_held), host="0.0.0.0", port=0) as address:
        url = urlsplit(address)
        for host, status in (("10.1.2.3", 200), (str(url.hostname), 200), ("evil.example", 421)):
            connection = http.client.HTTPConnection("127.0.0.1", url.port or 0, timeout=60)
            connection.request("GET", f"/state?{url.query}", headers={"Host": host})
            assert connection.getresponse().status == status, host
            connection.close()


def test_what_cannot_be_served_is_refused(folder: Path, address: str, tmp_path: Path) -> None:
    port = urlsplit(address).port
    with pytest.raises(InputError, match="cannot listen"), serving(Watched(str(folder), is_held), port=port):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        Watched(str(tmp_path / "file"), is_held)


def test_the_command_serves_until_it_is_ended(folder: Path) -> None:
    write_folder(folder, sweep(3))
    command = [sys.executable, "-u", "-m", "rayul", "watch", str(folder), "--port", "0"]

    def heeds() -> None:
        """A shell lets what it starts in the background ignore Ctrl-C, and so the command if tests run there."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, preexec_fn=heeds, **pipes) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+", said)
        assert found is not None, said
        assert 'id="front"' in ask(found[0], "report")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in process.stdout.read()


def test_refresh_writes_the_page_again_until_the_sweep_ends(folder: Path) -> None:
    rows = sweep(6)
    write_folder(folder, rows[:30])
    report = folder / "report.html"
    again = '<meta http-equiv="refresh" content="1">'
    with held(folder):
        command = [sys.executable, "-m", "rayul", "report", str(folder), "--refresh", "1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 60
        while not (report.exists() and again in report.read_text()):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        write_folder(folder, rows)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert again not in report.read_text()
