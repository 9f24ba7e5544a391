"""A sweep killed between any two of its writes goes on from what is there, as does one from before there was a
run.json."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from driver import ended, rows, sweep, write_spec
from pyarrow import fs
from test_faults import born, children_of, finished_is_kept

from rayul.errors import InputError, RayulError
from rayul.records.manifest import Manifest, read_manifest
from rayul.records.storage import Storage
from rayul.spec import difference, dump_yaml, load_spec
from rayul.sweep.folder import begin, checked, checked_rows, made_here

WRITES = ("open", "os.mkdir", "os.rename", "os.remove")
"""The audit events of Python that change a folder."""


def killed_before(number: int, folder: Path, work: Callable[[], None]) -> bool:
    """Do the work in a process that is killed before its n-th change of the folder. Whether it got that far."""
    child = os.fork()
    if child == 0:
        left = number

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            if event in WRITES and not reads and str(arguments[0]).startswith(str(folder)):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def as_before(folder: Path) -> None:
    """Make the folder one from before there was a run.json: its facts are in its spec.yaml, as they were written."""
    facts = json.loads((folder / "run.json").read_text())
    facts["runs"] = {str(number): run for number, run in enumerate(facts.get("runs", []), 1)}
    if pack := facts.get("pack"):
        facts["pack"] = (pack.pop("shape") or {"slots": 1}) | pack
    with (folder / "spec.yaml").open("a") as spec:
        spec.write(dump_yaml({"provenance": facts}))
    (folder / "run.json").unlink()


@pytest.mark.parametrize("resume", [False, True], ids=["the same command", "--resume"])
def test_a_driver_killed_while_it_makes_the_folder_leaves_no_trap(
    resume: bool, make_spec: Callable[..., Any], sets: Any, tmp_path: Path
) -> None:
    spec = make_spec()
    manifest = made_here(spec).model_copy(update={"data": checked_rows(sets, Manifest())})
    for number in range(1, 100):
        folder = tmp_path / str(number)
        if not killed_before(number, folder, lambda: begin(folder, spec, manifest)):  # noqa: B023 (called at once)
            break
        if (folder / "spec.yaml").exists():
            assert checked(folder, spec, resume=True) == manifest
        elif folder.exists() or not resume:
            begin(folder, spec, checked(folder, spec, resume))
            assert read_manifest(folder).command == manifest.command
    assert number > 6, "mkdir, and for both files open, fsync's open and rename"
    assert checked(folder, spec, resume=True) == manifest
    with pytest.raises(InputError, match="exists already"):
        checked(folder, spec, resume=False)


def test_a_driver_killed_while_it_resumes_a_folder_from_before_loses_none_of_its_facts(
    make_spec: Callable[..., Any], sets: Any, tmp_path: Path
) -> None:
    spec = make_spec()
    manifest = made_here(spec).model_copy(update={"data": checked_rows(sets, Manifest())})
    for number in range(1, 100):
        folder = tmp_path / str(number)
        begin(folder, spec, manifest)
        as_before(folder)
        came_so_far = killed_before(number, folder, lambda: begin(folder, spec, manifest))  # noqa: B023 (called at once)
        assert checked(folder, spec, resume=True) == manifest
        if not came_so_far:
            break
    assert number > 5
    assert "provenance" not in (folder / "spec.yaml").read_text()


@pytest.mark.parametrize("name", ["notes.txt", "study.journal", "evaluations.jsonl", "adapters/0001-5-1/x"])
def test_a_folder_with_anything_else_in_it_is_nobodys_to_begin_in(
    name: str, make_spec: Callable[..., Any], tmp_path: Path
) -> None:
    spec = make_spec()
    folder = tmp_path / "results"
    begin(folder, spec, made_here(spec))
    (folder / "spec.yaml").unlink()
    checked(folder, spec, resume=False)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        checked(folder, spec, resume=False)
    with pytest.raises(InputError, match="nothing to resume"):
        checked(folder, spec, resume=True)


def test_results_at_a_url_can_be_resumed_after_a_copy_that_broke_off_anywhere(
    make_spec: Callable[..., Any], sets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    manifest = made_here(spec).model_copy(update={"data": checked_rows(sets, Manifest())})
    write = Storage._write
    for count in range(4):
        monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / f"here {count}"))
        storage = Storage(f"file://{tmp_path}/store/{count}")
        begin(storage.folder, spec, manifest)
        (storage.folder / "evaluations.jsonl").write_text('{"trial_id": "baseline"}\n')
        left = count

        def breaks_off(self: Storage, name: str, content: bytes) -> None:
            nonlocal left
            if left == 0:
                raise OSError("the network is gone")
            left -= 1
            write(self, name, content)

        monkeypatch.setattr(Storage, "_write", breaks_off)
        if count < 3:
            with pytest.raises(RayulError, match="the network is gone"):
                storage.push()
        else:
            storage.push()
        monkeypatch.setattr(Storage, "_write", write)

        monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / f"elsewhere {count}"))
        other = Storage(f"file://{tmp_path}/store/{count}")
        other.fetch()
        there = {path.name for path in other.folder.iterdir()} if other.folder.exists() else set()
        assert there == set(("run.json", "spec.yaml", "evaluations.jsonl")[:count])
        if "spec.yaml" in there:
            assert checked(other.folder, spec, resume=True) == manifest
        elif there:
            assert checked(other.folder, spec, resume=True).data == {}, "it begins"


def test_a_folder_from_before_at_a_url_gets_its_run_json_there(
    make_spec: Callable[..., Any], sets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, url = make_spec(), f"file://{tmp_path}/store/old"
    manifest = made_here(spec).model_copy(update={"data": checked_rows(sets, Manifest())})
    place = tmp_path / "store" / "old"
    place.mkdir(parents=True)
    (place / "spec.yaml").write_text(dump_yaml(spec.resolved() | {"provenance": manifest.plain()}))
    (place / "evaluations.jsonl").write_text('{"trial_id": "baseline"}\n')
    monkeypatch.setenv("RAYUL_CACHE", str(tmp_path / "cache"))
    storage = Storage(url)
    storage.fetch()
    with storage.synced(pytest.fail):
        begin(storage.folder, spec, checked(storage.folder, spec, resume=True))
    assert read_manifest(place) == manifest
    assert "provenance" not in (place / "spec.yaml").read_text()
    assert fs.FileSystem.from_uri(url)[0].get_file_info(str(place / "run.json")).type == fs.FileType.File


@pytest.fixture
def spec_file(tmp_path: Path, tiny_folder: Path, data_folder: Path) -> Path:
    training = {"lr": {"float": [1e-4, 1e-3], "log": True}, "batch_size": 4, "steps": 4, "evaluate_every": 2}
    search = {"sampler": "random", "trials": 3, "seed": 0}
    return write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, training=training, search=search)


STOPS = """
import os, signal, sys
event_of, argument, name, left = {event!r}, {argument}, {name!r}, {count}
def hook(event, arguments):
    global left
    if event == event_of and str(arguments[argument]) == name:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
sys.addaudithook(hook)
from rayul.cli import main
sys.argv = ["rayul", "sweep", {spec!r}, "--results", {results!r}, "--resume-if-any"]
main()
"""


@pytest.fixture
def families() -> Iterator[dict[int, str]]:
    """Processes by pid with their time of birth; ended when the test is over, where they still live."""
    family: dict[int, str] = {}
    yield family
    for pid, birth in family.items():
        if birth and born(pid) == birth:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_sweep_killed_before_any_of_its_first_and_last_writes_goes_on(
    families: dict[int, str], spec_file: Path, tmp_path: Path
) -> None:
    """The driver is stopped by a signal right before the system call that makes a write visible, and then killed."""
    results = tmp_path / "results"
    folder = results / "tiny"
    before: list[bytes] = []
    moments = [
        ("os.rename", 1, "run.json", 1),
        ("os.rename", 1, "spec.yaml", 1),
        ("open", 0, "evaluations.jsonl", 2),  # the first row: the journal was opened before, to read it
        ("open", 0, "study.journal", 1),
        ("os.rename", 1, "run.json", 2),  # the end of the run
    ]
    for event, argument, name, count in moments:
        stop = {"event": event, "argument": argument, "name": str(folder / name), "count": count}
        code = STOPS.format(spec=str(spec_file), results=str(results), **stop)
        driver = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        _, status = os.waitpid(driver.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), (name, driver.stderr and driver.stderr.read())
        families.update({pid: born(pid) for pid in children_of(driver.pid)})
        driver.kill()
        driver.wait(timeout=60)
        journal = folder / "evaluations.jsonl"
        if journal.exists():
            finished_is_kept(before, folder)
            before = journal.read_bytes().split(b"\n")[:-1]
    last = sweep(spec_file, results, "--resume")
    assert last.returncode == 0, last.stderr
    finished_is_kept(before, folder)
    assert set(ended(folder)) == {"0000", "0001", "0002"}
    assert (folder / "report.html").exists()
    assert difference(load_spec(folder / "spec.yaml"), load_spec(spec_file)) == []
    manifest = read_manifest(folder)
    assert set(manifest.data) == {"forget", "retain_train", "retain", "retain_report", "general"}
    assert manifest.pack is not None
    # The first two runs were killed before they were recorded.
    assert [run.stopped for run in manifest.runs] == ["killed", "killed", "killed", ""]
    assert all(run.ended is not None for run in manifest.runs)


@pytest.mark.slow
def test_a_folder_from_before_is_resumed_on_its_rows_only_and_gets_its_run_json(
    spec_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    first = sweep(spec_file, tmp_path, "--trials", "2")
    assert first.returncode == 0, first.stderr
    as_before(folder)
    before = read_manifest(folder)
    lines = (folder / "evaluations.jsonl").read_bytes().split(b"\n")[:-1]
    assert before.runs
    written = (folder / "spec.yaml").read_text()
    assert "provenance" in yaml.safe_load(written)

    (folder / "spec.yaml").write_text(written.replace(before.data["retain"].sha256, "a" * 64))
    refused = sweep(spec_file, tmp_path, "--resume")
    assert refused.returncode == 2
    assert "the rows of retain have changed" in refused.stderr
    assert not (folder / "run.json").exists()
    (folder / "spec.yaml").write_text(written)

    again = sweep(spec_file, tmp_path, "--resume")
    assert again.returncode == 0, again.stderr
    finished_is_kept(lines, folder)
    assert set(ended(folder)) == {"0000", "0001", "0002"}
    assert "provenance" not in yaml.safe_load((folder / "spec.yaml").read_text())
    after = Manifest.model_validate_json((folder / "run.json").read_text())
    same = {name: getattr(before, name) for name in ("command", "date", "versions", "commit", "hardware", "data")}
    assert same == {name: getattr(after, name) for name in same}
    assert after.pack == before.pack
    assert len(after.runs) == 2
    assert after.runs[0] == before.runs[0]
    assert after.runs[1].ended is not None
    assert before.runs[0].began < after.runs[1].began < after.runs[1].ended
    assert sum(row["trial_id"] == "baseline" for row in rows(folder)) == 1, "it was not measured again"
