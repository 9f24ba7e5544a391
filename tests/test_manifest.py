"""run.json: what is written is read back, folders from before it are read as they were, and a broken one says so."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayul.errors import RayulError
from rayul.records.folder import load_records
from rayul.records.manifest import Manifest, PackRecord, PackShape, RowSet, Run, read_manifest, write_manifest
from rayul.report import load_results
from rayul.report.common_ground import compare_baselines
from rayul.report.origin import data_sets, origin
from rayul.report.status import read_status
from rayul.spec import dump_yaml, load_spec

sys.path.append(str(Path(__file__).parent / "pareto"))
from synthetic import SPEC, sweep, write_folder

ASKED = SPEC.split("provenance:")[0]
DIGEST = "9869406bbc7ffac8651bff3fef9cff59b7fd9e79837cf1e1ebd2bfccaba8d7cc"

OLD = f"""\
provenance:
  command: rayul sweep search_spaces/ga.yaml
  date: 2026-11-28T04:21:51+00:00
  versions:
    python: 3.11.7
    torch: 2.13.0+cpu
    peft: '0.21'
  commit: d3ef6a57c564-dirty
  hardware:
    machine: x86_64
    system: Linux
    cores: 2
  code:
    ./my_loss.py: sha256 {DIGEST}
  runs:
    '1':
      began: 2026-11-28T04:21:51.306+00:00
      ended: 2026-11-28T04:25:31.292+00:00
      stopped: Ctrl-C
    '2':
      began: 2026-11-28T05:00:00.000+00:00
  data:
    forget:
      rows: 80
      sha256: {DIGEST}
  pack:
    slots: 4
    rank: 16
    rows: 4
    lanes: 1
    group: 2
    compiled: false
    dtype: float32
    threads: 1
"""
"""As rayul wrote it into spec.yaml before there was a run.json."""


def at(*clock: int, micro: int = 0) -> datetime:
    return datetime(2026, 11, 28, *clock, micro, tzinfo=UTC)


SAME = Manifest(
    command="rayul sweep search_spaces/ga.yaml",
    date=at(4, 21, 51),
    versions={"python": "3.11.7", "torch": "2.13.0+cpu", "peft": "0.21"},
    commit="d3ef6a57c564-dirty",
    hardware={"machine": "x86_64", "system": "Linux", "cores": 2},
    code={"./my_loss.py": f"sha256 {DIGEST}"},
    data={"forget": RowSet(rows=80, sha256=DIGEST)},
    pack=PackRecord(shape=PackShape(slots=4, rank=16, rows=4, group=2), dtype="float32", threads=1),
    runs=(
        Run(began=at(4, 21, 51, micro=306_000), ended=at(4, 25, 31, micro=292_000), stopped="Ctrl-C"),
        Run(began=at(5, 0, 0)),
    ),
)

texts = st.dictionaries(st.text(), st.text(), max_size=3)
times = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7, minutes=-30))]))
shapes = st.builds(PackShape, slots=st.integers(1), rank=st.integers(1), rows=st.integers(1))


@settings(deadline=None, derandomize=True, database=None)
@given(
    st.builds(
        Manifest,
        command=st.text(),
        date=st.none() | times,
        versions=texts,
        commit=st.none() | st.text(),
        hardware=st.dictionaries(st.text(), st.none() | st.integers() | st.text(), max_size=3),
        code=texts,
        data=st.dictionaries(st.text(), st.builds(RowSet, rows=st.integers(0), sha256=st.text()), max_size=3),
        pack=st.none() | st.builds(PackRecord, shape=st.none() | shapes, dtype=st.text(), threads=st.integers(1)),
        runs=st.lists(st.builds(Run, began=times, ended=st.none() | times, stopped=st.text()), max_size=3).map(tuple),
    )
)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> None:
    folder = tmp_path_factory.mktemp("run")
    write_manifest(folder, manifest)
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert read_manifest(folder) == manifest


def test_it_can_be_read_without_rayul(tmp_path: Path) -> None:
    write_manifest(tmp_path, SAME)
    plain = json.loads((tmp_path / "run.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert plain["data"] == {"forget": {"rows": 80, "sha256": DIGEST}}
    assert plain["pack"]["shape"]["slots"] == 4
    first, second = plain["runs"]
    assert datetime.fromisoformat(first["ended"]) - datetime.fromisoformat(first["began"]) == timedelta(
        seconds=219, milliseconds=986
    )
    assert first["stopped"] == "Ctrl-C"
    assert "ended" not in second


def test_a_folder_from_before_is_read_from_its_spec(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "old", sweep(3), ASKED + OLD)
    assert read_manifest(folder) == SAME
    assert "run.json" not in {path.name for path in folder.iterdir()}, "reading writes nothing"
    spec = load_spec(folder / "spec.yaml")
    assert "provenance" not in dump_yaml(spec.resolved())
    (folder / "spec.yaml").write_text(ASKED)
    assert load_spec(folder / "spec.yaml") == spec


@pytest.mark.parametrize(
    ("section", "manifest"),
    [
        ("", Manifest()),
        ("provenance:\n", Manifest()),
        ("provenance: {}\n", Manifest()),
        ("provenance: {commit: null, seeds: {search: 0}}\n", Manifest()),
        (
            "provenance: {pack: {slots: 1, dtype: float32, threads: 2}}\n",
            Manifest(pack=PackRecord(shape=None, dtype="float32", threads=2)),
        ),
        (
            "provenance: {pack: {slots: 2, rank: 8, rows: 4, dtype: bfloat16, threads: 2}}\n",
            Manifest(pack=PackRecord(shape=PackShape(slots=2, rank=8, rows=4), dtype="bfloat16", threads=2)),
        ),
    ],
)
def test_what_was_not_recorded_is_empty(section: str, manifest: Manifest, tmp_path: Path) -> None:
    assert read_manifest(write_folder(tmp_path / "old", sweep(1), ASKED + section)) == manifest


def test_where_there_are_both_run_json_is_read(tmp_path: Path) -> None:
    """A driver was killed in a resume of a folder from before, between the two files."""
    folder = write_folder(tmp_path / "s", sweep(1), ASKED + OLD)
    write_manifest(folder, Manifest(command="the later one"))
    assert load_records(folder).manifest.command == "the later one"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "JSON"),
        (b'{"command": "rayul', "JSON"),
        (b"[]", "object"),
        (b'{"command": "\xff\xfe"}', ""),
        (b'{"comand": "rayul"}', "comand"),
        (b'{"commit": 7}', "commit"),
        (b'{"date": 1764303711}', "date"),
        (b'{"runs": {"1": {"began": "2026-11-28T04:21:51Z"}}}', "runs"),
        (b'{"runs": [{"began": "2026-11-28T04:21:51"}]}', "runs.0.began"),
        (b'{"runs": [{"ended": "2026-11-28T04:21:51Z"}]}', "runs.0.began"),
        (b'{"data": {"forget": {"rows": "80", "sha256": "a"}}}', "data.forget.rows"),
        (b'{"data": {"forget": {"rows": -1, "sha256": "a"}}}', "data.forget.rows"),
        (b'{"pack": {"shape": {"slots": 4}, "dtype": "float32", "threads": 1}}', "pack.shape.rank"),
        (b'{"pack": {"shape": null, "dtype": "float32", "threads": 0}}', "pack.threads"),
    ],
)
def test_a_broken_file_is_one_error_that_names_it(content: bytes, named: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", sweep(1))
    (folder / "run.json").write_bytes(content)
    with pytest.raises(RayulError) as caught:
        load_results(folder)
    assert str(folder / "run.json") in caught.value.message
    assert named in caught.value.message
    assert "\n" not in caught.value.message
    assert "restore" in caught.value.hint
    (folder / "run.json").unlink()  # as the hint says
    load_results(folder)


def test_the_command_line_shows_it_without_a_traceback(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", sweep(3))
    (folder / "run.json").write_text('{"runs": 3}')
    done = subprocess.run(
        [sys.executable, "-m", "rayul", "report", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{folder / 'run.json'}" in done.stderr.replace("\n", "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ("provenance: rayul\n", "object"),
        ("provenance: {runs: {'1': {began: yesterday}}}\n", "runs.0.began"),
        ("provenance: {pack: {slots: four, rank: 1, rows: 1, dtype: float32, threads: 1}}\n", "pack.shape.slots"),
    ],
)
def test_a_broken_section_of_a_folder_from_before_is_one_error(section: str, named: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", sweep(1), ASKED + section)
    with pytest.raises(RayulError) as caught:
        load_records(folder)
    assert f"{folder / 'spec.yaml'}: its section provenance" in caught.value.message
    assert named in caught.value.message


def of_both_kinds(tmp_path: Path, **changes: Any) -> list[Any]:
    """The same results with the facts in the spec, and in run.json."""
    old = write_folder(tmp_path / "old", sweep(20), ASKED + OLD)
    new = write_folder(tmp_path / "new", sweep(20), ASKED)
    write_manifest(new, SAME.model_copy(update=changes))
    return [load_results(old), load_results(new)]


def test_the_report_shows_the_same_of_both_kinds_of_folder(tmp_path: Path) -> None:
    old, new = of_both_kinds(tmp_path)
    assert origin(old) == origin(new)
    assert data_sets(old) == data_sets(new) == [("forget", "80", DIGEST)]
    facts = {f"{group}.{key}": text for group, found in origin(new) for key, text in found}
    assert facts["versions.torch"] == "2.13.0+cpu"
    assert facts["hardware.cores"] == "2"
    assert facts["runs.1.stopped"] == "Ctrl-C"
    assert facts["pack.shape.slots"] == "4"
    assert facts["code../my_loss.py"] == f"sha256 {DIGEST}"


@pytest.mark.parametrize(("sha256", "differ"), [(DIGEST, False), ("0" * 64, True)])
def test_rows_are_compared_across_both_kinds_of_folder(sha256: str, differ: bool, tmp_path: Path) -> None:
    sweeps = of_both_kinds(tmp_path, data={"forget": RowSet(rows=80, sha256=sha256)})
    notes: list[str] = []
    compare_baselines(sweeps, ["old", "new"], ["forget.es"], notes)
    assert any("different rows" in note for note in notes) == differ


def test_status_counts_the_seconds_of_both_kinds_of_folder(tmp_path: Path) -> None:
    now = at(5, 0, 30)
    for results in of_both_kinds(tmp_path):
        (results.folder / "spec.yaml").write_text(
            (results.folder / "spec.yaml").read_text().replace("trials: 64,", "trials: 64, time_limit: 300s,")
        )
        status = read_status(results.folder, True, now)
        assert status.budget == pytest.approx(300 - 219.986 - 30)
        assert status.stopped == "", "the run that goes on has no end yet"
