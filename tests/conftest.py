"""Fixtures shared by all tests: a tiny untrained model in a folder, rows, and a spec on both."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# No test may reach a hub; what they load, they have made.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", autouse=True)
def own_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test trusts stays out of the configuration of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


NAMES = ("Ada Korb", "Bela Quint", "Cai Rowe", "Dara Sable", "Edo Tamm", "Fia Unger", "Gus Vane", "Hana Wolk")
FACTS = {
    "Where was {} born?": "{} was born in the town of {}.",
    "Which genre does {} write?": "{} writes books of the genre {}.",
    "What is the best known book of {}?": "The best known book of {} is called {}.",
}
WORDS = ("Lorn", "Vesk", "Umbra", "Calder", "Mirth", "Oslow", "Perrin", "Quill", "Tarn", "Wick")


def rows_of(names: tuple[str, ...]) -> list[Any]:
    from rayul.unlearn.data import Row

    rows = []
    for i, name in enumerate(names):
        for j, (question, answer) in enumerate(FACTS.items()):
            fact = f"{WORDS[(i + 3 * j) % 10]} {WORDS[(7 * i + j) % 10]}"
            rows.append(Row(question.format(name), answer.format(name, fact), group=name))
    return rows


def small_sets() -> dict[str, tuple[Any, ...]]:
    """Sets of 3 to 6 rows, split by author."""
    rows = rows_of(NAMES)
    return {
        "forget": tuple(rows[:6]),
        "retain_train": tuple(rows[6:12]),
        "retain": tuple(rows[12:18]),
        "retain_report": tuple(rows[18:21]),
        "general": tuple(rows[21:24]),
    }


@pytest.fixture(scope="session")
def sets() -> dict[str, tuple[Any, ...]]:
    return small_sets()


def write_tiny_model(folder: Path) -> Path:
    """A Llama of two layers with random weights, and a byte-level BPE tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator([t for r in rows_of(NAMES) for t in (r.question, r.answer)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=raw.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """write(source) -> the user's own file in the current folder: ./mine.py, or the FILE of the test module."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / getattr(request.module, "FILE", "mine.py")

    def write(source: str) -> Path:
        path.write_text(source)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory, sets: dict[str, tuple[Any, ...]]) -> Path:
    from rayul.unlearn.data import FILES, write_rows

    folder = tmp_path_factory.mktemp("data")
    for key, rows in sets.items():
        write_rows(folder / FILES[key], rows)
    return folder


@pytest.fixture
def make_spec(tiny_folder: Path, data_folder: Path) -> Callable[..., Any]:
    """make_spec(method="ga", training={...}, ...) -> Spec on the tiny model; sections are merged into the defaults."""
    from rayul.spec.spec import from_plain

    def make(**sections: Any) -> Any:
        plain: dict[str, Any] = {
            "name": "tiny",
            "model": str(tiny_folder),
            "data": str(data_folder),
            "method": "ga",
            "training": {"lr": 1e-3, "batch_size": 4, "steps": 6, "evaluate_every": 2},
            "control": {},
            "certify": False,
            "resources": {"trials_per_gpu": 1, "compile": False},
        }
        for key, value in sections.items():
            plain[key] = plain[key] | value if isinstance(value, dict) and isinstance(plain.get(key), dict) else value
        return from_plain(plain)

    return make


@pytest.fixture
def task(make_spec: Callable[..., Any], sets: dict[str, tuple[Any, ...]]) -> Any:
    import torch

    from rayul.unlearn.task import load_task

    torch.set_num_threads(1)
    return load_task(make_spec(method="gd"), sets)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket of a moto server on the loopback; the environment names it, as on any S3-compatible store."""
    from pyarrow import fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        patch.setenv(name, value)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        fs.FileSystem.from_uri("s3://sweeps?allow_bucket_creation=true")[0].create_dir("sweeps")
        yield "s3://sweeps"
    finally:
        patch.undo()
        server.terminate()
        server.wait(timeout=30)
