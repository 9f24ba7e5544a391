"""A results folder in, tables and summary out: from the records alone."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic import BASE, SPEC, baseline, ends, evaluation, evaluations_of, oracle, sweep, write_folder

from rayul.errors import InputError, RayulError
from rayul.records import COMPLETED, FAILED, PRUNED, UNSTEADY, Ending, Evaluation, Record, to_json
from rayul.report import front_lines, load_results, summarise, summary_of

DERIVED = {
    "evaluations.parquet",
    "trials.parquet",
    "pareto.parquet",
    "pareto.csv",
    "pareto.json",
    "report.html",
}


def small(folder: Path) -> Path:
    """Three trials: one completed with a solution, one pruned after a better one, one failed."""
    params = [{"method.name": "gd", "training.lr": 1e-3 * (i + 1), "lora.r": 4} for i in range(3)]
    rows = [
        baseline(),
        oracle(),
        evaluation("0000", 5, 0.8, 0.94, params=params[0], train_seconds=2.0),
        *ends(evaluation("0000", 10, 0.6, 0.92, params=params[0], train_seconds=4.0)),
        evaluation("0001", 5, 0.5, 0.88, params=params[1], train_seconds=2.0),
        *ends(evaluation("0001", 10, 0.2, 0.60, params=params[1], train_seconds=4.5), PRUNED, "retain.es", "too low"),
        Ending("0002", FAILED, "diverged", "NaN loss", params=params[2], train_seconds=1.0),
    ]
    return write_folder(folder, rows)


def export(folder: Path, e: Evaluation, verified: bool = True, report: float = 0.9) -> Path:
    path = folder / "adapters" / f"{e.trial_id}-{e.step}-{e.mixing:g}"
    path.mkdir(parents=True)
    note = {
        "evaluation": json.loads(to_json(e)),
        "report_metrics": {"retain_report.es": report},
        "report_stderr": {"retain_report.es": 0.02},
        "verified": verified,
    }
    (path / "rayul.json").write_text(json.dumps(note), encoding="utf-8")
    return path


def test_summarise_writes_every_file_whole_and_nothing_else(tmp_path: Path) -> None:
    folder = small(tmp_path / "s")
    summarise(folder)
    assert {p.name for p in folder.iterdir()} == DERIVED | {"spec.yaml", "evaluations.jsonl"}


def test_summary_of_a_small_sweep_by_hand(tmp_path: Path) -> None:
    summary = summarise(small(tmp_path / "s"))
    assert summary.states == {"completed": 1, "pruned": 1, "failed": 1}
    assert [e.key for e in summary.front] == [("0001", 5, 1.0), ("0000", 10, 1.0), ("0000", 5, 1.0)]
    assert summary.best == summary.front[0]
    assert summary.best_forgotten == pytest.approx(1 - 0.5 / 0.98)
    x = [1 - f / 0.98 for f in (0.5, 0.6, 0.8)]
    y = [(r / 0.96 - 0.9) / 0.1 for r in (0.88, 0.92, 0.94)]
    assert summary.hypervolume == pytest.approx(x[0] * y[0] + x[1] * (y[1] - y[0]) + x[2] * (y[2] - y[1]))
    assert summary.history[-1] == (4, summary.hypervolume)
    assert summary.least_violating == []
    assert str(summary.limits[0]) == "retain.es ≥ 0.864"


def test_trials_table(tmp_path: Path) -> None:
    folder = small(tmp_path / "s")
    summarise(folder)
    rows = {r["trial_id"]: r for r in pq.read_table(folder / "trials.parquet").to_pylist()}
    assert rows["0001"]["forgotten"] == pytest.approx(1 - 0.5 / 0.98)
    assert {k: v for k, v in rows["0001"].items() if k != "forgotten"} == {
        "trial_id": "0001",
        "state": "pruned",
        "rule": "retain.es",
        "reason": "too low",
        "seed": 0,
        "params.method.name": "gd",
        "params.training.lr": 0.002,
        "params.lora.r": 4,
        "steps": 10,
        "evaluations": 2,
        "best_step": 5,
        "best_mixing": 1.0,
        "seconds": 4.5,
    }
    assert (rows["0002"]["state"], rows["0002"]["rule"], rows["0002"]["reason"]) == ("failed", "diverged", "NaN loss")
    assert (rows["0002"]["steps"], rows["0002"]["evaluations"], rows["0002"]["seconds"]) == (0, 0, 1.0)
    assert rows["0002"]["params.training.lr"] == 0.003
    assert rows["0002"]["best_step"] is None
    assert rows["0002"]["forgotten"] is None


def test_pareto_tables_agree_and_carry_adapter_and_report_rows(tmp_path: Path) -> None:
    folder = small(tmp_path / "s")
    first = summarise(folder).front[0]
    export(folder, first, report=0.87)
    (folder / "adapters" / "0000-10-1.0").mkdir()  # a folder without a note, mixing written another way
    summarise(folder)
    table = pq.read_table(folder / "pareto.parquet").to_pylist()
    assert [r["adapter"] for r in table] == ["adapters/0001-5-1", "adapters/0000-10-1.0", None]
    assert [r["metrics.retain_report.es"] for r in table] == [0.87, None, None]
    assert table[0]["metrics.forget.es"] == 0.5
    assert json.loads((folder / "pareto.json").read_text(encoding="utf-8")) == table
    with open(folder / "pareto.csv", newline="", encoding="utf-8") as file:
        for text, row in zip(csv.DictReader(file), table, strict=True):
            assert text.keys() == row.keys()
            assert float(text["metrics.retain.es"]) == row["metrics.retain.es"]


def test_evaluations_parquet_has_every_row_of_the_journal(tmp_path: Path) -> None:
    records = sweep(20)
    rows = evaluations_of(records)
    folder = write_folder(tmp_path / "s", records)
    summarise(folder)
    table = pq.read_table(folder / "evaluations.parquet").to_pylist()
    assert [(r["trial_id"], r["step"], r["mixing"]) for r in table] == [e.key for e in rows]
    assert [r["feasible"] for r in table] == [e.feasible for e in rows]


def test_it_runs_beside_a_sweep_whose_last_line_is_half_written(tmp_path: Path) -> None:
    folder = small(tmp_path / "s")
    with open(folder / "evaluations.jsonl", "ab") as file:
        file.write(b'{"trial_id": "0003", "st')
    before = (folder / "evaluations.jsonl").read_bytes()
    assert summarise(folder).states == {"completed": 1, "pruned": 1, "failed": 1}
    assert (folder / "evaluations.jsonl").read_bytes() == before


def test_a_trial_without_an_end_is_running(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", [baseline(), evaluation("0000", 5, 0.5, 0.9)])
    summary = summarise(folder)
    assert summary.states == {"completed": 0, "pruned": 0, "failed": 0, "running": 1}
    assert any("did not finish" in sentence for sentence in summary.warnings)


def test_nothing_feasible_is_said_and_ranked(tmp_path: Path) -> None:
    rows = [baseline(), *(e for i in range(3) for e in ends(evaluation(f"{i:04d}", 5, 0.2, 0.5 + i / 100), PRUNED))]
    summary = summarise(write_folder(tmp_path / "s", rows))
    assert summary.front == []
    assert summary.best is None
    assert summary.hypervolume == 0.0
    assert [e.trial_id for e in summary.least_violating] == ["0002", "0001", "0000"]
    assert "No solution" in front_lines(summary)[0]
    assert any("nothing is feasible" in sentence for sentence in summary.warnings)
    assert "Nothing was found within the limits" in summary.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "rows",
    [
        [baseline()],
        [baseline(), oracle()],
        [baseline(), Ending("0000", FAILED, "x", "x")],
        [baseline(), *ends(evaluation("0000", 5, math.nan, math.nan), FAILED)],
        [baseline(), *ends(evaluation("0000", 5, 0.97, 0.95))],
        [baseline({"forget.es": math.nan, "retain.es": 0.9}), *ends(evaluation("0000", 5, 0.5, 0.95))],
        [baseline({"forget.es": 0.0, "retain.es": 0.9}), *ends(evaluation("0000", 5, 0.0, 0.95))],
    ],
    ids=["baseline", "references", "failed", "nan", "nothing-forgotten", "nan-baseline", "zero-baseline"],
)
def test_poor_records_still_make_every_file(tmp_path: Path, rows: list[Record]) -> None:
    folder = write_folder(tmp_path / "s", rows)
    summary = summarise(folder)
    assert {p.name for p in folder.iterdir()} >= DERIVED
    assert summary.best is None
    assert front_lines(summary)


@pytest.mark.parametrize(
    ("objectives", "control"),
    [
        ("{forget.es: minimize}", "[]"),
        ("{forget.es: minimize}", "[{metric: retain.es, at_least: 0.8}]"),
        ("{retain.es: maximize}", "[]"),
        ("{forget.es: minimize, retain.es: maximize, general.es: maximize}", "[{metric: general.es, at_least: 0.7}]"),
        ("{forget.es: minimize, retain.es: maximize}", "[{metric: retain.es, at_least: {float: [0.5, 0.8]}}]"),
    ],
)
def test_any_number_of_objectives_and_searched_limits(tmp_path: Path, objectives: str, control: str) -> None:
    spec = SPEC.replace("{forget.es: minimize, retain.es: maximize}", objectives)
    start = spec.index("control:")
    spec = spec[:start] + f"control: {control}\n" + spec[spec.index("search:") :]
    summary = summarise(write_folder(tmp_path / "s", sweep(12), spec))
    assert summary.front
    assert 0 < summary.hypervolume <= 1
    assert summary.best in summary.front


def test_without_limits_the_best_is_the_most_of_both_not_a_ruined_model(tmp_path: Path) -> None:
    spec = SPEC.replace("control:\n  - {metric: retain.es, at_least: 90% of baseline, patience: 1}\n", "")
    rows = [
        baseline(),
        evaluation("0000", 5, 0.0, 0.01, feasible=True),
        evaluation("0001", 5, 0.3, 0.8, feasible=True),
        evaluation("0002", 5, 0.9, 0.96, feasible=True),
    ]
    summary = summarise(write_folder(tmp_path / "s", rows, spec))
    assert len(summary.front) == 3
    assert summary.best is not None
    assert summary.best.trial_id == "0001"


def test_front_lines_are_aligned_and_limited(tmp_path: Path) -> None:
    rows = [baseline(), *(evaluation(f"{i}", 5, 0.2 + i / 50, 0.87 + i / 300, mixing=0.5) for i in range(15))]
    summary = summarise(write_folder(tmp_path / "s", rows))
    lines = front_lines(summary, 4)
    assert len(lines) == 6
    assert len({len(line) for line in lines[:5]}) == 1
    assert "mixing" in lines[0]
    assert lines[-1].startswith("... and 11 more")


def test_missing_files_and_baseline_name_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"spec\.yaml: no such file"):
        summarise(tmp_path / "nothing")
    folder = write_folder(tmp_path / "s", [evaluation("0000", 5, 0.5, 0.9)])
    with pytest.raises(RayulError, match="no evaluation of the baseline") as error:
        summarise(folder)
    assert "--resume" in error.value.hint


def test_a_broken_adapter_note_names_its_file(tmp_path: Path) -> None:
    folder = small(tmp_path / "s")
    path = export(folder, evaluation("0001", 5, 0.5, 0.88))
    (path / "rayul.json").write_text("{", encoding="utf-8")
    with pytest.raises(RayulError, match=r"0001-5-1/rayul\.json"):
        summarise(folder)


def test_a_file_that_cannot_be_written_is_an_error_with_a_hint(tmp_path: Path) -> None:
    folder = small(tmp_path / "s")
    (folder / "trials.parquet").mkdir()
    with pytest.raises(RayulError, match="cannot write") as error:
        summarise(folder)
    assert "rayul report" in error.value.hint


def test_numbers_of_a_larger_sweep_follow_from_the_parquet_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", sweep(60))
    summary = summarise(folder)
    table = pq.read_table(folder / "evaluations.parquet").to_pandas()
    ok = table[table.feasible & (table.step > 0) & ~table.trial_id.isin(["baseline", "oracle"])]
    ok = ok[ok["metrics.forget.es"] <= 0.95 * BASE["forget.es"]]
    best = ok.loc[ok["metrics.forget.es"].idxmin()]
    assert summary.best is not None
    assert (summary.best.trial_id, summary.best.step) == (best.trial_id, best.step)
    pareto = pq.read_table(folder / "pareto.parquet").to_pandas()
    assert (pareto["metrics.retain.es"] >= 0.9 * BASE["retain.es"]).all()
    assert np.all(np.diff(pareto["metrics.forget.es"]) > 0)
    assert np.all(np.diff(pareto["metrics.retain.es"]) > 0)


def test_summary_of_writes_nothing(tmp_path: Path) -> None:
    folder = small(tmp_path / "s")
    summary_of(load_results(folder))
    assert {p.name for p in folder.iterdir()} == {"spec.yaml", "evaluations.jsonl"}


def test_reading_results_needs_no_torch_and_no_ray(tmp_path: Path) -> None:
    folder = small(tmp_path / "s")
    code = (
        "import sys, pathlib; from rayul.report import summarise; summarise(pathlib.Path(sys.argv[1]));"
        "print(sys.modules.keys() & {'torch', 'ray', 'transformers', 'peft', 'optuna', 'plotly.graph_objects'})"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_health_checks_see_what_they_are_for(tmp_path: Path) -> None:
    def titles(rows: Sequence[Record], verdict: str, spec: str = SPEC) -> dict[str, str]:
        """Trials without an ending are completed."""
        ended = {e.trial_id for e in rows if isinstance(e, Ending)}
        last = {e.trial_id: e for e in rows if isinstance(e, Evaluation) and not e.is_reference}
        rows = [*rows, *(e.ended(COMPLETED) for trial, e in last.items() if trial not in ended)]
        folder = write_folder(tmp_path / str(len(list(tmp_path.iterdir()))), rows, spec)
        return {c.title: c.sentence for c in summary_of(load_results(folder)).checks if c.verdict == verdict}

    ok = evaluation("0000", 5, 0.5, 0.92, params={"training.lr": 1e-3})

    # The limit is 0.096 under the baseline: a standard error of 0.2 on 120 rows cannot tell; 2,084 rows could.
    coarse = titles([baseline(), replace(ok, stderr={"forget.es": 0.03, "retain.es": 0.2})], "warning")
    assert f"{math.ceil(120 * (2 * 0.2 / 0.096) ** 2):,} rows" in coarse["Can the evaluation set resolve the limit?"]
    assert "Are results within noise of the limit?" in coarse
    untouched = [evaluation(f"1{i}", 5, 0.97, 0.96, stderr={"forget.es": 0.0, "retain.es": 0.0}) for i in range(30)]
    at_limit = [evaluation(f"2{i}", 5, 0.5, 0.87, stderr={"forget.es": 0.03, "retain.es": 0.2}) for i in range(10)]
    assert "Can the evaluation set resolve the limit?" in titles([baseline(), *untouched, *at_limit], "warning")
    fine = titles([baseline(), replace(ok, stderr={"forget.es": 0.03, "retain.es": 0.02})], "good")
    assert "Can the evaluation set resolve the limit?" in fine

    absolute = SPEC.replace("90% of baseline", "0.97")
    assert "already has 0.96" in titles([baseline(), ok], "problem", absolute)["Does the baseline keep the criteria?"]

    edge = replace(ok, params={"training.lr": 4.9e-3, "method.retain_weight": 2.0})
    assert "training.lr" in titles([baseline(), edge], "warning")["Is the front at the edge of the search space?"]
    assert "Is the front at the edge of the search space?" in titles([baseline(), ok], "good")

    twice = [baseline(), ok, replace(ok, trial_id="0001")]
    assert titles(twice, "warning")["Was anything tried twice?"].startswith("Yes: 1 trial of 2")
    assert "Was anything tried twice?" in titles([baseline(), ok, replace(ok, trial_id="0001", seed=1)], "good")

    early = [baseline(), ok, *ends(evaluation("0001", 5, 0.97, 0.5), PRUNED)]
    assert "1 of 1 pruned trial" in titles(early, "warning")["Did pruning fire before anything was forgotten?"]

    failed = [baseline(), *ends(ok, FAILED)]
    assert "1 of 1 trial failed" in titles(failed, "problem")["Did any trial fail, or not finish?"]

    folder = write_folder(tmp_path / "r", [baseline(BASE | {"retain_report.es": 0.95}), ok])
    export(folder, ok, verified=False, report=0.6)
    checks = {c.title: c for c in summary_of(load_results(folder)).checks}
    assert checks["Does retain_report.es agree with retain.es?"].verdict == "warning"
    assert checks["Do the exported adapters give the recorded numbers?"].verdict == "warning"


def test_calibration_reports_the_runs_in_which_nothing_survives(tmp_path: Path) -> None:
    rows = [
        baseline(),
        evaluation("0000", 5, 0.2, 0.5),
        evaluation("0000", 5, 0.6, 0.9, mixing=0.5, notes=(UNSTEADY,)),
        evaluation("0001", 5, 0.2, 0.1),
        evaluation("0001", 5, 0.98, 0.96, mixing=0.0),
    ]
    results = load_results(write_folder(tmp_path / "mixed", rows))
    (check,) = [c for c in summary_of(results).checks if "calibration" in c.title]
    assert "1 of 2 trials keep the limits at mixing 0 only" in check.sentence
    assert "the median mixing is 0.25" in check.sentence
    assert "In 1 trial a violation falls" in check.sentence
    plain = load_results(write_folder(tmp_path / "plain", rows[:2]))
    assert not [c for c in summary_of(plain).checks if "calibration" in c.title]


ONE_LIMIT = "control:\n  - {metric: retain.es, at_least: 90% of baseline, patience: 1}"


def test_the_best_at_each_target_is_named_in_the_report_and_on_the_terminal(tmp_path: Path) -> None:
    """Of a sweep with several shares; the numbers are those of its records."""
    spec = SPEC.replace(
        "control:\n  - {metric: retain.es, at_least: 90% of baseline, patience: 1}",
        "control: {tau: [0.5, 0.9, 0.97, 1]}",
    )
    # Forget by retain, of baselines 0.98 and 0.96.
    kept = {0.96: 0.7, 0.94: 0.5, 0.88: 0.3, 0.6: 0.1, 0.3: 0.0}
    rows = [
        evaluation("0003", 5 * i, forget, retain, mixing=1 / (1 + i), violation={}, feasible=retain >= 0.48)
        for i, (retain, forget) in enumerate(kept.items(), 1)
    ]
    folder = write_folder(tmp_path / "s", [baseline(), *rows], spec)
    summary = summarise(folder)
    found = {target.share: target.best.metrics["forget.es"] for target in summary.targets if target.best}
    assert found == {1.0: 0.7, 0.97: 0.5, 0.9: 0.3, 0.5: 0.1}
    assert [target.share for target in summary.targets] == [1.0, 0.97, 0.9, 0.5]
    assert "97.0% kept: 49.0% forgotten by 0003 at step 10, mixed at 0.333333" in front_lines(summary)
    page = summary.report.read_text()
    table = page[page.index('id="targets"') : page.index("</section>", page.index('id="targets"'))]
    assert table.count("<tr>") == 1 + 4
    for target in summary.targets:
        assert f"{target.forgotten:.1%}" in table


def test_a_target_that_nothing_keeps_says_so(tmp_path: Path) -> None:
    spec = SPEC.replace(
        "control:\n  - {metric: retain.es, at_least: 90% of baseline, patience: 1}", "control: {tau: [0.5, 1]}"
    )
    row = evaluation("0000", 5, 0.5, 0.7, violation={}, feasible=True)
    summary = summarise(write_folder(tmp_path / "s", [baseline(), row], spec))
    assert "100.0% kept: nothing was found" in front_lines(summary)
    assert "nothing was found" in summary.report.read_text()
    assert summarise(write_folder(tmp_path / "t", [baseline(), row])).targets == []
