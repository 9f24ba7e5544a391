"""`rayul status`: from the records alone, beside a running driver, at 80 columns, without ray or torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "pareto"))
from synthetic import SPEC, baseline, sweep, write_folder

from rayul.errors import RayulError
from rayul.records import FAILED, PRUNED, Ending
from rayul.records.attacked import Attacked, attack_journal
from rayul.records.certificate import Certificates, Dial, Margin, Reading, RowsRead, Walked, write_certificates
from rayul.report.status import read_status, status_lines
from rayul.sweep.lock import held, holder, is_held

Rayul = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def rayul(tmp_path: Path) -> Rayul:
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        code = f"""
import sys
from rayul.cli import main
sys.argv = ["rayul", *{list(argv)!r}]
try:
    main()
finally:
    heavy = sorted({{"torch", "ray", "transformers", "peft", "optuna", "datasets"}} & set(sys.modules))
    assert not heavy, heavy
"""
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=dict(os.environ),
        )

    return run


def study(folder: Path, ends: list[datetime], torn: bool = False) -> None:
    """The lines of Optuna's journal that tell the time, among others."""
    lines = [json.dumps({"op_code": 0, "study_name": "s"})]
    for number, end in enumerate(ends):
        start = (end - timedelta(seconds=7)).isoformat()
        lines.append(json.dumps({"op_code": 4, "study_id": 0, "datetime_start": start}))
        lines.append(json.dumps({"op_code": 6, "trial_id": number, "state": 1, "datetime_complete": end.isoformat()}))
    text = "\n".join(lines) + "\n" + ('{"op_code": 6, "datetime_comp' if torn else "")
    (folder / "study.journal").write_text(text)


def test_a_running_sweep_with_half_a_last_line(tmp_path: Path, rayul: Rayul) -> None:
    rows = sweep(20)
    folder = write_folder(tmp_path / "s", rows)
    with open(folder / "evaluations.jsonl", "a") as file:
        file.write('{"trial_id": "0020", "step": 5, "metr')
    now = datetime.now(UTC)
    study(folder, [now - timedelta(seconds=30 * k) for k in range(20)], torn=True)
    before = (folder / "evaluations.jsonl").read_bytes()
    with held(folder):
        assert is_held(folder)
        done = rayul("status", "s")
    assert not is_held(folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "synthetic: running"
    ended = [e for e in rows if isinstance(e, Ending)]
    assert f"{len(ended)}/64 ended" in lines[1]
    pruned = sum(e.state == PRUNED for e in ended)
    assert f"{pruned} pruned" in lines[1]
    assert any(line.split() == [str(pruned), "retain.es", "≥", "0.864"] for line in lines)
    assert "a trial every 30 s" in done.stdout
    assert f"about {(64 - len(ended)) * 30 / 60:.3g} min left" in done.stdout
    assert (folder / "evaluations.jsonl").read_bytes() == before


def test_nobody_holds_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", sweep(20))
    status = read_status(folder, is_held(folder))
    assert status.phase == "stopped, 44 to go: continue with --resume"
    assert status.seconds_left is None
    whole = write_folder(tmp_path / "t", sweep(20), SPEC.replace("trials: 64", "trials: 20"))
    assert read_status(whole, False).phase == "finished"
    assert read_status(whole, True).phase.startswith("finishing")


def test_trials_without_an_ending_run_only_where_somebody_holds_the_folder(tmp_path: Path) -> None:
    rows = [row for row in sweep(20) if not (isinstance(row, Ending) and row.trial_id == "0019")]
    folder = write_folder(tmp_path / "s", rows)
    assert read_status(folder, True).states["running"] == 1
    assert read_status(folder, False).states["unfinished"] == 1
    assert "running" not in read_status(folder, False).states


def test_a_time_limit_ends_it_and_is_named(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    began, ended = (now - timedelta(seconds=100)).isoformat(), (now - timedelta(seconds=40)).isoformat()
    runs = f"provenance:\n  runs:\n    '1': {{began: '{began}', ended: '{ended}', stopped: time is up}}\n"
    spec = SPEC.split("provenance:")[0].replace("trials: 64,", "trials: 64, time_limit: 2m,") + runs
    folder = write_folder(tmp_path / "s", sweep(20), spec)
    study(folder, [now - timedelta(seconds=30 * k) for k in range(20)])
    assert read_status(folder, False).phase == "stopped (time is up), 44 to go: continue with --resume"
    assert read_status(folder, True, now).seconds_left == pytest.approx(60)


def test_throughput_is_that_of_the_latest_trials(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", sweep(16))
    now = datetime.now(UTC)
    yesterday = [now - timedelta(days=1, seconds=500 * k) for k in range(5)]
    study(folder, [*yesterday, *(now - timedelta(seconds=4 * k) for k in range(11))])
    assert read_status(folder, True).seconds_per_trial == pytest.approx(4)
    (folder / "study.journal").unlink()
    assert read_status(folder, True).seconds_per_trial is None


def test_a_grid_ends_with_its_cells(tmp_path: Path) -> None:
    spec = SPEC.replace("sampler: tpe", "sampler: grid").replace("{float: [0.0, 4.0]}", "{choice: [1.0]}")
    spec = spec.replace("{float: [1e-4, 5e-3], log: true}", "1e-3")
    folder = write_folder(tmp_path / "s", sweep(6), spec)
    study(folder, [datetime.now(UTC)] * 6)
    assert read_status(folder, False).total == 6


def test_failures_and_odd_prunings_are_named(tmp_path: Path) -> None:
    rows = [
        baseline(),
        Ending("0000", PRUNED, "stall", "the calibrated forgetting no longer improves"),
        Ending("0001", FAILED, "out of memory", "out of memory:\n" + "x" * 200),
        *(Ending(f"{n:04d}", PRUNED, "dominance", f"dominance at step {n}: with 9{n}% kept it has") for n in (2, 3)),
        *(Ending(f"{n:04d}", FAILED, "diverged", f"diverged: step {n}: loss nan") for n in (4, 5)),
        Ending("0006", PRUNED, "retain.es", "retain.es 0.2 < 0.864 (90% of baseline) at step 10"),
    ]
    lines = status_lines(read_status(write_folder(tmp_path / "s", rows), False))
    assert "     1  stall" in lines
    assert "     2  dominance" in lines
    assert "     1  retain.es ≥ 0.864" in lines
    assert "     2  diverged: step 4: loss nan" in lines
    assert any(line.startswith("     1  out of memory: xxx") and line.endswith("…") for line in lines)
    assert max(map(len, lines)) <= 80


def test_a_sweep_that_only_just_began(tmp_path: Path, rayul: Rayul) -> None:
    folder = tmp_path / "s"
    with held(folder):
        done = rayul("status", "s")
    assert done.stdout == "s: starting, the reference models are being measured\n"
    lines = status_lines(read_status(write_folder(folder, [baseline()]), True))
    assert "no evaluation after step 0 yet" in lines


def test_certify_is_not_taken_for_the_end_of_the_sweep(tmp_path: Path, rayul: Rayul) -> None:
    folder = write_folder(tmp_path / "s", sweep(64))
    with held(folder, command="certify"):
        while holder(folder) != "certify":
            time.sleep(0.01)
        assert rayul("status", "s").stdout.startswith("synthetic: certify is running: the certify rows are read\n")
        walk = (Walked(1.0, 0.3, (Margin("retain.es", True, True, 0.9, 0.9, 0.8, 0.1),)),)
        rows = (RowsRead("retain_certify", 20, True, 100, "ab" * 32),)
        dials = (Dial("0003", 30, 1.0, (1.0,), walk),)
        read = Reading("2026-11-29T10:00:00+00:00", 0.1, rows, ("retain.es ≥ 0.9",), (), dials, finished=True)
        write_certificates(folder, Certificates((read,)))
        noise = [Attacked("m", "noise", variant) for variant in ("1", "2")]
        attack_journal(folder).append(Attacked("m", "fine-tune", "own rows, lr 1", reason="none"), *noise)
        assert rayul("status", "s").stdout.startswith("synthetic: certify is running: 2 attacks tried so far\n")
    assert holder(folder) == ""


def test_errors(tmp_path: Path, rayul: Rayul) -> None:
    done = rayul("status", "nowhere")
    assert done.returncode == 2
    assert "nowhere/spec.yaml: no such file" in done.stderr
    (tmp_path / "file").touch()
    done = rayul("status", str(tmp_path / "file"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path / 'file'} cannot be read: Not a directory\n  hint: ")
    with pytest.raises(RayulError, match="no evaluation of the baseline"):
        read_status(write_folder(tmp_path / "s", []), False)


def test_where_no_lock_can_be_looked_at_nobody_is_assumed(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "absent" / "s")
