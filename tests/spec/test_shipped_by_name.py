"""A shipped spec is found by its name: from a clone, and where nothing but the wheel is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rayul.cli import app
from rayul.cli.app import spec_names
from rayul.spec import SpecError, load_spec, shipped_specs

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "search_spaces").glob("*.yaml"))
MINIMAL = "name: own\nmodel: testbed\ndata: testbed\nmethod: npo\ntraining: {lr: 1e-3}\n"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_name_is_the_file_of_that_name(file: Path) -> None:
    assert load_spec(file.stem).resolved() == load_spec(file).resolved()


def test_a_file_of_that_name_wins_and_a_folder_does_not() -> None:
    Path("ga").mkdir()
    assert load_spec("ga").name == "ga"
    Path("ga").rmdir()
    Path("ga").write_text(MINIMAL)
    assert load_spec("ga").name == "own"


def test_a_file_that_is_not_there_is_answered_with_one_that_is() -> None:
    Path("mine.yaml").write_text("name: mine")
    with pytest.raises(SpecError, match=r"did you mean mine\.yaml\? Shipped specs: cb, "):
        load_spec("mien.yaml")
    with pytest.raises(SpecError, match="hint: Shipped specs: cb, "):
        load_spec("nothing-like-it.yaml")


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec("gaa")
    assert "did you mean ga?" in str(caught.value)
    assert all(f"{name}" in str(caught.value) for name in shipped_specs())
    with pytest.raises(SpecError, match=r"write ga in place of search_spaces/ga\.yaml"):
        load_spec("search_spaces/ga.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec("elsewhere/mine.yaml")


def test_init_copies_one_under_a_name_of_its_own() -> None:
    done = CliRunner().invoke(app, ["init", "--from", "tofu", "--out", "my own.yaml"])
    assert isinstance(done.exception, SpecError), "it cannot name a folder"
    for out in ("mine.yaml", "other.yaml"):
        done = CliRunner().invoke(app, ["init", "--from", "ga", "--out", out])
        assert done.exit_code == 0, done.output
        assert f"next: rayul plan {out}" in done.output
        copied, shipped = Path(out).read_text(), (ROOT / "search_spaces/ga.yaml").read_text()
        assert yaml.safe_load(copied) == yaml.safe_load(shipped) | {"name": Path(out).stem}
        assert f"rayul sweep {out}\n" in copied
        assert "rayul sweep ga" not in copied
    assert CliRunner().invoke(app, ["init", "--from", "ga", "--out", "mine.yaml"]).exit_code != 0


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--from", "nothing"], "Shipped specs: cb, "),
        (["--from", "ga", "--model", "m"], "give --from alone"),
        (["--retain", "r.jsonl"], "--from ga to copy"),
        ([], "--from ga to copy"),
    ],
)
def test_init_says_what_it_needs(flags: list[str], hint: str) -> None:
    done = CliRunner().invoke(app, ["init", *flags])
    assert hint in str(done.exception)
    assert not Path("spec.yaml").exists()


def test_a_shell_completes_names_and_yaml_files() -> None:
    Path("gable.yaml").write_text(MINIMAL)
    Path("gaps").mkdir()
    Path("gaps/one.yml").write_text(MINIMAL)
    Path("gas.txt").write_text("")
    assert spec_names("ga") == ["ga", "gable.yaml", "gaps/"]
    assert spec_names("gaps/") == ["gaps/one.yml"]
    assert spec_names("none/x") == []
    assert set(shipped_specs()) <= set(spec_names(""))


def test_the_wheel_alone_has_them(tmp_path: Path) -> None:
    """Built, unpacked, and run in a folder without a clone."""
    wheel = pytest.importorskip("hatchling.builders.wheel", reason='building a wheel needs the extra "test"')
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path / "dist"))
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    assert {f"rayul/search_spaces/{file.name}" for file in FILES} <= set(names)
    assert not [name for name in names if name.startswith(("results/", "tests/", "search_spaces/"))]
    assert not [name for name in names if name.endswith(".png")]
    outside = [place for place in sys.path if place and not place.startswith(str(ROOT))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *outside])}
    script = "import sys, rayul.cli; print(rayul.__file__); sys.argv[1:] = ['validate', 'ga', 'npo']; rayul.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    place, *lines = done.stdout.splitlines()
    assert place.startswith(str(tmp_path / "site"))
    assert [line for line in lines if ": ok (" in line] == [
        "ga: ok (6 hyper-parameters searched, 48 trials)",
        next(line for line in lines if line.startswith("npo: ok (")),
    ]


def test_the_source_distribution_has_neither_results_nor_pictures() -> None:
    sdist = pytest.importorskip("hatchling.builders.sdist", reason='building one needs the extra "test"')
    builder = sdist.SdistBuilder(str(ROOT))
    names = [file.distribution_path for file in builder.recurse_included_files()]
    assert "search_spaces/ga.yaml" in names
    assert [name for name in names if name.startswith("results/") or name.endswith((".png", ".jpg", ".svg"))] == []
