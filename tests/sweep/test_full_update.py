"""A sweep with `update: full` from the command line: whole models in its folder, a kill, an export, an audit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from driver import ended, rows, start, sweep, write_spec
from test_faults import finished_is_kept, kill, wait  # noqa: F401 (a fixture)

from rayul.records.audited import AUDIT, BEFORE, REFUSAL, audit_journal, audited_adapter
from rayul.spec import load_spec

pytestmark = pytest.mark.slow

SECTIONS: dict[str, Any] = {
    "update": "full",
    "training": {"lr": {"float": [1e-4, 3e-3], "log": True}, "batch_size": 4, "steps": 12, "evaluate_every": 2},
    "control": {"criteria": [{"metric": "retain.prob", "at_least": "90% of baseline"}], "mixing": True},
    "search": {"sampler": "random", "trials": 4, "seed": 0},
    "resources": {"trials_per_gpu": 2},
    "finalists": {"n": 1, "seeds": 1, "metrics": ["es"], "attacks": ["quantise"]},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data_folder: Path) -> Path:
    made = tmp_path_factory.mktemp("full")
    write_spec(made / "tiny.yaml", tiny_folder, data_folder, **SECTIONS)
    return made


@pytest.fixture(scope="module")
def folder(place: Path) -> Path:
    done = sweep(place / "tiny.yaml", place)
    assert done.returncode == 0, done.stderr
    assert "no packs: update: full: each trial has its own weights" in done.stderr
    assert "from its record" not in done.stderr
    return place / "tiny"


def points(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "pareto.json").read_text())
    return {f"{p['trial_id']}-{p['step']}-{p['mixing']:g}": p for p in found}


def probability(model_folder: Path, results: Path, name: str) -> float:
    """<set>.prob by its definition, of what transformers alone loads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rayul.unlearn.data import load_sets
    from rayul.unlearn.tokens import encode_rows

    model, tokenizer = (kind.from_pretrained(model_folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    found = []
    for e in encode_rows(tokenizer, None, load_sets(load_spec(results / "spec.yaml").data)[name]):
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([e.ids])).logits[0].log_softmax(-1)
        found.append(float(torch.stack([logp[t - 1, e.ids[t]] for t in range(e.start, e.stop)]).mean().exp()))
    return sum(found) / len(found)


def test_every_point_of_the_front_is_a_model_that_scores_as_recorded(folder: Path) -> None:
    found = points(folder)
    assert any(point["mixing"] < 1 for point in found.values()), "the space must hold settings that go too far"
    assert {path.name for path in (folder / "adapters").iterdir()} == set(found)
    for name, point in found.items():
        saved = folder / "adapters" / name
        assert (saved / "model.safetensors").exists()
        assert not (saved / "adapter_config.json").exists()
        note = json.loads((saved / "rayul.json").read_text())
        assert (note["verified"], note["largest_difference"]) == (True, 0)
        assert probability(saved, folder, "forget") == pytest.approx(point["metrics.forget.prob"], rel=1e-5)
        report = point["metrics.retain_report.prob"]
        assert probability(saved, folder, "retain_report") == pytest.approx(report, rel=1e-5)
    assert "Do the exported models give the recorded numbers?" in (folder / "report.html").read_text()


def test_a_driver_that_is_killed_goes_on(kill: Any, place: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "tiny"
    driver = start(place / "tiny.yaml", tmp_path)
    wait(lambda: len(rows(folder)) >= 12, driver)
    kill(driver)
    before = (folder / "evaluations.jsonl").read_bytes().split(b"\n")[:-1]
    again = sweep(place / "tiny.yaml", tmp_path, "--resume")
    assert again.returncode == 0, again.stderr
    finished_is_kept(before, folder)
    assert set(ended(folder).values()) <= {"completed", "pruned"}
    assert set(ended(folder)) == {f"{n:04d}" for n in range(4)}
    assert all(json.loads((folder / "adapters" / n / "rayul.json").read_text())["verified"] for n in points(folder))


def test_a_point_is_exported_and_evaluated(folder: Path, tmp_path: Path) -> None:
    def rayul(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rayul", *argv]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    name, point = next((n, p) for n, p in points(folder).items() if p["mixing"] < 1)
    chosen = ("export", str(folder), "--trial", point["trial_id"], "--step", str(point["step"]), "--out", "forgotten")
    refused = rayul(*chosen, "--merge")
    assert refused.returncode == 2
    assert f"{name} is a whole model, so there is nothing to merge" in refused.stderr
    done = rayul(*chosen)
    assert done.returncode == 0, done.stderr
    assert "every metric is within 0 of its record" in done.stdout
    card = (tmp_path / "forgotten" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "update: full" in card
    assert not {"LoRA", "peft installed", "adapter"} & set(card.replace("\n", " ").split())
    code = card.split("```python\n")[1].split("```")[0]
    alone = f"import sys\n{code}\nassert not any(name.split('.')[0] in ('peft', 'rayul') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", alone], cwd=tmp_path, check=True)
    data = str(load_spec(folder / "spec.yaml").data.folder)  # type: ignore[union-attr]
    for where in ("forgotten", str(folder / "adapters" / name)):
        scored = rayul("evaluate", where, "--data", data, "--metrics", "prob,em", "--output", "scored.json")
        assert scored.returncode == 0, scored.stderr
        values = json.dumps(json.loads((tmp_path / "scored.json").read_text()))
        assert f"{point['metrics.forget.prob']:.4g}"[:6] in values


def test_the_audit_trains_and_attacks_whole_models(folder: Path, tmp_path: Path) -> None:
    lines = list(audit_journal(folder))
    assert {row.attack for row in lines} == {BEFORE, "quantise"}
    assert all(row.scored for row in lines), [row.reason for row in lines]
    (finalist,) = {row.subject for row in lines} - {"baseline", REFUSAL}
    for subject in (finalist, REFUSAL):
        row = next(r for r in lines if r.subject == subject and r.attack == BEFORE)
        saved = audited_adapter(folder / AUDIT, subject, row.seed)
        assert (saved / "model.safetensors").exists()
        found = probability(saved, folder, "retain_report")
        assert found == pytest.approx(row.scored[0].metrics["retain_report.prob"], rel=1e-5)
    shutil.copytree(folder, tmp_path / "tiny")
    again = subprocess.run(
        [sys.executable, "-m", "rayul", "audit", str(tmp_path / "tiny"), "--attacks", "quantise,noise"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert {row.attack for row in audit_journal(tmp_path / "tiny")} == {BEFORE, "quantise", "noise"}
