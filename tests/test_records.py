"""The journal: what was appended is there again, whatever the disk or a crash did; and its table."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rayul.errors import RayulError
from rayul.records import (
    BASELINE,
    COMPLETED,
    FAILED,
    PRUNED,
    Ending,
    Evaluation,
    Journal,
    from_json,
    read_journal,
    to_json,
    to_table,
    write_table,
)

ROW = Evaluation(
    trial_id="0007",
    step=20,
    mixing=0.75,
    seed=7,
    params={"training.lr": 1e-3, "method.name": "gd", "lora.r": 8, "method.gru": True, "model.template": None},
    metrics={"forget.es": 0.41, "retain.es": 0.93},
    stderr={"forget.es": 0.02, "retain.es": 0.01},
    rows={"forget": 40, "retain": 100},
    violation={"retain.es": -0.03},
    notes=("out of memory after step 10,\nbegun again: «so»",),
    train_seconds=12.5,
    device="cpu",
)


def at(step: int, **changes: Any) -> Evaluation:
    return replace(ROW, step=step, **changes)


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    written = [at(0), at(5, mixing=1 / 3), Evaluation(BASELINE, 0, mixing=0.0), at(10, feasible=False, metrics={})]
    journal = Journal(path)
    assert all(journal.append(row) for row in written)
    assert list(Journal(path)) == list(journal) == read_journal(path).evaluations == written
    assert len(path.read_text().splitlines()) == 4


def test_evaluations_and_endings_are_read_again_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    journal = Journal(path)
    ending = at(5).ended(PRUNED, "retain.es", "retain.es 0.88 < 0.90\nat step 5, «so»")
    failed = Ending("0008", FAILED, "diverged", "diverged: loss nan", 8, {"lora.r": 4}, 1.5)
    assert journal.append(at(0), at(5), ending) == [at(0), at(5), ending]
    assert journal.append(failed, at(0, trial_id="0009")) == [failed, at(0, trial_id="0009")]
    assert (
        list(Journal(path).records) == list(journal.records) == [at(0), at(5), ending, failed, at(0, trial_id="0009")]
    )
    assert (Journal(path).endings, journal.endings) == ({"0007": ending, "0008": failed},) * 2
    assert read_journal(path) == ([at(0), at(5), at(0, trial_id="0009")], {"0007": ending, "0008": failed})
    assert (ending.params, ending.seed, ending.train_seconds) == (ROW.params, 7, 12.5)


def test_a_trial_ends_once_and_the_first_ending_stays(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    journal = Journal(path)
    assert journal.append(at(0), at(0).ended(COMPLETED))
    assert journal.append(at(0).ended(FAILED)) == []
    assert Journal(path).append(at(0).ended(FAILED), at(5)) == [at(5)]
    assert {end.state for end in read_journal(path).endings.values()} == {COMPLETED}


@pytest.mark.parametrize("lines", range(4))
def test_whatever_a_crash_cuts_off_no_ending_is_without_its_evaluations(tmp_path: Path, lines: int) -> None:
    """Two evaluations and the ending are one write; a crash leaves any number of its bytes."""
    path = tmp_path / "evaluations.jsonl"
    records = [at(5), at(5, mixing=0.5), at(5).ended(COMPLETED)]
    Journal(path).append(*records)
    whole = path.read_bytes().splitlines(keepends=True)
    for torn in {0, 1, len(whole[lines]) // 2, len(whole[lines]) - 1} if lines < 3 else {0}:
        path.write_bytes(b"".join(whole[:lines]) + (whole[lines][:torn] if lines < 3 else b""))
        journal = Journal(path)
        assert list(journal.records) == records[:lines]
        assert journal.append(*records) == records[lines:]
        assert path.read_bytes() == b"".join(whole)


def test_numbers_that_are_none_survive_in_strict_json(tmp_path: Path) -> None:
    row = at(1, metrics={"forget.ppl": math.inf, "retain.es": math.nan}, violation={"retain.es": -math.inf})
    line = to_json(row)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(line, parse_constant=refuse)
    assert "null" not in line.replace('"model.template": null', "")
    again = from_json(line)
    assert again.metrics["forget.ppl"] == math.inf
    assert math.isnan(again.metrics["retain.es"])
    assert again.violation["retain.es"] == -math.inf


def test_a_later_version_may_add_fields() -> None:
    assert from_json(json.dumps(json.loads(to_json(ROW)) | {"energy": 3.0})) == ROW


def test_a_key_is_written_once_and_the_first_row_stays(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    journal = Journal(path)
    assert journal.append(at(5))
    assert not journal.append(at(5, feasible=False))
    assert not Journal(path).append(at(5, feasible=False))
    assert journal.append(at(5, mixing=0.5))
    assert journal.append(at(5, trial_id="0008"))
    assert [row.feasible for row in read_journal(path).evaluations] == [True] * 3


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_a_line_cut_off_by_a_crash_is_dropped_and_the_next_row_starts_a_new_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "evaluations.jsonl"
    Journal(path).append(at(0))
    whole = path.read_bytes()
    path.write_bytes(whole + (to_json(at(5)) + "\n").encode()[:kept])
    assert read_journal(path).evaluations == [at(0)]  # reading alone changes nothing: a sweep may be at work
    journal = Journal(path)
    assert list(journal) == [at(0)]
    assert path.read_bytes() == whole
    assert journal.append(at(5))
    assert read_journal(path).evaluations == [at(0), at(5)]


@pytest.mark.parametrize(
    "broken",
    [
        b"{",
        b"",
        b"[]",
        b"17",
        b"null",
        b"\xff\xfe",
        b"{}",
        to_json(ROW).replace('"stderr": {', '"stderr": 3, "x": {').encode(),
    ],
)
def test_a_broken_line_elsewhere_is_named(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "evaluations.jsonl"
    path.write_bytes(to_json(at(0)).encode() + b"\n" + broken + b"\n" + to_json(at(1)).encode() + b"\n")
    before = path.read_bytes()
    with pytest.raises(RayulError, match=r"evaluations\.jsonl:2: not an evaluation") as caught:
        Journal(path)
    assert "rayul repair" in caught.value.hint
    assert caught.value.exit_code == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("metrics", '{"retain.es": "inf"}', "metrics.retain.es is inf, outside"),
        ("metrics", '{"retain.es": 1e999}', "metrics.retain.es is inf, outside"),
        ("metrics", '{"retain.es": true}', "metrics.retain.es: "),
        ("metrics", '{"retain.es": "0.9"}', "metrics.retain.es: "),
        ("metrics", "[]", "metrics: "),
        ("train_seconds", "Infinity", "train_seconds: "),
        ("mixing", "2", "mixing: "),
        ("mixing", "NaN", "mixing: "),
        ("step", "-1", "step: "),
        ("step", "true", "step: "),
        ("step", "9" * 400, "step: "),
        ("step", "9" * 5000, ""),
        ("seed", str(2**63), "seed: "),
        ("rows", '{"forget": 1.5}', "rows.forget: "),
        ("params", '{"training.lr": [1]}', "params: .*training.lr is"),
        ("params", '{"training.lr": 1e999}', "params: .*training.lr is inf"),
        ("notes", "7", "notes: "),
        ("device", '"\\ud800"', "hex escape"),
        ("device", "[" * 5000 + "]" * 5000, "recursion"),
        ("trial_id", '"../0001"', "trial_id: "),
        ("feasible", "1", "feasible: "),
    ],
)
def test_what_no_record_may_hold_is_refused_and_named(tmp_path: Path, field: str, value: str, what: str) -> None:
    path = tmp_path / "evaluations.jsonl"
    row = json.loads(to_json(at(1))) | {field: "HERE"}
    path.write_text(to_json(at(0)) + "\n" + json.dumps(row).replace('"HERE"', value) + "\n")
    with pytest.raises(RayulError, match=rf"evaluations\.jsonl:2: not an evaluation: .*{what}"):
        read_journal(path)


@pytest.mark.parametrize("missing", ["trial_id", "params", "metrics", "stderr", "violation"])
def test_a_line_without_what_every_evaluation_has_is_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "evaluations.jsonl"
    row = json.loads(to_json(at(1)))
    del row[missing]
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(RayulError, match=rf":1: not an evaluation: {missing} is missing"):
        read_journal(path)


def test_every_changed_byte_of_a_line_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    Journal(path).append(at(0), at(5))
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for place in range(second, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RayulError, match=r"evaluations\.jsonl:[23]: "):
            read_journal(path)


def test_a_line_is_what_other_programs_read(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    Journal(path).append(at(0))
    line = json.loads(path.read_text())
    assert (line.pop("line"), len(line.pop("crc32"))) == (1, 8)
    assert line == json.loads(to_json(at(0)))


def test_a_full_disk_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    journal = Journal(path)
    path.symlink_to("/dev/full")
    with pytest.raises(RayulError, match=r"cannot write .*evaluations\.jsonl: No space left on device") as caught:
        journal.append(ROW)
    assert list(journal) == []
    assert "--resume" in caught.value.hint


def test_a_disk_that_fills_up_in_the_middle_of_a_row_leaves_whole_rows(tmp_path: Path) -> None:
    """A limit on the size of files cuts a write where it is reached, as a full disk does."""
    path = tmp_path / "evaluations.jsonl"
    program = """
import resource, sys
from pathlib import Path
from dataclasses import replace
from rayul.errors import RayulError
from rayul.records import Evaluation, Journal, read_journal, to_json
path = Path(sys.argv[1])
row = Evaluation("0000", 0, notes=("x" * 1000,))
journal = Journal(path)
journal.append(row)
journal.append(replace(row, step=1))
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
try:
    journal.append(replace(row, step=2))
except RayulError as error:
    print(error)
else:
    sys.exit("written beyond the limit")
assert [r.step for r in journal] == [0, 1]
assert [r.step for r in read_journal(path).evaluations] == [0, 1]
assert path.read_bytes().endswith(b"\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert journal.append(replace(row, step=2))
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert "--resume" in done.stdout
    assert [row.step for row in read_journal(path).evaluations] == [0, 1, 2]


def test_a_folder_that_is_gone_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(RayulError, match=r"cannot write .*No such file") as caught:
        Journal(tmp_path / "gone" / "evaluations.jsonl").append(ROW)
    assert caught.value.exit_code == 1


def test_a_reader_beside_a_writer_sees_whole_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    journal = Journal(path)
    journal.append(at(0))
    writer = threading.Thread(target=lambda: [journal.append(at(step)) for step in range(1, 200)])
    writer.start()
    seen = [len(read_journal(path).evaluations) for _ in range(50)]
    writer.join()
    assert seen == sorted(seen)
    assert [row.step for row in read_journal(path).evaluations] == list(range(200))


def test_every_row_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    """A process that ends without closing anything, right after `append`, has lost nothing."""
    path = tmp_path / "evaluations.jsonl"
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom rayul.records import Evaluation, Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for step in range(3): journal.append(Evaluation('0000', step))\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    assert [row.step for row in read_journal(path).evaluations] == [0, 1, 2]


def test_columns_are_those_that_scripts_are_written_against(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.parquet"
    write_table(to_table([ROW, Evaluation("0008", 0, feasible=False)]), path)
    table = pq.read_table(path)
    wanted = {"trial_id", "step", "mixing", "seed", "feasible"}
    wanted |= {
        "params.training.lr",
        "params.method.name",
        "metrics.forget.es",
        "metrics.retain.es",
        "violation.retain.es",
    }
    assert wanted <= set(table.column_names)
    groups = {name.split(".")[0] for name in table.column_names if "." in name}
    assert groups == {"params", "metrics", "stderr", "violation", "rows"}
    first, second = table.to_pylist()
    assert first["params.training.lr"] == 1e-3
    assert first["params.lora.r"] == 8
    assert first["params.method.gru"] is True
    assert first["metrics.forget.es"] == 0.41
    assert first["violation.retain.es"] == -0.03
    assert (first["notes"], second["notes"]) == (ROW.notes[0], "")
    assert (first["trial_id"], first["step"], first["mixing"], first["seed"]) == ("0007", 20, 0.75, 7)
    assert second["metrics.forget.es"] is None
    assert second["params.training.lr"] is None
    assert second["feasible"] is False
    assert not list(tmp_path.glob("*.tmp"))


def test_the_table_tells_missing_from_not_a_number() -> None:
    table = to_table([at(0, metrics={"forget.es": math.nan}), at(1, metrics={"retain.es": math.inf})])
    forget, retain = table["metrics.forget.es"].to_pylist(), table["metrics.retain.es"].to_pylist()
    assert math.isnan(forget[0])
    assert forget[1] is None
    assert retain == [None, math.inf]


def test_a_parameter_of_mixed_kinds_is_text_and_whole_numbers_beside_fractions_are_numbers() -> None:
    rows = [at(0, params={"a": 1, "b": 8}), at(1, params={"a": "geometric", "b": 0.5}), at(2, params={"b": True})]
    table = to_table(rows[:2])
    assert table["params.a"].to_pylist() == ["1", "geometric"]
    assert table["params.b"].to_pylist() == [8.0, 0.5]
    assert to_table(rows)["params.b"].to_pylist() == ["8", "0.5", "True"]


def test_an_empty_table_still_has_its_plain_columns() -> None:
    assert {"trial_id", "step", "mixing", "seed", "feasible", "notes"} <= set(to_table([]).column_names)


def test_total_violation_sums_what_is_broken_and_is_infinite_without_metrics() -> None:
    assert at(0, violation={"a": 0.25, "b": -3.0, "c": 0.5}).total_violation == 0.75
    assert at(0, metrics={}, violation={}).total_violation == math.inf


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RayulError, match="Permission denied") as caught:
        Journal(tmp_path / "evaluations.jsonl").append(at(0))
    assert "permissions" in caught.value.hint
