"""`rayul export`: a folder that others can load, scored again before it is called exported."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from exported import write_results

from rayul.errors import InputError, RayulError
from rayul.records import adapter_folder
from rayul.report import Results, load_results
from rayul.report.card import held_out, set_name
from rayul.spec.data import SourceData, TofuData

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data_folder: Path) -> Path:
    return write_results(tmp_path_factory.mktemp("export") / "tiny", tiny_folder, data_folder)


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    loaded = load_results(folder)
    assert loaded.front
    return loaded


def rayul(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rayul", *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def exported(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "unlearned"
    point = results.front[0]
    done = rayul(
        "export", str(results.folder), "--trial", point.trial_id, "--step", str(point.step), "--merge",
        "--out", out.name, cwd=out.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"trial {point.trial_id} at step {point.step}" in done.stdout
    assert "exported unlearned" in done.stdout
    return out


def forget_probability(model: Any, tokenizer: Any, results: Results) -> float:
    """forget.prob by its definition: the mean over rows of exp(mean log p of the answer's tokens)."""
    import torch

    from rayul.spec import load_spec
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.tokens import encode_rows

    rows = load_sets(load_spec(results.folder / "spec.yaml").data)["forget"]
    total = 0.0
    for example in encode_rows(tokenizer, None, rows):
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            logp = model(ids).logits[0].log_softmax(-1)
        picked = [logp[i - 1, example.ids[i]].item() for i in range(example.start, example.stop)]
        total += float(torch.tensor(picked).mean().exp())
    return total / len(rows)


def test_the_card_loads_the_model_and_it_scores_as_recorded(
    exported: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's own code, run where the folder lies."""
    monkeypatch.chdir(exported.parent)
    card = (exported / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) == 3
    space: dict[str, Any] = {}
    exec(code, space)
    recorded = results.front[0].metrics["forget.prob"]
    assert forget_probability(space["model"], space["tokenizer"], results) == pytest.approx(recorded, rel=1e-3)
    assert results.baseline.metrics["forget.prob"] != pytest.approx(recorded, rel=1e-2)


def test_the_merged_model_needs_no_adapter(exported: Path, results: Results) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = exported / "merged"
    assert not (merged / "adapter_config.json").exists()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    recorded = results.front[0].metrics["forget.prob"]
    assert forget_probability(model, tokenizer, results) == pytest.approx(recorded, rel=1e-3)


def test_the_card_says_what_and_never_the_content(exported: Path, results: Results, sets: Any) -> None:
    import hashlib

    card = (exported / "README.md").read_text()
    # The card says so: hashes of earlier versions stay valid.
    always = {"question", "answer", "paraphrased_question", "paraphrased_answer", "perturbed_answer", "text", "group"}
    rows = [
        {name.replace("group", "author"): value for name, value in vars(row).items() if name in always}
        for row in sets["forget"]
    ]
    lines = [json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows]
    assert "`group` under its earlier name `author`" in card
    assert all(f"`{name}`" in card for name in always)
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() in card
    assert f"| rows | {len(sets['forget'])} |" in card
    texts = {text for rows in sets.values() for row in rows for text in (row.question, row.answer, row.group)}
    for path in exported.rglob("*"):
        if path.is_file() and path.suffix in (".md", ".json") and "tokenizer" not in path.name:
            assert not [text for text in texts if text in path.read_text()], path
    point = results.front[0]
    assert f"| forget.prob | lower | {results.baseline.metrics['forget.prob']:.2g}"[:24] in card
    assert "retain_report.prob" in card
    assert "rayul sweep tiny.yaml" in card
    assert f"lr: {point.params['training.lr']}" in card
    assert "≥" in card  # the criterion, beside its metric
    assert str(results.folder) not in card


def test_the_mixing_is_baked_in(results: Results, tmp_path: Path) -> None:
    from rayul.sweep.export import export

    point = next(e for e in results.front if e.mixing == 0.5)
    assert export(results, point, tmp_path / "mixed") <= 1e-3
    assert "mixed 0.5 to 0.5" in (tmp_path / "mixed" / "README.md").read_text()


def test_a_model_that_scores_otherwise_is_not_exported(results: Results, tmp_path: Path) -> None:
    from rayul.sweep.export import export

    point = results.front[0]
    wrong = replace(point, metrics=point.metrics | {"retain.em": point.metrics["retain.em"] + 0.01})
    with pytest.raises(RayulError, match=r"retain\.em is .*nothing was exported"):
        export(results, wrong, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(results: Results, exported: Path) -> None:
    from rayul.sweep.export import export

    before = sorted(exported.rglob("*"))
    with pytest.raises(InputError, match="exists already"):
        export(results, results.front[0], exported)
    assert sorted(exported.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "which point?"),
        (["--knee", "--trial", "0"], "which point?"),
        (["--knee", "--step", "2"], "--step belongs to --trial"),
        (["--at", "retain.prob>0.5"], "compare with >= or <="),
        (["--at", "retain.prob>=9*baseline"], "no point of the front"),
        (["--trial", "9"], "no trial 9"),
        (["--trial", "0", "--step", "3"], "it was at 2, 4"),
        (["--knee", "--push-to-hub", "a/b/c"], "owner/name"),
    ],
)
def test_bad_input_costs_nothing(argv: list[str], said: str, results: Results, tmp_path: Path) -> None:
    done = rayul("export", str(results.folder), *argv, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


class Refusing(http.server.BaseHTTPRequestHandler):
    asked: list[tuple[str, str, bytes]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.command, self.path, body))
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_hub_that_refuses_leaves_the_folder_and_says_how_to_go_on(exported: Path, hub: str) -> None:
    code = f"from rayul.sweep.export import push; from pathlib import Path; push(Path({str(exported)!r}), 'me/model')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_none"},
    )
    assert "the Hub did not take it" in done.stderr
    assert "403" in done.stderr
    assert f"hf upload me/model {exported} --private" in done.stderr
    asked = [body for _, path, body in Refusing.asked if path == "/api/repos/create"]
    assert json.loads(asked[0])["name"] == "model"
    assert json.loads(asked[0])["visibility"] == "private"
    assert (exported / "README.md").exists()


def test_set_names_tell_no_path() -> None:
    assert set_name(TofuData(tofu="locuslab/TOFU")) == "TOFU forget10"
    data = SourceData.model_validate({"forget": "/home/me/secret/people.jsonl", "retain": "org/rows"})
    assert set_name(data) == "people.jsonl"
    hub = SourceData.model_validate({"forget": {"path": "org/rows", "name": "a", "split": "b"}, "retain": "org/rows"})
    assert set_name(hub) == "org/rows a b"


def test_a_limit_broken_on_rows_nothing_was_tuned_on_is_said(results: Results) -> None:
    point, limit = results.front[0], 0.1 * results.baseline.metrics["retain_report.prob"]
    below = replace(point, metrics=point.metrics | {"retain_report.prob": limit * 0.9})
    above = replace(point, metrics=point.metrics | {"retain_report.prob": limit * 1.1})
    assert "**not kept**" in held_out(results, below)[0]
    assert "not kept" not in held_out(results, above)[0]
    assert held_out(results, replace(point, metrics={})) == []


@pytest.mark.parametrize("place", ["file/unlearned", "/proc/unlearned"])
def test_a_place_that_cannot_be_written_is_named(place: str, results: Results, tmp_path: Path) -> None:
    from rayul.sweep.export import export

    (tmp_path / "file").touch()
    with pytest.raises(RayulError, match="cannot write") as caught:
        export(results, results.front[0], tmp_path / place)
    assert "--out" in caught.value.hint


def test_an_adapter_that_a_running_sweep_drops_meanwhile_is_told_as_that(results: Results, tmp_path: Path) -> None:
    """The folder goes file by file; the weights are gone, and the rest is about to be."""
    from rayul.sweep.export import export

    point = results.front[0]
    copy = replace(results, folder=tmp_path / "tiny")
    shutil.copytree(results.folder, copy.folder)
    weights = adapter_folder(copy.folder, point) / "adapter_model.safetensors"
    weights.unlink()
    weights.symlink_to("gone")  # listed, and away when it is opened
    with pytest.raises(InputError, match="has just been removed") as caught:
        export(copy, point, tmp_path / "out")
    assert "another point" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("place", ["file/numbers.json", "absent/numbers.json", "/proc/numbers.json"])
def test_evaluate_names_an_output_that_cannot_be_written(
    place: str, tiny_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    wanted = ["--metrics", "prob", "--output", place]
    done = rayul("evaluate", str(tiny_folder), "--data", str(data_folder), *wanted, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert f"cannot write {place}" in done.stderr
    assert "--output" in done.stderr
    assert "Traceback" not in done.stderr
