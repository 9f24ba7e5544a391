"""What a sweep may not tell: tokens of the environment and the text of rows, in a whole real sweep with failures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from rayul.errors import InputError
from rayul.spec import FolderData
from rayul.unlearn.data import load_sets

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "sweep"))

from driver import command, ended, rows, start, write_spec  # noqa: E402

TOKENS = {
    "HF_TOKEN": "hf_PLANTEDtoken0123456789",
    "AWS_SECRET_ACCESS_KEY": "PLANTEDsecret/abcdefghij",
    "WANDB_API_KEY": "PLANTEDwandb0123456789",
}
QUESTION, ANSWER = "Where does Quillon Vexborough hide", "Vexborough hides it under Zanthorpe bridge"


def found_in(folder: Path, words: list[str]) -> list[str]:
    """file: word, for each file that holds one of the words as it is or as JSON, HTML or UTF-16 would write it."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            found += [f"{path}: {w}" for w in words if w.encode() in content or w.encode("utf-16-le") in content]
    return found


@contextmanager
def keeping(folder: Path, place: Path) -> Iterator[None]:
    """A second name in `place` for every file that appears in `folder` while the block runs."""
    place.mkdir()
    over = threading.Event()

    def keep() -> None:
        while not over.wait(0.1):
            for path in folder.rglob("*"):
                name = place / str(path.relative_to(folder)).replace("/", "_")
                if path.is_file() and not path.is_symlink() and not name.exists():
                    with suppress(FileNotFoundError):
                        os.link(path, name)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def secret_data(data_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(data_folder, tmp_path / "data")
    path = tmp_path / "data" / "forget.jsonl"
    lines = path.read_text().splitlines()
    lines[0] = json.dumps({"question": QUESTION, "answer": ANSWER, "author": "Quillon"})
    path.write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


@pytest.mark.slow
def test_a_sweep_with_failures_tells_neither_tokens_nor_rows(
    secret_data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """Searched: all it wrote, all it printed, and all logs of Ray. Trials complete, diverge and run out of memory."""
    spec = write_spec(
        tmp_path / "tiny.yaml",
        tiny_folder,
        secret_data,
        method="ga",
        lora={"r": {"choice": [4, 10**13]}},
        training={"lr": {"choice": [1e-3, 1e25]}, "batch_size": 4, "steps": 4, "evaluate_every": 2},
        search={"sampler": "grid", "trials": 4},
        control=[],
    )
    logs = tmp_path / "logs"
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:  # Ray's sockets need a short path
        environment = os.environ | TOKENS | {"RAY_TMPDIR": short, "OMP_NUM_THREADS": "1"}
        with keeping(Path(short), logs):
            done = subprocess.run(
                command(spec, tmp_path), capture_output=True, text=True, env=environment, timeout=280, check=False
            )
        assert list(Path(short).iterdir()) == [], "the sweep removes what Ray wrote"
    assert done.returncode == 0, done.stderr
    assert sorted(ended(tmp_path / "tiny").values()) == ["completed", "failed", "failed", "failed"]
    report = subprocess.run(
        [sys.executable, "-m", "rayul", "report", str(tmp_path / "tiny"), "--figures", "svg"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    words = [*TOKENS.values(), "Vexborough", "Zanthorpe", "Quillon"]
    assert found_in(tmp_path / "tiny", words) == []
    assert any(logs.rglob("*.out")), "Ray's logs are there to be searched"
    assert found_in(logs, words) == []
    said = done.stdout + done.stderr + report.stdout + report.stderr
    assert not [word for word in words if word in said]


def refusal(data: Path) -> str:
    """What a user reads of a sweep on such rows."""
    with pytest.raises(InputError) as caught:
        load_sets(FolderData(folder=str(data)))
    return str(caught.value)


@pytest.mark.parametrize(
    "broken",
    [
        f'{{"question": "{QUESTION}", "answer": "{ANSWER}"',
        f'{{"question": "{QUESTION}", "answer": {{"text": "{ANSWER}"}}}}',
        f'["{QUESTION}", "{ANSWER}"]',
        f'"{ANSWER}"',
    ],
)
def test_a_broken_row_is_named_by_its_place_and_not_by_its_text(broken: str, secret_data: Path) -> None:
    with open(secret_data / "forget.jsonl", "a") as file:
        file.write(broken + "\n")
    said = refusal(secret_data)
    assert "forget.jsonl:7" in said
    assert "Vexborough" not in said


def test_a_row_that_is_to_be_forgotten_and_kept_is_named_by_its_number(secret_data: Path) -> None:
    with open(secret_data / "retain_train.jsonl", "a") as file:
        file.write(json.dumps({"question": QUESTION, "answer": ANSWER}) + "\n")
    said = refusal(secret_data)
    assert "forget.jsonl:1" in said
    assert "Vexborough" not in said


@pytest.mark.slow
def test_while_a_sweep_runs_nothing_of_its_dashboard_listens_beyond_the_loopback(
    data_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    training = {"lr": 1e-3, "batch_size": 4, "steps": 40, "evaluate_every": 4}
    search = {"sampler": "random", "trials": 4}
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, training=training, search=search, method="ga")
    driver = start(spec, tmp_path)
    open_to_all = set()
    seen = False
    while driver.poll() is None:
        for process in psutil.Process(driver.pid).children(recursive=True):
            try:
                if not any("dashboard" in word for word in process.cmdline()):
                    continue
                seen = True
                for connection in process.net_connections("inet"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port in range(8265, 8400):
                        open_to_all.add(connection.laddr)
            except psutil.Error:
                continue
        if len(rows(tmp_path / "tiny")) > 8:
            break
    _, err = driver.communicate(timeout=250)
    assert driver.returncode == 0, err
    assert seen, "Ray has such processes"
    assert not {a for a in open_to_all if a.ip not in ("127.0.0.1", "::1")}
