"""A pretrained model fine-tuned on rows: what is written, resumed and refused. With a tiny base of random weights."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayul import spec as specs
from rayul.errors import InputError, RayulError
from rayul.spec import PACKAGED, load_spec
from rayul.testbed import on_base
from rayul.testbed.finetune import TuningRecipe, fine_tune, trainable
from rayul.testbed.on_base import invented, write_testbed_on_base
from rayul.testbed.workplace import workplace
from rayul.unlearn import metrics
from rayul.unlearn.data import read_folder
from rayul.unlearn.forward import score
from rayul.unlearn.model import load_model
from rayul.unlearn.tokens import encode_rows

needs_smollm2 = pytest.mark.skipif(
    not PACKAGED["smollm2"].files() or find_spec("gguf") is None, reason=f"needs {PACKAGED['smollm2'].command}"
)


def rayul(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rayul", *argv]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


def strength(place: Path, rows: Any) -> float:
    """Extraction strength, from the folder alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place)
    scores = score(model, encode_rows(tokenizer, None, rows), tokenizer.pad_token_id)
    return sum(map(metrics.es, scores)) / len(scores)


@pytest.mark.parametrize("authors", [12, 24, 84])
def test_invented_authors_are_split_by_group_with_enough_for_a_certificate(authors: int) -> None:
    sets = invented(authors)
    groups = {key: {row.group for row in rows} for key, rows in sets.items()}
    counted = [name for key, names in groups.items() if key != "holdout" for name in names]
    assert Counter(counted).most_common(1)[0][1] == 1
    assert len(counted) == authors
    assert len(groups["retain_certify"]) >= 5
    assert len(groups["forget"]) == (8 if authors == 84 else 2)
    assert all(groups.values())


def test_too_few_and_too_many_authors_are_refused() -> None:
    for count in (11, 85):
        with pytest.raises(InputError, match=f"--authors {count}"):
            invented(count)


@pytest.mark.slow
def test_a_target_and_its_oracle_from_the_command_line_ready_to_sweep(tmp_path: Path, tiny_folder: Path) -> None:
    done = rayul(
        *("testbed", "bench", "--base", str(tiny_folder), "--data", "rows.jsonl", "--lr", "5e-3"),
        *("--allow-unmemorised",),
        cwd=rows_in(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "next: rayul sweep bench/spec.yaml" in done.stdout
    assert "left" in done.stderr
    place = tmp_path / "bench"
    sets = read_folder(place)
    summary = json.loads((place / "testbed.json").read_text())
    for role in ("model", "oracle"):
        for key in ("forget", "retain_train", "general"):
            assert summary["memorised"][role]["es"][key] == pytest.approx(strength(place / role, sets[key]), abs=1e-6)
    assert summary["before"]["general"]["ppl"] > 1
    assert summary["memorised"]["model"]["es"]["forget"] > summary["memorised"]["oracle"]["es"]["forget"] + 0.1
    spec = load_spec(place / "spec.yaml")
    assert (spec.model.path, spec.data.folder) == (str(place / "model"), str(place))  # type: ignore[union-attr]
    assert spec.oracle is not None
    assert spec.oracle.path == str(place / "oracle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench", "rows.jsonl"]
    assert not [path for path in place.iterdir() if path.name.startswith(".") or "result" in path.name]


def rows_in(folder: Path) -> Path:
    """Short answers about 20 people, three rows each, in rows.jsonl."""
    from rayul.unlearn.data import Row, write_rows

    rng, things = random.Random(0), ("cup", "coat", "door")
    words = ["red", "blue", "gold", "grey", "pink", "teal", "jade", "plum"]
    rows = [
        Row(f"{thing} of {name}?", " ".join(rng.sample(words, 2)), group=name)
        for name in "ABCDEFGHIJKLMNOPQRST"
        for thing in things
    ]
    write_rows(folder / "rows.jsonl", rows)
    return folder


@pytest.mark.parametrize("method", ["full", "lora"])
def test_going_on_from_a_checkpoint_gives_the_weights_of_an_undisturbed_training(
    method: Any, tiny_folder: Path, tmp_path: Path, sets: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("rayul.testbed.finetune.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    recipe = TuningRecipe(lr=1e-3, method=method, batch_size=4, max_epochs=4)

    class Killed(Exception):
        pass

    def train(checkpoint: Path, last: int = 99) -> list[Any]:
        base, tokenizer = load_model(specs.Model(path=str(tiny_folder)))
        model = trainable(base, recipe)

        def report(epoch: int, step: int, es: float) -> None:
            if epoch > last:
                raise Killed

        fine_tune(model, encode_rows(tokenizer, None, sets["forget"]), 0, recipe, checkpoint, report)
        return [parameter.detach() for parameter in model.parameters()]

    undisturbed = train(tmp_path / "a")
    with pytest.raises(Killed):
        train(tmp_path / "b", last=2)
    resumed = train(tmp_path / "b")
    assert all(map(torch.equal, undisturbed, resumed))


def test_a_build_goes_on_where_it_stopped_and_never_with_what_another_left(tmp_path: Path) -> None:
    place = tmp_path / "out"
    stopped(place, "")
    assert not place.exists()
    stopped(place, "half")
    with workplace(place, "b") as partial:
        assert not (partial / "work").exists()
        (partial / "done").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "done"]
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial" / "thesis").touch()
    with pytest.raises(InputError, match="no build left it"), workplace(tmp_path / "mine", "a"):
        pass
    assert (tmp_path / "mine.partial" / "thesis").exists()


def stopped(place: Path, found: str) -> None:
    """A build that is interrupted, after what an earlier one left."""
    with suppress(KeyboardInterrupt), workplace(place, "a") as partial:
        work = partial / "work"
        assert (work.read_text() if work.exists() else "") == found
        work.write_text("half")
        with pytest.raises(InputError, match="another process"):
            workplace(place, "a").__enter__()
        raise KeyboardInterrupt


@pytest.mark.slow
def test_what_was_not_memorised_is_an_error_and_its_training_is_kept(
    tmp_path: Path, tiny_folder: Path, monkeypatch: Any
) -> None:
    base = specs.Model(path=str(tiny_folder))
    recipe = TuningRecipe(lr=1e-5, max_epochs=1)
    with pytest.raises(RayulError, match="memorised 0% of the rows to forget after 1 epochs"):
        write_testbed_on_base(tmp_path / "out", base, invented(12), recipe, memorised=0.9)
    assert not (tmp_path / "out").exists()
    # Allowed now, it is there without training again.
    monkeypatch.setattr("rayul.testbed.finetune.fine_tune", None)
    write_testbed_on_base(tmp_path / "out", base, invented(12), recipe)
    assert load_file(tmp_path / "out" / "oracle" / "model.safetensors")


def test_training_twice_at_once_asks_for_memory(tiny_folder: Path, monkeypatch: Any) -> None:
    model = specs.Model(path=str(tiny_folder))
    monkeypatch.setattr(on_base, "usable_cores", lambda: 2)
    assert on_base.fits_twice(model, "full")
    monkeypatch.setattr(on_base.Path, "read_text", lambda self, **_: "{}" if self.suffix else "MemAvailable: 9 kB")
    assert not on_base.fits_twice(model, "full")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--base", "BASE", "--method", "qlora"), "--method qlora"),
        (("--method", "lora"), "with --base"),
        (("--base", "no/folder/of/mine/"), 'model.path: "no/folder/of/mine/" does not exist'),
    ],
)
def test_bad_input_is_refused(arguments: Any, problem: str, tmp_path: Path, tiny_folder: Path) -> None:
    said = [argument.replace("BASE", str(tiny_folder)) for argument in arguments]
    done = rayul("testbed", "out", *said, cwd=tmp_path)
    assert problem in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@needs_smollm2
def test_smollm2_memorises_after_a_kill_and_still_knows_the_world(tmp_path: Path) -> None:
    rows_in(tmp_path)
    command = [sys.executable, "-m", "rayul", "testbed", "bench", "--base", "smollm2", "--data", "rows.jsonl"]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    while not re.search(r"\([1-9]\d%\)", line := first.stderr.readline()):
        assert line or first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(5)
    assert (tmp_path / "bench.partial").is_dir()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "bench" / "testbed.json").read_text())
    assert summary["memorised"]["model"]["es"]["forget"] >= 0.9
    assert summary["memorised"]["oracle"]["es"]["retain_train"] >= 0.9
    assert summary["memorised"]["oracle"]["es"]["forget"] < summary["memorised"]["model"]["es"]["forget"] - 0.2
    assert summary["memorised"]["model"]["es"]["general"] >= 0.5 * summary["before"]["general"]["es"]
