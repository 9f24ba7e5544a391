"""`rayul repair`: what it sets aside, what it refuses, and a real sweep that is resumed after it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from driver import ended, key, rows, sweep, write_spec

from rayul.errors import InputError, RayulError
from rayul.pareto.front import front_of
from rayul.records import BASELINE, COMPLETED, Evaluation, Journal
from rayul.records.folder import load_records
from rayul.records.json_lines import sealed, unsealed
from rayul.spec import dump_yaml
from rayul.sweep.folder import held
from rayul.sweep.repair import repair

SEARCH = {"training": {"lr": {"float": [1e-4, 1e-2], "log": True}}, "search": {"sampler": "random", "trials": 4}}


@pytest.fixture
def sweep_of_four(make_spec: Any, begin: Any, baseline: Evaluation) -> Any:
    """Four trials, one after the other: of each the rows of steps 0, 5 and 10, and an ending."""
    made = begin(make_spec(**SEARCH), limit=4)
    made.journal.append(baseline)
    made.run(4)
    (made.folder / "spec.yaml").write_text(dump_yaml(made.spec.resolved()))
    return made


def change(folder: Path, at: int, old: bytes, new: bytes) -> None:
    path = folder / "evaluations.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert old in lines[at]
    lines[at] = lines[at].replace(old, new, 1)
    path.write_bytes(b"".join(lines))


def again(made: Any) -> list[str]:
    """Resume; returns the trials that were run."""
    made.open()
    ran = []
    while made.searcher.remaining:
        number, params = made.ask()
        made.end(number, params)
        ran.append(f"{number:04d}")
    return ran


def records(folder: Path) -> set[str]:
    """What the lines hold, whatever their order."""
    return {unsealed(line).decode() for line in (folder / "evaluations.jsonl").read_bytes().splitlines()}


@pytest.mark.parametrize("at", range(1, 17))
def test_a_changed_line_costs_its_trial_alone_which_runs_again_to_the_same_rows(sweep_of_four: Any, at: int) -> None:
    folder, before = sweep_of_four.folder, records(sweep_of_four.folder)
    change(folder, at, b'"train_seconds": 0.0', b'"train_seconds": 1.0')
    with pytest.raises(RayulError, match=rf"evaluations\.jsonl:{at + 1}: .*checksum differs") as caught:
        load_records(folder)
    assert "rayul repair" in caught.value.hint
    said: list[str] = []
    assert repair(folder, said.append)
    trial = f"{(at - 1) // 4:04d}"
    assert said[-1] == f"--resume runs again: {trial}"
    assert set(ended(folder)) == {"0000", "0001", "0002", "0003"} - {trial}
    rejected = (folder / "evaluations.jsonl.rejected").read_bytes().splitlines()
    assert len(rejected) == 4 - (at - 1) % 4, "the line, and those of its trial behind it"
    assert not repair(folder, said.append)
    assert again(sweep_of_four) == [trial]
    assert records(folder) == before


def test_a_line_that_nobody_can_tell_costs_the_trials_that_ran_at_that_moment(
    make_spec: Any, begin: Any, baseline: Evaluation, row: Any
) -> None:
    """Two trials take turns; then a third runs alone."""
    made = begin(make_spec(**SEARCH), limit=3)
    (made.folder / "spec.yaml").write_text(dump_yaml(made.spec.resolved()))
    made.journal.append(baseline)
    both = [made.ask(), made.ask()]
    for step in (0, 5, 10):
        made.journal.append(*(row(made.spec, n, step, 0.8 - step / 50, 0.5, params=p, seed=n) for n, p in both))
    for number, _ in both:
        made.journal.append(made.journal.of(f"{number:04d}")[-1].ended(COMPLETED))
        made.searcher.tell(number)
    made.run(1)
    path = made.folder / "evaluations.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(RayulError, match=r":4: it was written as line 5: lines were lost, doubled or moved"):
        Journal(path)
    assert repair(made.folder, str)
    assert [(e.trial_id, e.step) for e in Journal(path)] == [
        (BASELINE, 0),
        *(("0000", 0), ("0001", 0)),
        *(("0002", step) for step in (0, 5, 10)),
    ]
    assert again(made) == ["0000", "0001"]


def test_copies_and_lines_in_the_wrong_order_cost_nothing(sweep_of_four: Any) -> None:
    path = sweep_of_four.folder / "evaluations.jsonl"
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[1], lines[4], lines[3], b"garbage\n", *lines[5:]]))
    with pytest.raises(RayulError, match=r":4: a second record of the same as line 2"):
        Journal(path)
    assert repair(sweep_of_four.folder, str)
    assert path.read_bytes() == before
    assert again(sweep_of_four) == []


def test_a_trial_whose_ending_was_lost_is_not_left_running_for_ever(sweep_of_four: Any) -> None:
    """The study has heard of it, so nobody would run it again."""
    folder, before = sweep_of_four.folder, records(sweep_of_four.folder)
    path = folder / "evaluations.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(RayulError, match=r"no ending of trial 0003, which has ended according to study\.journal"):
        load_records(folder)
    with pytest.raises(RayulError, match=r"study\.journal says that trial 0003 has ended"):
        sweep_of_four.open()
    assert repair(folder, str)
    assert load_records(folder).states["running"] == 1
    assert again(sweep_of_four) == ["0003"]
    assert records(folder) == before


@pytest.mark.parametrize("garbage", [b"garbage\n", b'{"op_code": 99}\n', b"[]\n", b'{"op_code":4,"study_id":7}\n'])
def test_a_garbage_line_in_the_study_names_the_file_and_is_repaired(sweep_of_four: Any, garbage: bytes) -> None:
    path = sweep_of_four.folder / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], garbage, *lines[5:]]))
    with pytest.raises(RayulError, match=r"study\.journal is not as Optuna writes it") as caught:
        sweep_of_four.open()
    assert "rayul repair" in caught.value.hint
    assert repair(sweep_of_four.folder, str)
    assert (sweep_of_four.folder / "study.journal.rejected").exists()
    assert again(sweep_of_four) == []
    assert [t.params for t in sweep_of_four.study.trials] == [
        sweep_of_four.journal.endings[f"{n:04d}"].params for n in range(4)
    ]


def test_a_study_of_other_trials_is_refused(sweep_of_four: Any) -> None:
    path = sweep_of_four.folder / "study.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    created = next(i for i, line in enumerate(lines) if b'"op_code":4' in line)
    value = next(i for i, line in enumerate(lines) if i > created and b'"training.lr"' in line)
    record = json.loads(lines[value])
    lines[value] = json.dumps(record | {"param_value_internal": 5e-3}).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(RayulError, match="has other settings for trial 0000"):
        sweep_of_four.open()
    assert repair(sweep_of_four.folder, str)
    assert again(sweep_of_four) == []


def test_a_broken_manifest_and_a_broken_note_are_set_aside(sweep_of_four: Any) -> None:
    folder = sweep_of_four.folder
    (folder / "run.json").write_text("[]")
    adapter = folder / "adapters" / "0001-10-1"
    adapter.mkdir(parents=True)
    (adapter / "rayul.json").write_text("[]")
    said: list[str] = []
    assert repair(folder, said.append)
    assert (folder / "run.json.rejected").read_text() == "[]"
    assert not (adapter / "rayul.json").exists()
    assert "it cannot notice rows that have changed since" in "\n".join(said)
    assert load_records(folder).states["completed"] == 4
    assert not repair(folder, said.append)


def test_a_folder_that_a_sweep_writes_to_or_that_is_none_is_refused(sweep_of_four: Any, tmp_path: Path) -> None:
    folder = sweep_of_four.folder
    change(folder, 3, b'"step": 10', b'"step": 11')
    before = (folder / "evaluations.jsonl").read_bytes()
    with held(folder), pytest.raises(RayulError, match="another sweep is writing"):
        repair(folder, str)
    assert (folder / "evaluations.jsonl").read_bytes() == before
    with pytest.raises(InputError, match=r"spec\.yaml: no such file"):
        repair(tmp_path / "nothing" / "here", str)
    assert not (tmp_path / "nothing").exists()


def test_a_journal_of_an_earlier_version_goes_on_with_checksums_and_is_repaired(sweep_of_four: Any) -> None:
    """Its lines have none; those behind them, of this version, do."""
    folder, before = sweep_of_four.folder, records(sweep_of_four.folder)
    path = folder / "evaluations.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"".join([*(unsealed(line) + b"\n" for line in lines[:9]), *(line + b"\n" for line in lines[9:])]))
    assert load_records(folder).states["completed"] == 4
    assert not repair(folder, str)
    change(folder, 5, b'"forget.es": 0.8', b'"forget.es": "inf"')
    with pytest.raises(RayulError, match=r":6: not an evaluation: metrics\.forget\.es is inf, outside \[0, 1\]"):
        load_records(folder)
    assert repair(folder, str)
    assert again(sweep_of_four) == ["0001"]
    assert records(folder) == before


def test_checkpoints_of_trials_that_lost_rows_are_forgotten(sweep_of_four: Any) -> None:
    folder = sweep_of_four.folder
    (folder / "checkpoints").mkdir()
    for trial in ("0001", "0002"):
        (folder / "checkpoints" / f"{trial}.safetensors").write_bytes(b"state")
    change(folder, 6, b'"train_seconds": 0.0', b'"train_seconds": 1.0')
    assert repair(folder, str)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["0002.safetensors"]


def test_the_number_of_a_line_and_its_checksum_are_in_the_line() -> None:
    line = sealed('{"a": 1}', 7)
    assert json.loads(line)["line"] == 7
    assert unsealed(line.rstrip()) == b'{"a": 1}'


@pytest.mark.slow
def test_a_real_sweep_has_the_same_front_after_damage_repair_and_resume(
    tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, search={"sampler": "random", "trials": 4})
    folder = tmp_path / "tiny"
    assert sweep(spec, tmp_path).returncode == 0
    whole = {key(row): row["metrics"] for row in rows(folder)}
    points = [(e.key, e.metrics) for e in front_of(load_records(folder))]
    shutil.copytree(folder, tmp_path / "undisturbed")
    path = folder / "evaluations.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    path.write_bytes(
        b"".join([*lines[:middle], lines[middle][: len(lines[middle]) // 2] + b"\n", *lines[middle + 2 :]])
    )
    with open(folder / "study.journal", "ab") as file:
        file.write(b"garbage\n")
    refused = sweep(spec, tmp_path, "--resume")
    assert refused.returncode == 1
    assert f"evaluations.jsonl:{middle + 1}: " in refused.stderr
    assert "Traceback" not in refused.stderr
    arguments = [sys.executable, "-m", "rayul", "repair", str(folder)]
    repaired = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False)
    assert repaired.returncode == 0, repaired.stderr
    assert "--resume runs again: " in repaired.stdout
    again = sweep(spec, tmp_path, "--resume")
    assert again.returncode == 0, again.stderr
    assert {key(row): row["metrics"] for row in rows(folder)} == whole
    assert [(e.key, e.metrics) for e in front_of(load_records(folder))] == points
