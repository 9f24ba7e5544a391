"""Results at a URL: on a local server that speaks S3, and in a folder that is named as file://."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from rayul.errors import InputError, RayulError
from rayul.records.storage import OWNER, Storage, joined, local

ROW = b'{"trial_id": "0000", "step": %d}\n'


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    if request.param == "file":
        return f"file://{tmp_path}/store/ga"
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}/ga"


def on_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Another cache folder is all that another machine is to the work folder."""
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / name))


def names(url: str) -> set[str]:
    filesystem, root = fs.FileSystem.from_uri(url)
    infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return {info.path[len(root) + 1 :] for info in infos if info.type == fs.FileType.File}


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def test_what_is_pushed_is_fetched_on_another_machine(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Storage(url)
    write(here.folder, "evaluations.jsonl", ROW % 1)
    write(here.folder, "study.journal", b"study")
    write(here.folder, "adapters/0000-1-1/adapter_model.safetensors", b"weights")
    write(here.folder, "adapters/0001-1-1.tmp/adapter_model.safetensors", b"half")
    write(here.folder, "checkpoints/0001.safetensors", b"large")
    here.push()
    assert names(url) == {"evaluations.jsonl", "study.journal", "adapters/0000-1-1/adapter_model.safetensors"}
    on_another_machine(monkeypatch, tmp_path, "other")
    with local(url) as folder:
        assert folder != here.folder
        assert (folder / "evaluations.jsonl").read_bytes() == ROW % 1
        assert (folder / "study.journal").read_bytes() == b"study"
        assert (folder / "adapters/0000-1-1/adapter_model.safetensors").read_bytes() == b"weights"


def test_a_push_copies_what_changed_and_removes_what_is_gone(url: str) -> None:
    storage = Storage(url)
    write(storage.folder, "evaluations.jsonl", ROW % 1)
    write(storage.folder, "adapters/0000-1-1/rayul.json", b"{}")
    storage.push()
    with open(storage.folder / "evaluations.jsonl", "ab") as file:
        file.write(ROW % 2)
    (storage.folder / "adapters/0000-1-1/rayul.json").unlink()
    write(storage.folder, "adapters/0001-2-1/rayul.json", b"{}")
    storage.push()
    assert names(url) == {"evaluations.jsonl", "adapters/0001-2-1/rayul.json"}
    filesystem, root = fs.FileSystem.from_uri(url)
    with filesystem.open_input_stream(f"{root}/evaluations.jsonl") as stream:
        assert stream.read() == ROW % 1 + ROW % 2


def test_a_work_folder_that_is_ahead_stays_and_one_that_is_behind_is_replaced(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Storage(url)
    write(first.folder, "evaluations.jsonl", ROW % 1)
    first.push()
    with open(first.folder / "evaluations.jsonl", "ab") as file:  # killed before the next copy, half a row at its end
        file.write(ROW % 2 + (ROW % 3)[:5])
    again = Storage(url)
    again.fetch()
    assert (first.folder / "evaluations.jsonl").read_bytes().startswith(ROW % 1 + ROW % 2)

    on_another_machine(monkeypatch, tmp_path, "other")
    elsewhere = Storage(url)
    elsewhere.fetch()
    with open(elsewhere.folder / "evaluations.jsonl", "ab") as file:
        file.write(ROW % 7)
    elsewhere.push()
    with pytest.raises(InputError, match="different runs") as caught:
        again.fetch()
    assert str(first.folder) in str(caught.value)

    (first.folder / "evaluations.jsonl").write_bytes(ROW % 1)
    again.fetch()
    assert (first.folder / "evaluations.jsonl").read_bytes() == ROW % 1 + ROW % 7


def test_while_a_driver_runs_its_rows_arrive_and_another_machine_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayul.records.storage.EVERY", 0.05)
    warnings: list[str] = []
    storage = Storage(url)
    with storage.synced(warnings.append):
        write(storage.folder, "evaluations.jsonl", ROW % 1)
        deadline = time.monotonic() + 30
        while "evaluations.jsonl" not in names(url):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        on_another_machine(monkeypatch, tmp_path, "other")
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        with pytest.raises(RayulError, match="another sweep is writing") as caught, Storage(url).synced(print):
            pass
        assert "in 180 s" in caught.value.hint
        monkeypatch.undo()
    assert names(url) == {"evaluations.jsonl"}
    assert not warnings


def test_a_mark_that_nobody_renews_stands_in_nobodys_way(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem, root = fs.FileSystem.from_uri(url)
    if filesystem.type_name == "local":
        filesystem.create_dir(root)
    with filesystem.open_output_stream(f"{root}/{OWNER}") as stream:
        stream.write(json.dumps({"machine": "gone", "process": 1}).encode())
    with pytest.raises(RayulError, match="gone"), Storage(url).synced(print):
        pass
    monkeypatch.setattr("rayul.records.storage.SILENT", 0.0)
    with Storage(url).synced(print):
        pass


def test_a_store_that_is_away_for_a_while_is_told_once_and_gets_all_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder behind the URL becomes a file, which no copy can enter."""
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rayul.records.storage.EVERY", 0.02)
    warnings: list[str] = []
    storage = Storage(f"file://{tmp_path}/store/ga")
    with storage.synced(warnings.append):
        write(storage.folder, "evaluations.jsonl", ROW % 1)
        (tmp_path / "store").rename(tmp_path / "away")
        (tmp_path / "store").write_text("")
        deadline = time.monotonic() + 30
        while not warnings:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
        (tmp_path / "store").unlink()
        (tmp_path / "away").rename(tmp_path / "store")
    assert (tmp_path / "store/ga/evaluations.jsonl").read_bytes() == ROW % 1
    assert len(warnings) == 1
    assert str(storage.folder) in warnings[0]


def test_a_store_that_is_away_at_the_end_leaves_all_here_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    storage = Storage(f"file://{tmp_path}/store/ga")

    def work() -> None:
        write(storage.folder, "evaluations.jsonl", ROW % 1)
        (tmp_path / "store").rename(tmp_path / "away")
        (tmp_path / "store").write_text("")

    with pytest.raises(RayulError, match="everything is in") as caught, storage.synced(print):
        work()
    assert str(storage.folder) in caught.value.message
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize("url", ["nonsense://bucket/ga", "s3://no-such-bucket-of-ours/ga"])
def test_a_url_that_cannot_be_used_is_bad_input(
    url: str, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=url) as caught, local(url):
        pass
    assert caught.value.exit_code == 2


def test_a_name_is_joined_before_the_options_of_a_url() -> None:
    assert joined("s3://b/p/?scheme=http", "ga") == "s3://b/p/ga?scheme=http"
    assert joined("results", "ga") == "results/ga"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield f"127.0.0.1:{server.getsockname()[1]}"


SILENT_STORES = {
    "s3": "s3://bucket/sweeps?region=us-east-1&scheme=http&endpoint_override={}",
    "gs": "gs://bucket/sweeps?scheme=http&endpoint_override={}",
}


@pytest.mark.parametrize(("first", "said"), [(1.0, "no answer within 1 s"), (60.0, "NETWORK_CONNECTION")])
def test_a_store_that_never_answers_is_an_error(
    first: float, said: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own limit, where it has one, names the cause."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr("rayul.records.storage.FIRST_ANSWER", first)
    monkeypatch.setattr("rayul.records.storage.STALLED", 1.0)
    with pytest.raises(InputError, match=said) as caught:
        Storage(SILENT_STORES["s3"].format(silent))
    assert "check the network" in caught.value.hint


@pytest.mark.parametrize(("store", "sent"), [("gs", signal.SIGINT), ("s3", signal.SIGTERM)], ids=["gs", "s3"])
def test_a_signal_ends_a_command_that_waits_for_a_store(store: str, sent: signal.Signals, silent: str) -> None:
    """And before that it has said what it waits for."""
    url = SILENT_STORES[store].format(silent)
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    command = subprocess.Popen(
        [sys.executable, "-m", "rayul", "sweep", "ga", "--results", url],
        env=os.environ | keys,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stderr is not None
    said = ""
    while "connecting to " not in said:
        line = command.stderr.readline()
        assert line, said
        said += line
    command.send_signal(sent)
    said += command.communicate(timeout=30)[1]  # half of what the store still has
    assert command.returncode == 130, said
    assert "Traceback" not in said
