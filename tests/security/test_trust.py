"""Code that a results folder carries: never run unasked, named before it runs, and asked about once."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "pareto"))
from synthetic import SPEC, sweep, write_folder

from rayul.errors import InputError
from rayul.pareto.front import front_of
from rayul.records.folder import load_records
from rayul.records.trusted import check_trusted, code_of, is_recorded, trust, trusted_folder
from rayul.report import load_results, summarise
from rayul.report.compare import load_comparison
from rayul.report.status import read_status
from rayul.spec import Spec, load_spec, parse_spec

KINDS: dict[str, dict[str, Any]] = {
    "metric": {"evaluate": {"metrics": ["es", "prob", "./own.py:metric"]}},
    "loss": {"method": {"name": "./own.py:loss"}},
    "control": {"control": {"own": [{"name": "./own.py:control"}]}},
    "rule": {"pruning": {"rules": ["./own.py:rule"]}},
    "sampler": {"search": {"sampler": "./own.py:sampler", "trials": 4}},
    "model": {"model": {"path": "someone/model", "trust_remote_code": True}},
}


def source(mark: Path) -> str:
    return f"""\
import pathlib
pathlib.Path({str(mark)!r}).touch()
def metric(scores): return 0.0
metric.better = "higher"
def loss(forget, retain, idk): return forget.nll.sum()
def control(answers): return answers
def rule(trial, others, baseline): return None
def sampler(seed, startup_trials): ...
"""


@pytest.fixture(autouse=True)
def nothing_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What the code leaves behind when it runs."""
    return tmp_path / "it_ran"


@pytest.fixture
def received(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """received(kind) -> a results folder with code of that kind in its spec.yaml, as a sweep writes it."""

    def make(kind: str) -> Path:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "own.py").write_text(source(mark))
        plain = yaml.safe_load(SPEC) | KINDS[kind]
        if kind == "model":
            plain |= {"oracle": "testbed"}
        spec = parse_spec(yaml.safe_dump(plain), (), source="x", check_files=False)
        (tmp_path / "own.py").unlink()
        from rayul.spec import dump_yaml

        return write_folder(tmp_path / "received" / kind, sweep(8), dump_yaml(spec.resolved()))

    return make


def runners(folder: Path, trusted: bool) -> dict[str, Callable[[], object]]:
    from rayul.sweep.audit import audit_sweep
    from rayul.sweep.export import export
    from rayul.sweep.run import run_sweep

    results, spec = load_records(folder), load_spec(folder / "spec.yaml")
    return {
        "export": lambda: export(results, front_of(results)[0], folder.parent / "out", trust=trusted),
        "audit": lambda: audit_sweep(folder, trust=trusted),
        "resume": lambda: run_sweep(spec, folder, resume=True, trust=trusted),
    }


@pytest.mark.parametrize("runner", ["export", "audit", "resume"])
@pytest.mark.parametrize("kind", KINDS)
def test_code_of_a_received_folder_is_named_and_not_run(
    kind: str, runner: str, received: Callable[[str], Path], mark: Path
) -> None:
    folder = received(kind)
    with pytest.raises(InputError, match="would run code that you have not trusted") as caught:
        runners(folder, False)[runner]()
    assert str(folder) in str(caught.value)
    named = "someone/model (trust_remote_code)" if kind == "model" else "./own.py, 8 lines, sha256 "
    assert named in str(caught.value)
    assert "--trust" in caught.value.hint
    assert not mark.exists()
    assert not trusted_folder().exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_reads_never_runs_code_and_asks_nothing(
    kind: str, received: Callable[[str], Path], mark: Path
) -> None:
    folder = received(kind)
    assert load_results(folder).front
    read_status(folder, held=False)
    summarise(folder)
    load_comparison([folder, Path(shutil.copytree(folder, folder.with_name("copy")))])
    load_spec(folder / "spec.yaml", check_files=False)
    assert not mark.exists()


@pytest.mark.parametrize("command", ["sweep --resume", "plan", "audit", "export --knee"])
def test_commands_refuse_it_with_exit_code_2(command: str, received: Callable[[str], Path], mark: Path) -> None:
    folder = received("metric")
    name, *flags = command.split()
    place = folder / "spec.yaml" if name in ("sweep", "plan") else folder
    flags += ["--results", str(folder.parent), "--name", "metric"] if name == "sweep" else []
    if name == "export":
        for e in front_of(load_records(folder)):
            adapter = folder / "adapters" / f"{e.trial_id}-{e.step}-{e.mixing:g}"
            adapter.mkdir(parents=True)
            (adapter / "adapter_model.safetensors").touch()
            (adapter / "adapter_config.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "rayul", name, str(place), *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"{place} would run code that you have not trusted:\n  ./own.py, 8 lines, sha256 " in done.stderr
    assert not mark.exists()


def test_whoever_reads_a_recorded_spec_to_run_it_asks_first() -> None:
    """So that no later command forgets: all but what only compares the spec with another (sweep/folder.py)."""
    for path in (Path(__file__).parents[2] / "rayul" / "sweep").rglob("*.py"):
        text = path.read_text()
        reads = [line for line in text.splitlines() if " load_spec(" in line and "check_files=False" not in line]
        assert not reads or "check_trusted(" in text or path.name == "folder.py", path


def test_trust_is_kept_by_hash_and_private(received: Callable[[str], Path]) -> None:
    spec = load_spec(received("metric") / "spec.yaml")
    check_trusted(spec, "x", trusted=True)
    check_trusted(spec, "x", trusted=False)
    (code,) = code_of(spec)
    (kept,) = trusted_folder().iterdir()
    assert kept.name == code.sha256
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    other = load_spec(received("metric") / "spec.yaml", ["evaluate.batch_size=8"])
    check_trusted(other, "x", trusted=False)


def test_one_character_more_is_other_code(received: Callable[[str], Path]) -> None:
    folder = received("loss")
    trust(load_spec(folder / "spec.yaml"))
    text = (folder / "spec.yaml").read_text()
    (folder / "spec.yaml").write_text(text.replace("import pathlib", "import  pathlib"))
    with pytest.raises(InputError, match="not trusted"):
        check_trusted(load_spec(folder / "spec.yaml"), folder, trusted=False)


def test_two_texts_of_one_path_are_both_asked_about(tmp_path: Path) -> None:
    """The text of one section must not stand for that of another."""
    good, bad = "def fn(scores): return 0.0\nfn.better = 'higher'\n", "def fn(answers): return answers\n"
    plain = yaml.safe_load(SPEC)
    plain["evaluate"] = {"metrics": ["es", "./a.py:fn"], "code": {"./a.py": good}}
    plain["control"] = {"own": [{"name": "./a.py:fn", "code": {"./a.py": bad}}]}
    spec = parse_spec(yaml.safe_dump(plain), (), source="x", check_files=False)
    assert len(code_of(spec)) == 2


def test_a_path_cannot_add_lines_to_what_is_named() -> None:
    path = "./a.py, 1 lines, sha256 0\n  hint: harmless.py"
    plain = yaml.safe_load(SPEC)
    code = {path: "def fn(scores): return 0.0\nfn.better = 'higher'\n"}
    plain["evaluate"] = {"metrics": ["es", f"{path}:fn"], "code": code}
    spec = parse_spec(yaml.safe_dump(plain), (), source="x", check_files=False)
    with pytest.raises(InputError) as caught:
        check_trusted(spec, "x", trusted=False)
    assert len(caught.value.message.splitlines()) == 2


@pytest.mark.parametrize("spoil", ["link", "mode", "folder"])
def test_a_mark_that_somebody_else_could_have_made_does_not_count(
    spoil: str, received: Callable[[str], Path], tmp_path: Path
) -> None:
    spec = load_spec(received("metric") / "spec.yaml")
    path = trusted_folder() / code_of(spec)[0].sha256
    trust(spec)
    path.unlink()
    if spoil == "link":
        (tmp_path / "elsewhere").touch()
        path.symlink_to(tmp_path / "elsewhere")
    elif spoil == "mode":
        path.touch()
        path.chmod(0o666)
    else:
        path.mkdir()
    with pytest.raises(InputError, match="not trusted"):
        check_trusted(spec, "x", trusted=False)


def with_code(folder: Path, text: str, tiny_folder: Path) -> Spec:
    if not folder.exists():
        shutil.copytree(tiny_folder, folder)
    (folder / "modeling_own.py").write_text(text)
    plain = yaml.safe_load(SPEC) | {"model": {"path": str(folder), "trust_remote_code": True}}
    return parse_spec(yaml.safe_dump(plain), (), source="x")


def test_the_code_of_a_model_in_a_folder_is_trusted_by_its_text(tmp_path: Path, tiny_folder: Path) -> None:
    spec = with_code(tmp_path / "model", "class M: pass\n", tiny_folder)
    trust(spec)
    check_trusted(spec, "x", trusted=False)
    moved = with_code(tmp_path / "moved", "class M: pass\n", tiny_folder)
    check_trusted(moved, "x", trusted=False)
    with pytest.raises(InputError, match="not trusted"):
        check_trusted(with_code(tmp_path / "model", "class M: evil = 1\n", tiny_folder), "x", trusted=False)
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil/repository--modeling.M"}
    (tmp_path / "moved" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not trusted"):
        check_trusted(moved, "x", trusted=False)


def test_a_spec_of_ones_own_is_told_from_a_recorded_one(tmp_path: Path, received: Callable[[str], Path]) -> None:
    folder = received("metric")
    (tmp_path / "own.yaml").write_text(SPEC)
    assert not is_recorded(tmp_path / "own.yaml")
    assert is_recorded(folder / "spec.yaml")
    shutil.copy(folder / "spec.yaml", tmp_path / "copied.yaml")
    assert is_recorded(tmp_path / "copied.yaml"), "it carries its code"
    (folder / "own.yaml").write_text(SPEC)
    assert is_recorded(folder / "own.yaml"), "it lies in a results folder"


def test_who_trusts_runs_it_and_is_not_asked_again(tiny_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    """A real export of a received folder: refused, then trusted, then as any other."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from exported import write_results

    from rayul.sweep.export import export

    mark = tmp_path / "it_ran"
    text = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\ndef own(scores): return 0.5\nown.better = 'higher'\n"
    evaluate = {"metrics": ["prob", "./own.py:own"], "code": {"./own.py": text}}
    folder = write_results(tmp_path / "received" / "tiny", tiny_folder, data_folder, evaluate=evaluate)
    mark.unlink()
    for name in list(sys.modules):  # a new process would have run nothing yet
        if name.startswith("rayul_own_"):
            del sys.modules[name]
    results = load_results(folder)
    with pytest.raises(InputError, match=r"\./own\.py, 4 lines"):
        export(results, results.front[0], tmp_path / "out")
    assert not mark.exists()
    export(results, results.front[0], tmp_path / "out", trust=True)
    assert mark.exists()
    export(results, results.front[0], tmp_path / "again")
    for path in (tmp_path / "again").rglob("*"):
        wanted = stat.S_IMODE((tmp_path / "again").stat().st_mode) & (0o777 if path.is_dir() else 0o666)
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


@pytest.mark.parametrize(("umask", "folder_mode"), [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_weights_have_the_mode_of_their_folder(
    umask: int, folder_mode: int, task: Any, make_spec: Callable[..., Any], tmp_path: Path
) -> None:
    """safetensors writes for the owner alone: a shared folder of adapters was one that nobody else could load."""
    from rayul.files import share_folder
    from rayul.unlearn.update.lora import LoraUpdate, attach_lora
    from rayul.unlearn.update.saved import detach_adapter

    before = os.umask(umask)
    try:
        model = attach_lora(task.base, make_spec().lora, 0)
        LoraUpdate(model).save(1.0, tmp_path / "adapter")
        detach_adapter(model)
        weights = tmp_path / "adapter" / "adapter_model.safetensors"
        assert stat.S_IMODE(weights.parent.stat().st_mode) == folder_mode
        assert stat.S_IMODE(weights.stat().st_mode) == folder_mode & 0o666
        share_folder(tmp_path / "adapter", 0o750)
        assert {stat.S_IMODE(p.stat().st_mode) for p in weights.parent.iterdir()} == {0o640}
    finally:
        os.umask(before)
