"""Results that somebody else sent, as a folder or at a URL: they are read, and nothing else is touched."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import boto3
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pareto"))
from synthetic import sweep, write_folder

from rayul.errors import InputError, RayulError
from rayul.files import whole_file, whole_folder, write_text
from rayul.records.folder import load_records
from rayul.records.inside import is_sweeps
from rayul.records.storage import local
from rayul.report import summarise
from rayul.report.compare import load_comparison
from rayul.report.status import read_status


def rayul(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rayul", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture
def received(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "received" / "s", sweep(8))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the reader's, outside of what was received."""
    path = tmp_path / "home" / ".bashrc"
    path.parent.mkdir()
    path.write_text("the reader's own\n")
    return path


# --- writing -----------------------------------------------------------------------------------------------------


def test_a_report_follows_no_link_that_was_laid_where_it_writes(received: Path, secret: Path) -> None:
    for name in ("pareto.csv", "pareto.json", "report.html", "trials.parquet", "evaluations.parquet", "spec.yaml"):
        (received / f"{name}.tmp").symlink_to(secret)
    with pytest.raises(RayulError, match=r"\.tmp is a link"):
        summarise(received)
    assert secret.read_text() == "the reader's own\n"


def test_a_link_in_place_of_an_output_is_refused_or_replaced_and_never_written_through(
    received: Path, secret: Path
) -> None:
    (received / "pareto.csv").symlink_to(secret)
    with pytest.raises(RayulError, match=r"pareto\.csv is a link"):
        summarise(received)
    assert secret.read_text() == "the reader's own\n"
    write_text(received / "pareto.csv", "new")
    assert not (received / "pareto.csv").is_symlink()
    assert (secret.read_text(), (received / "pareto.csv").read_text()) == ("the reader's own\n", "new")


@pytest.mark.parametrize("name", ["figures", "adapters", "audit"])
def test_a_linked_folder_is_refused(received: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if (received / name).exists():
        (received / name).rmdir()
    (received / name).symlink_to(elsewhere)
    with pytest.raises(RayulError, match=f"{name} is a link"):
        summarise(received, ["svg"])
    assert not list(elsewhere.iterdir())


def test_a_name_that_is_taken_is_never_written_to(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayul.files.secrets.token_hex", lambda size: "guessed")
    (tmp_path / "out.txt.guessed.tmp").symlink_to(secret)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "out.txt", "attack")
    assert secret.read_text() == "the reader's own\n"


def test_what_fails_half_way_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with suppress(ZeroDivisionError), whole_file(tmp_path / "a.txt") as path:
        path.write_text("half")
        raise ZeroDivisionError
    with suppress(ZeroDivisionError), whole_folder(tmp_path / "folder") as folder:
        (folder / "x").write_text("half")
        raise ZeroDivisionError
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "old"}


# --- reading -----------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], object]] = {
    "load": load_records,
    "report": summarise,
    "status": lambda folder: read_status(folder, held=False),
    "compare": lambda folder: load_comparison([folder, folder]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["study.journal", "evaluations.jsonl", "spec.yaml", "adapters/0001-5-1/rayul.json"])
def test_no_link_is_read(reader: str, name: str, received: Path, secret: Path) -> None:
    path = received / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.exists() else b"{}"
    path.unlink(missing_ok=True)
    (secret.parent / "copy").write_bytes(content)
    path.symlink_to(secret.parent / "copy")
    with pytest.raises(RayulError, match="is a link"):
        READERS[reader](received)


@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_status_does_not_hang_on_a_device_or_a_pipe(kind: str, received: Path) -> None:
    if kind == "device":
        (received / "study.journal").symlink_to("/dev/zero")
    else:
        os.mkfifo(received / "study.journal")
    done = rayul("status", received)
    assert done.returncode == 1
    assert "study.journal is " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_record_of_gigabytes_is_refused_before_it_is_read(received: Path) -> None:
    with open(received / "study.journal", "wb") as file:
        file.truncate(3 * 2**30)  # a hole: it takes no room
    with pytest.raises(RayulError, match=r"3\.0 GiB, more than any record|3\.0 GiB: no record"):
        load_records(received)


# --- a URL -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("spec.yaml", True),
        ("evaluations.jsonl", True),
        ("adapters/0003-20-0.5/adapter_model.safetensors", True),
        ("adapters/0003-20-1/rayul.json", True),
        ("audit/verdict.json", True),
        ("audit/adapters/refusal-seed1000000/adapter_config.json", True),
        ("../spec.yaml", False),
        ("/etc/passwd", False),
        ("adapters/../../../.bashrc", False),
        ("adapters/0003-20-1/../../x.json", False),
        ("adapters/..json/x", False),
        (".bashrc", False),
        ("bin/run.sh", False),
        ("adapters/0003-20-1/adapter_model.bin", False),
        ("spec.yaml\n", False),
        ("spec.yaml.tmp", False),
    ],
)
def test_only_what_a_sweep_writes_is_fetched(name: str, kept: bool) -> None:
    assert is_sweeps(name) is kept


def test_a_bucket_cannot_write_outside_of_the_cache(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, received: Path
) -> None:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache" / "deep" / "er"))
    bucket = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    prefix = f"{tmp_path.name}/s"
    (received / "adapters" / "0001-5-1").mkdir(parents=True, exist_ok=True)
    (received / "adapters" / "0001-5-1" / "adapter_config.json").write_text("{}")
    for path in received.rglob("*"):
        if path.is_file():
            bucket.put_object(Bucket="sweeps", Key=f"{prefix}/{path.relative_to(received)}", Body=path.read_bytes())
    for key in ("../../../../../../escaped.json", "adapters/../../../../escaped.json", "/escaped.json", "run.sh"):
        bucket.put_object(Bucket="sweeps", Key=f"{prefix}/{key}", Body=b"{}")
    with local(f"{s3}/{prefix}") as folder:
        fetched = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert {"spec.yaml", "evaluations.jsonl"} <= fetched
        assert all(map(is_sweeps, fetched))
        for path in [folder, *folder.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert not list(tmp_path.rglob("escaped*"))
    assert not list(tmp_path.rglob("run.sh"))


def test_a_folder_that_is_no_sweep_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    private = tmp_path / "etc"
    private.mkdir()
    (private / "shadow").write_text("secret")
    (private / "report.html").write_text("secret")
    for url in (f"file://{private}", "file:///etc"):
        with pytest.raises(InputError, match=r"holds no sweep|nothing is there"), local(url):
            pass
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_links_at_a_file_url_are_not_followed(
    received: Path, tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    (received / "pareto.json").symlink_to(secret)
    (received / "figures").symlink_to(secret.parent)
    (secret.parent / "front.svg").write_text("private")
    with local(f"file://{received}") as folder:
        assert (folder / "spec.yaml").exists()
        assert not (folder / "pareto.json").exists()
        assert not (folder / "figures").exists()


def test_a_mark_of_a_driver_that_is_none_is_an_error(
    received: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    for text in ("[1]", "{", '{"machine": 3}', "null", "x" * 20_000):
        (received / "driver.json").write_text(text)
        done = rayul("status", f"file://{received}")
        assert (done.returncode, "is not a driver's mark" in done.stderr) == (2, True), done.stderr


def test_an_export_takes_what_a_saved_point_has_and_nothing_else(tmp_path: Path) -> None:
    from rayul.unlearn.export import copy_saved

    received = tmp_path / "received"
    (received / "more").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (received / name).write_text(name)
    for name in ("modeling.py", "pytorch_model.bin", "README.md", "tokenizer.json", "more/model.safetensors"):
        (received / name).write_text("somebody else's")
    copy_saved(received, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
