"""One sweep from the command line, and everything it leaves behind."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pyarrow.parquet as pq
import pytest
import yaml
from columns import explained, written
from driver import endings, key, lines, rows, sweep, write_spec

from rayul.spec import load_spec

pytestmark = pytest.mark.slow

FILES = {
    "spec.yaml",
    "run.json",
    "evaluations.jsonl",
    "evaluations.parquet",
    "trials.parquet",
    "pareto.parquet",
    "pareto.csv",
    "pareto.json",
    "study.journal",
    "adapters",
    "report.html",
}


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data_folder: Path) -> Path:
    """With paths from the current folder, which is not that of a trial."""
    model, data = (Path(os.path.relpath(folder)) for folder in (tiny_folder, data_folder))
    return write_spec(tmp_path_factory.mktemp("spec") / "tiny.yaml", model, data)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, spec_file: Path) -> subprocess.CompletedProcess[str]:
    results = tmp_path_factory.mktemp("results")
    finished = sweep(spec_file, results)
    assert finished.returncode == 0, finished.stderr
    finished.folder = results / "tiny"  # type: ignore[attr-defined]
    return finished


@pytest.fixture
def folder(done: Any) -> Path:
    return Path(done.folder)


def test_it_leaves_exactly_these_files_and_says_where_the_report_is(done: Any, folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == FILES
    assert done.stdout.splitlines()[-1] == str(folder / "report.html")
    assert " at a time" in done.stderr
    assert "no GPU here" in done.stderr


def test_the_journal_has_every_row_once_and_each_trial_one_ending(folder: Path) -> None:
    journal = rows(folder)
    assert len({key(row) for row in journal}) == len(journal)
    trials = {row["trial_id"] for row in journal if row["params"]}
    assert trials == {f"{n:04d}" for n in range(6)}
    for trial in trials:
        mine = [line for line in lines(folder) if line["trial_id"] == trial]
        assert ["step" in line for line in mine] == [True] * (len(mine) - 1) + [False], "the ending comes last"
        assert mine[-1]["state"] in ("completed", "pruned", "failed")
        assert [row["step"] for row in mine[:-1]] == sorted(row["step"] for row in mine[:-1])
    assert {row["trial_id"] for row in journal if not row["params"]} == {"baseline"}


def test_a_pruned_trial_names_criterion_amount_and_step(folder: Path) -> None:
    baseline = rows(folder)[0]["metrics"]["retain.prob"]
    pruned = [end for end in endings(folder).values() if end["state"] == "pruned"]
    assert pruned, "the space must hold settings that break the limit"
    for end in pruned:
        row = [row for row in rows(folder) if row["trial_id"] == end["trial_id"]][-1]
        value = row["metrics"]["retain.prob"]
        assert value < 0.9 * baseline
        assert not row["feasible"]
        assert row["violation"]["retain.prob"] == pytest.approx((0.9 * baseline - value) / (0.9 * baseline))
        assert end["rule"] == "retain.prob"
        assert end["reason"].startswith(f"retain.prob {value:.4g} < {0.9 * baseline:.4g} (90% of baseline)")
        assert end["reason"].endswith(f"at step {row['step']}")


def test_the_columns_are_those_scripts_are_written_against(folder: Path) -> None:
    names = set(pq.read_table(folder / "evaluations.parquet").column_names)
    assert {"trial_id", "step", "mixing", "seed", "feasible", "violation.retain.prob"} <= names
    assert {"params.training.lr", "params.method.name", "metrics.forget.es", "metrics.retain.es"} <= names
    trials = pq.read_table(folder / "trials.parquet").to_pylist()
    assert {t["trial_id"] for t in trials} == {f"{n:04d}" for n in range(6)}
    assert {t["state"] for t in trials} <= {"completed", "pruned", "failed"}
    assert written(folder) == explained(), "each is on the page, and the page has no other"


def test_every_point_of_the_front_is_feasible_exported_and_verified(folder: Path, tiny_folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    points = pq.read_table(folder / "pareto.parquet").to_pylist()
    assert points
    baseline = rows(folder)[0]["metrics"]
    for point in points:
        assert point["feasible"]
        assert point["step"] > 0
        assert point["metrics.retain.prob"] >= 0.9 * baseline["retain.prob"]
        assert point["metrics.forget.prob"] <= 0.95 * baseline["forget.prob"]
        assert math.isfinite(point["metrics.retain_report.prob"])
    folders = {p.name for p in (folder / "adapters").iterdir()}
    assert folders == {f"{p['trial_id']}-{p['step']}-{p['mixing']:g}" for p in points}
    for name in folders:
        note = yaml.safe_load((folder / "adapters" / name / "rayul.json").read_text())
        assert note["verified"] is True
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder / "adapters" / name)


def test_nothing_dominates_a_point_of_the_front(folder: Path) -> None:
    points = pq.read_table(folder / "pareto.parquet").to_pylist()
    feasible = [row for row in rows(folder) if row["feasible"] and row["step"]]
    for p in points:
        f, r = p["metrics.forget.prob"], p["metrics.retain.prob"]
        for row in feasible:
            g, s = row["metrics"]["forget.prob"], row["metrics"]["retain.prob"]
            assert not (g <= f and s >= r and (g < f or s > r))


def test_spec_yaml_is_the_resolved_spec_and_run_json_names_where_the_numbers_come_from(
    folder: Path, spec_file: Path
) -> None:
    from rayul.spec import difference

    assert difference(load_spec(folder / "spec.yaml"), load_spec(spec_file)) == []
    assert "provenance" not in yaml.safe_load((folder / "spec.yaml").read_text())
    assert {"command", "versions", "commit", "hardware"} <= set(json.loads((folder / "run.json").read_text()))


def test_the_report_is_made_again_from_the_records_alone(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    for path in copy.iterdir():
        if path.name not in ("spec.yaml", "evaluations.jsonl", "adapters"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = subprocess.run(
        [sys.executable, "-m", "rayul", "report", str(copy)], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == str(copy / "report.html")
    for name in ("evaluations.parquet", "trials.parquet", "pareto.parquet"):
        made, before = pq.read_table(copy / name), pq.read_table(folder / name)
        assert made.schema.equals(before.schema)
        # The standard error over one group is NaN, which `Table.equals` takes for different from itself.
        assert repr(made.to_pylist()) == repr(before.to_pylist())


def test_an_existing_folder_is_refused_and_left_as_it_is(done: Any, folder: Path, spec_file: Path) -> None:
    before = (folder / "evaluations.jsonl").read_bytes()
    again = sweep(spec_file, folder.parent)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert "--resume" in again.stderr
    assert (folder / "evaluations.jsonl").read_bytes() == before


def test_a_resume_with_a_changed_spec_is_refused_with_the_difference(folder: Path, spec_file: Path) -> None:
    again = sweep(spec_file, folder.parent, "--resume", "--set", "training.batch_size=3")
    assert again.returncode == 2
    assert "training.batch_size: 4 -> 3" in again.stderr


def test_a_resume_of_nothing_is_refused(spec_file: Path, tmp_path: Path) -> None:
    again = sweep(spec_file, tmp_path, "--resume")
    assert again.returncode == 2
    assert "nothing to resume" in again.stderr
    assert "--resume-if-any" in again.stderr
    assert not (tmp_path / "tiny").exists()


def test_a_finished_sweep_can_be_given_more_trials(folder: Path, spec_file: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "tiny")
    again = sweep(spec_file, tmp_path, "--resume", "--trials", "8")
    assert again.returncode == 0, again.stderr
    before, after = (
        p.read_text().splitlines() for p in (folder / "evaluations.jsonl", tmp_path / "tiny/evaluations.jsonl")
    )
    assert after[: len(before)] == before
    assert {row["trial_id"] for row in rows(tmp_path / "tiny") if row["params"]} == {f"{n:04d}" for n in range(8)}


def test_the_study_opens_with_optuna(folder: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna.load_study(
        study_name="tiny", storage=JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    )
    assert len(study.trials) == 6
    assert all(t.state.is_finished() for t in study.trials)


def test_the_study_opens_in_optuna_dashboard(folder: Path) -> None:
    """Over HTTP, as its page asks: both objectives of every trial, and which of them broke a limit."""
    dashboard = pytest.importorskip("optuna_dashboard")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    app = dashboard.wsgi(JournalStorage(JournalFileBackend(str(folder / "study.journal"))))
    server = make_server("127.0.0.1", 0, app, handler_class=Silent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def get(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=30) as answer:
            return json.loads(answer.read())

    try:
        (study,) = get("/api/studies")["study_summaries"]
        detail = get(f"/api/studies/{study['study_id']}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert detail["directions"] == ["minimize", "maximize"]
    assert detail["objective_names"] == ["forget.prob", "retain.prob"]
    assert len(detail["trials"]) == 6
    by_key = {key(row): row for row in rows(folder)}
    most = 0.95 * next(row["metrics"]["forget.prob"] for row in by_key.values() if row["trial_id"] == "baseline")
    broken = set()
    for trial in detail["trials"]:
        notes = {note["key"]: note["value"] for note in trial["user_attrs"]}
        row = by_key[(f"{trial['number']:04d}", int(notes["step"]), float(notes["mixing"]))]
        assert trial["values"] == [row["metrics"]["forget.prob"], row["metrics"]["retain.prob"]]
        assert notes["reason"] == endings(folder)[row["trial_id"]]["reason"]
        (limit,) = trial["constraints"]
        mine = [one for one in by_key.values() if one["trial_id"] == row["trial_id"] and one["step"] > 0]
        solved = any(one["feasible"] and one["metrics"]["forget.prob"] <= most for one in mine)
        assert limit == min(row["violation"]["retain.prob"], 0.0 if solved else math.inf)
        broken |= {limit > 0}
    assert broken == {True, False}, "the space must hold settings of both kinds"


class Silent(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_results_folder_is_refused(spec_file: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    refused = sweep(spec_file, tmp_path / "locked")
    assert refused.returncode == 1
    assert "--results" in refused.stderr


def test_a_results_path_that_is_a_file_is_refused(spec_file: Path, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    refused = sweep(spec_file, tmp_path / "results")
    assert refused.returncode in (1, 2)
    assert "Traceback" not in refused.stderr
    assert "hint:" in refused.stderr


@pytest.mark.parametrize(
    ("criterion", "said"),
    [
        ({"metric": "retain.es", "at_least": "90% of baseline"}, "the baseline is 0"),
        ({"metric": "retain.prob", "at_least": 0.99}, "does not keep retain.prob ≥ 0.99: its retain.prob is"),
    ],
)
def test_a_limit_that_the_baseline_does_not_bear_is_refused_before_any_trial(
    tiny_folder: Path, data_folder: Path, tmp_path: Path, criterion: dict[str, Any], said: str
) -> None:
    refused = sweep(write_spec(tmp_path / "zero.yaml", tiny_folder, data_folder, control=[criterion]), tmp_path)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert not (tmp_path / "tiny").exists(), "the corrected spec must find the way free"


def test_a_model_that_has_nothing_to_forget_is_refused_before_any_trial(
    tiny_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    objectives = {"forget.es": "minimize", "retain.prob": "maximize"}
    spec = write_spec(tmp_path / "zero.yaml", tiny_folder, data_folder, objectives=objectives)
    refused = sweep(spec, tmp_path)
    assert refused.returncode == 2, refused.stderr
    assert "objective forget.es is 0 for the model before unlearning" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "tiny").exists()


def test_a_ray_client_address_is_refused_and_ray_job_submit_named(spec_file: Path, tmp_path: Path) -> None:
    refused = sweep(spec_file, tmp_path, "--address", "ray://127.0.0.1:10001")
    assert refused.returncode == 2
    assert "ray job submit" in refused.stderr
