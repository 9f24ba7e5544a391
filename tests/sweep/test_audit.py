"""Audits of a real sweep on the tiny model, from the command line: what they leave, resumed, repeated, enlarged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from driver import sweep, write_spec

from rayul.records.audited import AUDIT, REFUSAL, Audited, audit_journal, audited_adapter
from rayul.report import load_results
from rayul.sweep.audit import FRESH

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data_folder: Path) -> Path:
    """A sweep whose spec asks for one finalist with two seeds."""
    place = tmp_path_factory.mktemp("audit")
    finalists: dict[str, Any] = {"n": 1, "seeds": 2, "metrics": ["es"], "attacks": ["quantise", "paraphrase"]}
    spec = write_spec(place / "tiny.yaml", tiny_folder, data_folder, finalists=finalists)
    finished = sweep(spec, place)
    assert finished.returncode == 0, finished.stderr
    return place / "tiny"


def audit(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *flags), capture_output=True, text=True, timeout=280, check=False)


def command(folder: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "rayul", "audit", str(folder), *flags]


def lines(folder: Path) -> list[Audited]:
    return list(audit_journal(folder))


def test_a_sweep_with_finalists_ends_with_their_audit(folder: Path) -> None:
    rows = lines(folder)
    seed = load_results(folder).seed
    (finalist,) = {row.subject for row in rows} - {"baseline", REFUSAL}
    assert {row.seed for row in rows if row.subject == finalist} == {seed + FRESH, seed + FRESH + 1}
    assert {row.attack for row in rows if row.subject == finalist} == {"", "quantise", "paraphrase"}
    for row in rows:
        if row.attack == "paraphrase":
            assert row.reason == "no forget row has a paraphrased_question"
        else:
            assert row.scored
        if row.attack == "":
            assert {"retain_report.prob", "general.prob", "forget.es"} <= set(row.scored[0].metrics)
            assert set(row.scored[0].values) == {
                f"{s}.{m}" for s in ("forget", "retain", "general", "retain_report") for m in ("es", "prob", "em")
            }
    assert {"verdict.json", "finalists.parquet", "attacks.parquet"} <= {p.name for p in (folder / "audit").iterdir()}
    assert 'id="audit"' in (folder / "report.html").read_text()


def test_an_audited_adapter_scores_as_its_line_says(folder: Path) -> None:
    """Loaded by PEFT on the bare model, scored without any of the audit's own code."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rayul.spec import load_spec
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.tokens import encode_rows

    spec = load_spec(folder / "spec.yaml")
    row = next(r for r in lines(folder) if r.subject not in ("baseline", REFUSAL) and r.attack == "")
    base = AutoModelForCausalLM.from_pretrained(spec.model.path)
    model = PeftModel.from_pretrained(base, audited_adapter(folder / AUDIT, row.subject, row.seed)).eval()
    tokenizer = AutoTokenizer.from_pretrained(spec.model.path)
    for i, e in enumerate(encode_rows(tokenizer, None, load_sets(spec.data)["retain_report"])):
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([e.ids])).logits[0].log_softmax(-1)
        own = [float(logp[t - 1, e.ids[t]]) for t in range(e.start, e.stop)]
        probability = float(torch.tensor(own).mean().exp())
        assert row.scored[0].values["retain_report.prob"][i] == pytest.approx(probability, rel=1e-3)


def test_fresh_seeds_are_no_seeds_of_the_search_and_differ_from_each_other(folder: Path) -> None:
    results = load_results(folder)
    used = {e.seed for e in results.evaluations}
    runs = [row for row in lines(folder) if row.subject not in ("baseline", REFUSAL) and row.attack == ""]
    assert used.isdisjoint(row.seed for row in runs)
    assert runs[0].scored[0].metrics["forget.prob"] != runs[1].scored[0].metrics["forget.prob"]


def test_asking_again_computes_nothing_and_asking_for_more_only_what_is_new(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, copy := tmp_path / "tiny")
    before = (copy / "audit" / "evaluations.jsonl").read_bytes()
    again = audit(copy)
    assert again.returncode == 0, again.stderr
    assert (copy / "audit" / "evaluations.jsonl").read_bytes() == before
    assert again.stdout.splitlines()[-1] == str(copy / "report.html")
    more = audit(copy, "--seeds", "3")
    assert more.returncode == 0, more.stderr
    after = (copy / "audit" / "evaluations.jsonl").read_bytes()
    assert after.startswith(before)
    added = lines(copy)[len(before.splitlines()) :]
    assert {(row.seed - FRESH, row.attack) for row in added} == {(2, ""), (2, "quantise"), (2, "paraphrase")}


def test_killed_at_any_line_it_goes_on_and_ends_with_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, copy := tmp_path / "tiny", ignore=shutil.ignore_patterns("audit"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(copy), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    journal = copy / "audit" / "evaluations.jsonl"
    while process.poll() is None and not (journal.exists() and len(lines(copy)) >= 3):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    cut = journal.read_bytes()
    finished = audit(copy)
    assert finished.returncode == 0, finished.stderr
    assert journal.read_bytes().startswith(cut[: cut.rfind(b"\n") + 1])
    undisturbed, resumed = ({row.key: row.scored for row in lines(place)} for place in (folder, copy))
    assert resumed == undisturbed


def test_changed_rows_and_bad_options_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, copy := tmp_path / "tiny")
    manifest = json.loads((copy / "run.json").read_text())
    manifest["data"]["forget"]["sha256"] = "other"
    (copy / "run.json").write_text(json.dumps(manifest))
    changed = audit(copy, "--seeds", "9")
    assert changed.returncode == 2
    assert "the rows of forget have changed" in changed.stderr
    unknown = audit(folder, "--attacks", "relern")
    assert unknown.returncode == 2
    assert "did you mean relearn" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    assert audit(tmp_path / "nothing").returncode == 2


def test_calibration_is_found_anew_for_each_seed(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> None:
    control = {"criteria": [{"metric": "retain.prob", "at_least": "90% of baseline"}], "mixing": True}
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, control=control)
    assert sweep(spec, tmp_path).returncode == 0
    finished = audit(tmp_path / "tiny", "--n", "1", "--seeds", "3", "--metrics", "es", "--attacks", "none")
    assert finished.returncode == 0, finished.stderr
    asked = json.loads((tmp_path / "tiny" / "audit" / "audit.json").read_text())
    assert [point["recalibrated"] for point in asked["finalists"].values()] == [True]
    limit = 0.9 * load_results(tmp_path / "tiny").baseline.metrics["retain.prob"]
    for row in lines(tmp_path / "tiny"):
        if row.subject != "baseline":
            assert row.scored[0].metrics["retain.prob"] >= limit - 1e-4
            assert 0 <= row.mixing <= 1
    assert "it was not attacked" in finished.stdout


def test_an_audit_of_a_sweep_that_a_probe_steers(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> None:
    """The probe's own metric is measured on every seed, and returns are judged by what attacks measure, forget.es."""
    probes = {"asked": {"forget": str(data_folder / "forget.jsonl"), "metrics": ["prob", "rouge"], "max_new_tokens": 4}}
    objectives = {"asked_forget.prob": "minimize", "retain.prob": "maximize"}
    small = {"sampler": "random", "trials": 3, "seed": 0}
    spec = write_spec(
        tmp_path / "tiny.yaml", tiny_folder, data_folder, probes=probes, objectives=objectives, search=small
    )
    assert sweep(spec, tmp_path).returncode == 0
    finished = audit(tmp_path / "tiny", "--n", "1", "--seeds", "2", "--metrics", "es", "--attacks", "quantise")
    assert finished.returncode == 0, finished.stderr
    rows = lines(tmp_path / "tiny")
    (finalist,) = {row.subject for row in rows} - {"baseline", REFUSAL}
    forgotten = [
        row.scored[0].metrics["asked_forget.prob"] for row in rows if row.subject == finalist and not row.attack
    ]
    (before,) = (row.scored[0] for row in rows if row.subject == "baseline" and not row.attack)
    assert len(forgotten) == 2
    assert max(forgotten) < before.metrics["asked_forget.prob"]
    assert len(before.values["asked_forget.rouge"]) == len((data_folder / "forget.jsonl").read_text().splitlines())
    verdict = json.loads((tmp_path / "tiny" / "audit" / "verdict.json").read_text())["verdicts"][0]
    assert f"{finalist}: forgets" in verdict["sentence"]
    assert "of what is extractable" in verdict["sentence"]
    told = pq.read_table(tmp_path / "tiny" / "audit" / "finalists.parquet").to_pylist()
    (own,) = (row for row in told if row["metric"] == "asked_forget.prob")
    assert own["value"] == pytest.approx(sum(forgotten) / 2, rel=1e-4)  # rows are recorded rounded
    assert own["drawn"] == "seeds and rows"
    assert 'id="audit"' in (tmp_path / "tiny" / "report.html").read_text()
