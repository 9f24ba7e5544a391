"""The specs of MUSE, WMDP and RWKU end to end, on small files of the benchmarks' formats, with the testbed's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmark_files import local_spec, sources
from driver import ended, rows, sweep
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayul.testbed import ensure_testbed

pytestmark = pytest.mark.slow

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, source = tmp_path_factory.mktemp("model"), ensure_testbed() / "model"
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["muse-news", "muse-books", "wmdp-bio", "wmdp-cyber", "rwku"])
def test_a_sweep_of_the_shipped_spec(name: str, chatting: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "model": {"path": str(chatting), "tokenizer": None, "dtype": "float32"},
        "training": {"lr": 3e-4, "batch_size": 2, "micro_batch_size": 2, "steps": 2, "evaluate_every": 1},
        "search": {"sampler": "random", "trials": 2, "seed": 0},
        "resources": {"gpu": 0, "trials_per_gpu": 2},
        "evaluate": {"batch_size": 8},
    }
    plain = local_spec(name, tmp_path, ensure_testbed(), **small)
    for source in sources(plain):
        if "chunk" in source:
            source["chunk"] = 24
    plain["method"] |= {"layer": 2} if "layer" in plain["method"] else {}
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(plain))
    done = sweep(file, tmp_path / "results")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / name
    assert ended(folder) == {"0000": "completed", "0001": "completed"}
    found = rows(folder)
    steering = {*plain["objectives"], *(one["metric"] for one in plain["control"]["criteria"])}
    searched = [row for row in found if row["trial_id"].startswith("000")]
    assert len(searched) == 6
    assert all(steering <= row["metrics"].keys() for row in searched)
    (baseline,) = (row for row in found if row["trial_id"] == "baseline")
    measured = {key for probe in plain["probes"].values() for key in probe["metrics"]}
    assert measured <= {key.partition(".")[2] for key in baseline["metrics"]}
    assert {row["metrics"][key] for row in searched for key in plain["objectives"]} != {0.0}
    assert json.loads((folder / "run.json").read_text())["data"].keys() >= {"forget"}
