"""What scripts and assistants rely on: strict JSON by documented schemas, exit codes, pages whose commands exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator
from pages import ROOT, code

import rayul.cli
from rayul.cli import app
from rayul.cli.documents import DOCUMENTS, Printed, document_schema
from rayul.cli.machine import is_for_a_program
from rayul.cli.stopped import GOES_ON, sentence
from rayul.errors import InputError, RayulError

sys.path.insert(0, str(Path(__file__).parent / "pareto"))
from synthetic import SPEC, sweep, write_folder

SCRIPTING = (ROOT / "docs" / "scripting.md").read_text()
Run = Callable[..., tuple[int, Any]]


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is not strict JSON")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """run(command, ...) -> exit code and the one document on standard output, which fits its schema."""
    monkeypatch.chdir(tmp_path)

    # It ends the process at once, which is this one here.
    monkeypatch.setattr("rayul.cli._end_stopped", lambda: sys.exit(130))

    def run(*arguments: str) -> tuple[int, Any]:
        monkeypatch.setattr(sys, "argv", ["rayul", *arguments, "--json"])
        capfd.readouterr()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with pytest.raises(SystemExit) as end:
                rayul.cli.main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        document = json.loads(capfd.readouterr().out, parse_constant=refuse_constant)
        name = re.fullmatch(r"rayul\.(\w+)/1", document["format"])
        assert name is not None
        assert [e.message for e in Draft202012Validator(document_schema(name[1])).iter_errors(document)] == []
        assert (end.value.code == 0) == (name[1] != "error")
        if name[1] == "error":
            assert end.value.code == document["exit_code"]
        return int(end.value.code or 0), document

    return run


def test_validate(run: Run) -> None:
    _, document = run("validate", "ga", "npo")
    assert [spec["file"] for spec in document["specs"]] == ["ga", "npo"]
    assert "training.lr" in document["specs"][0]["searched"]
    _, document = run("validate", "ga", "--set", "control.select_by=largest", "--set", "control.mixing=false")
    (unread,) = [note for note in document["specs"][0]["notes"] if "has no effect" in note]
    assert unread == "control.select_by has no effect without control.select_fraction"


def test_validate_has_every_problem_of_every_file_with_its_line(run: Run) -> None:
    Path("a.yaml").write_text("name: a\nmodel: testbed\ndata: testbed\nmethod: gaa\ntraining: {lr: 1e-3}\n")
    Path("b.yaml").write_text("name: b\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: x}\n")
    exit_code, error = run("validate", "a.yaml", "ga", "b.yaml")
    assert (exit_code, error["code"]) == (2, "spec")
    assert [(p["place"], p["key"]) for p in error["problems"]] == [
        ("a.yaml:4", "method.name"),
        ("b.yaml:5", "training.lr"),
    ]
    assert "did you mean ga?" in error["problems"][0]["hint"]
    assert error["message"].startswith("a.yaml:4: method.name: ")


def test_validate_names_missing_columns_beside_what_else_is_wrong(run: Run) -> None:
    Path("f.csv").write_text("frage,antwort\nq,a\n")
    Path("r.jsonl").write_text('{"ask": "q", "answer": "a"}\n')
    Path("p.jsonl").write_text('{"question": "q", "reply": "a"}\n')
    head = "name: a\nmodel: testbed\nmethod: ga\ntraining: {lr: {lr}}\ndata:\n"
    data = (
        "  forget: {path: f.csv, columns: {question: asked, answer: said}}\n  retain: r.jsonl\n  general: gone.jsonl\n"
    )
    probes = "probes:\n  town:\n    rows: p.jsonl\n    metrics: [rouge]\n"
    of_rows = [("s.yaml:6", "data.forget"), ("s.yaml:7", "data.retain"), ("s.yaml:11", "probes.town.rows")]
    Path("s.yaml").write_text(head.replace("{lr}", "x") + data + probes)
    exit_code, error = run("validate", "s.yaml")
    assert (exit_code, error["code"]) == (2, "spec")
    found = {(p["place"], p["key"]): p for p in error["problems"]}
    wrong = [("s.yaml:4", "training.lr"), *of_rows[:2], ("s.yaml:8", "data.general.path"), of_rows[2]]
    assert list(found) == wrong
    said = found[of_rows[0]]
    assert said["message"] == "f.csv: columns.question, columns.answer: there is no column 'asked' or 'said' in 1 row"
    assert said["hint"] == "the columns are: frage, antwort"
    assert found[of_rows[1]]["message"] == "r.jsonl:1: no 'question'"
    assert found[of_rows[2]]["message"] == "p.jsonl:1: no 'answer'"

    Path("gone.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    Path("s.yaml").write_text(head.replace("{lr}", "1e-3") + data + probes)
    _, error = run("validate", "s.yaml")
    assert [(p["place"], p["key"]) for p in error["problems"]] == of_rows, "also of a spec that is right but for them"
    _, error = run("validate", "s.yaml", "--set", "data.columns.question=ask", "--set", "training.lr=x")
    assert "r.jsonl:1: no 'question'" not in [p["message"] for p in error["problems"]], "overrides name columns, too"


def test_report_and_status(run: Run) -> None:
    folder = write_folder(Path("s"), sweep(20))
    _, report = run("report", "s")
    assert Path(report["report"]).is_file()
    points = report["front"]
    assert report["best"] in points
    assert report["best"]["forgotten"] == max(point["forgotten"] for point in points) > 0.05
    assert report["limits"][0]["bound"] == "at_least"
    assert report["figures"] is None
    _, status = run("status", "s")
    assert (status["phase"], status["asked"], status["ended"]) == ("stopped", 64, 20)
    assert status["front"] == points
    assert sum(status["pruned_by"].values()) == status["trials"]["pruned"]
    whole = write_folder(Path("t"), sweep(20), SPEC.replace("trials: 64", "trials: 20"))
    assert run("status", str(whole))[1]["phase"] == "finished"
    assert folder.is_dir()


def test_compare(run: Run) -> None:
    write_folder(Path("a"), sweep(20))
    write_folder(Path("b"), sweep(20, seed=1), SPEC.replace("name: synthetic", "name: other"))
    _, document = run("compare", "a", "b", "--out", "page.html")
    assert Path("page.html").is_file()
    labels = [one["label"] for one in document["sweeps"]]
    assert len(set(labels)) == 2
    assert {level["winner"] for level in document["levels"]} <= set(labels)
    assert all(document["covers"][label][label] == 1 for label in labels)
    assert (document["over_seeds"], document["pairs"]) == (None, [])


def test_compare_has_each_pair_of_recipes_and_what_it_owes_to_chance(run: Run) -> None:
    folders = []
    for n, method in enumerate(("gd", "npo", "kl")):
        for seed in range(3 if n else 2):
            text = SPEC.replace("name: {choice: [ga, gd]}", f"name: {method}").replace("seed: 0}", f"seed: {seed}}}")
            write_folder(
                Path(f"{method}-{seed}"), sweep(9, seed=10 * n + seed), text.replace("synthetic", f"{method}-{seed}")
            )
            folders.append(f"{method}-{seed}")
    _, document = run("compare", *folders)
    pairs = document["pairs"]
    assert pairs[0] == document["over_seeds"]
    assert {frozenset(one[side][0][:2] for side in ("first", "second")) for one in pairs} == {
        frozenset(pair) for pair in (("gd", "np"), ("gd", "kl"), ("np", "kl"))
    }
    for one in pairs:
        with_two = "gd-0" in one["first"] + one["second"]
        assert (one["p"] is None, one["corrected"] is None, one["margin"] == "nan") == (with_two,) * 3
        assert not (with_two and one["clear"])
    assert any("drawn at random" in note for note in document["notes"])
    assert any("share training seeds" in note for note in document["notes"])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["status", "nothing"], "input"),
        (["report", "nothing"], "input"),
        (["certify", "nothing"], "input"),
        (["compare", "nothing"], "input"),
        (["plan", "nothing"], "spec"),
        (["validate", "nothing"], "spec"),
        (["validate"], "usage"),
        (["validate", "ga", "--no-such-flag"], "usage"),
        (["no-such-command"], "usage"),
        (["sweep", "ga"], "usage"),
    ],
)
def test_bad_input_is_a_document_too(run: Run, arguments: list[str], code: str) -> None:
    exit_code, error = run(*arguments)
    assert (exit_code, error["code"]) == (2, code)
    assert error["message"]
    assert (error["problems"] != []) == (code == "spec")


@pytest.mark.parametrize(
    ("raised", "code", "exit_code"),
    [
        (RayulError("it broke", "mend it"), "failed", 1),
        (InputError("it is wrong"), "input", 2),
        (KeyboardInterrupt(), "interrupted", 130),
        (typer.Exit(130), "interrupted", 130),
        (ZeroDivisionError("division by zero"), "internal", 1),
    ],
)
def test_whatever_happens_is_a_document(
    run: Run, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: str, exit_code: int
) -> None:
    def load_records(folder: Path) -> None:
        print("a library that talks")
        os.write(1, b"in C\n")
        raise raised

    monkeypatch.setattr("rayul.report.status.load_records", load_records)
    write_folder(Path("s"), sweep(3))
    assert run("status", "s")[1]["code"] == code
    assert run("status", "s")[0] == exit_code


def test_plan_and_certify_return_their_documents(tmp_path: Path) -> None:
    """`plan` measures, and `certify` trains: here their documents are made of objects with the same attributes."""
    from types import SimpleNamespace as Of

    from rayul.cli.documents import CertifyDocument, PlanDocument
    from rayul.records.attacked import Attacked, attack_journal
    from rayul.records.folder import load_records
    from rayul.report import summary_of
    from rayul.spec import load_spec

    cost = Of(
        device="2 cores", step=0.1, evaluation=float("nan"), memory=1, device_memory=2, baseline={"a.b": Of(value=1.0)}
    )
    plan: Any = Of(
        spec=load_spec("ga"), trials=64, combinations=54, continuous=("training.lr",), rows={"forget": 80},
        groups={"forget": 8}, cost=cost, trial_seconds=3.0, seconds=lambda: 9.0, usual_seconds=lambda: 9.0,
        device_hours=lambda: 0.1, on_gpu=False, slots=2, disk=5, disk_free=6, saved=None, certificate=("one",),
        warnings=["two"],
    )  # fmt: skip
    folder = write_folder(tmp_path / "s", sweep(20))
    at = {"at": (0, 5), "es": (0.2, 0.7), "stderr": (0.1, 0.1), "before": 0.2, "baseline": 1.0}
    attack_journal(folder).append(
        Attacked("0003-20-0.9", "fine-tune", "own rows, lr 1", **at), Attacked("0003-20-0.9", "noise", "", reason="why")
    )
    results = load_records(folder)
    attacks = CertifyDocument.of(summary_of(results), results).plain()["attacks"]
    assert [(one["attack"], one["returned"], one["half"], one["reason"]) for one in attacks] == [
        ("fine-tune", pytest.approx(0.625), 5, ""),
        ("noise", None, None, "why"),
    ]
    for document in (PlanDocument.of(plan), CertifyDocument.of(summary_of(results), results)):
        plain = document.plain()
        name = plain["format"].removeprefix("rayul.").removesuffix("/1")
        Draft202012Validator(document_schema(name)).validate(json.loads(json.dumps(plain, allow_nan=False)))
    assert PlanDocument.of(plan).plain()["evaluation_seconds"] == "nan"


def test_the_flag_is_found_where_it_is_one() -> None:
    assert is_for_a_program(["status", "x", "--json"])
    assert not is_for_a_program(["status", "--", "--json"])
    assert not is_for_a_program(["status", "x"])


# --- exit codes ------------------------------------------------------------------------------------------------------


def rayul_process(*arguments: str, cwd: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.argv = ['rayul', *{list(arguments)!r}]; {code}\nfrom rayul.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=False, env=environment
    )


def test_exit_codes_are_those_of_the_table(tmp_path: Path) -> None:
    documented = {int(number) for number in re.findall(r"^\| (\d+) \|", SCRIPTING, re.MULTILINE)}
    write_folder(tmp_path / "s", sweep(3))
    (tmp_path / "s" / "evaluations.jsonl").write_text("not a journal\n" * 3)
    (tmp_path / "t").mkdir()
    interrupt = "import os, signal, rayul.spec.load as l; l._read = lambda p: os.kill(os.getpid(), signal.SIGTERM)"
    seen = {
        0: rayul_process("validate", "ga", cwd=tmp_path),
        1: rayul_process("report", "s", cwd=tmp_path),
        2: rayul_process("report", "t", cwd=tmp_path),
        130: rayul_process("validate", "ga", cwd=tmp_path, code=interrupt),
    }
    assert {number: done.returncode for number, done in seen.items()} == {number: number for number in seen}
    assert documented == set(seen)
    assert [number for number, done in seen.items() if done.stdout] == [0]
    assert seen[1].stderr
    assert seen[2].stderr
    assert "Traceback" not in "".join(done.stderr for done in seen.values())
    assert seen[130].stderr == "stopped: nothing was written\n"


def test_a_sweep_begins_with_the_warnings_of_validate(tmp_path: Path) -> None:
    """Also one that is then refused, which costs nothing here."""
    write_folder(tmp_path / "results" / "ga", sweep(3))
    told = rayul_process("validate", "ga", "--set", "search.trials=8", cwd=tmp_path).stdout
    (line,) = [line.removeprefix("ga: ") for line in told.splitlines() if "all of them are random" in line]
    done = rayul_process("sweep", "ga", "--trials", "8", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count(f"warning: {line}") == 1
    assert "warning" not in rayul_process("sweep", "ga", cwd=tmp_path).stderr


def test_an_interrupted_command_says_how_to_go_on() -> None:
    assert sentence("audit", ["audit", "my results/x"]).endswith(": rayul audit 'my results/x'")
    assert sentence("certify", ["certify", "x", "--again"]).endswith(": rayul certify x"), "a reading goes on without"
    assert set(GOES_ON) <= {command.name or command.callback.__name__ for command in app.registered_commands}


# --- pages -----------------------------------------------------------------------------------------------------------


def test_every_key_of_every_document_is_on_the_page() -> None:
    parts = {
        title.split()[-1].strip("*"): set(re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE))
        for title, body in re.findall(
            r"^(### \w+|\*\*\w+\*\*)\n(.*?)(?=^#|^\*\*|\Z)", SCRIPTING, re.DOTALL | re.MULTILINE
        )
    }
    named = {"errors" if name == "error" else name: document for name, document in DOCUMENTS.items()}
    for name, document in named.items():
        found = parts.get(name) or parts.get(name.capitalize())
        assert found == set(document.model_fields), name
    of_parts = [set(cls.model_fields) for cls in Printed.__subclasses__() if "format" not in cls.model_fields]
    for keys in of_parts:
        assert keys in parts.values() or keys < set(DOCUMENTS["report"].model_fields), keys


def commands(page: str) -> list[str]:
    text = (ROOT / page).read_text()
    blocks = [line for block in code(page) if block.language == "bash" for line in block.commands]
    inline = re.findall(r"`(rayul [^`]+)`", text)
    return [line for line in dict.fromkeys([*blocks, *inline]) if line.startswith("rayul ")]


@pytest.mark.parametrize(
    "line", [line for page in ("docs/llms.txt", "docs/examples.md", "docs/scripting.md") for line in commands(page)]
)
def test_every_command_of_the_pages_exists(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    group = typer.main.get_command(app)
    if name.startswith("--"):
        assert name in {option for parameter in group.params for option in parameter.opts}
        return
    command = group.get_command(None, name)  # type: ignore[attr-defined]
    assert command is not None, f"no command {name}"
    if arguments:
        command.make_context(name, arguments)


def test_the_specs_of_the_examples_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayul.spec import load_spec

    monkeypatch.chdir(tmp_path)
    for line in commands("docs/examples.md"):
        words = shlex.split(line)
        if words[1] == "sweep" and len(words) > 2 and words[2] != "mine.yaml":
            load_spec(words[2], [value for flag, value in pairwise(words) if flag == "--set"])


def test_llms_txt_has_the_form_that_assistants_expect_and_its_pages_exist() -> None:
    """llmstxt.org: a title, a summary as a quote, then sections of links."""
    lines = (ROOT / "docs" / "llms.txt").read_text().splitlines()
    assert lines[0] == "# rayul"
    assert lines[2].startswith("> ")
    links = re.findall(r"^- \[[^]]+\]\(([^)]+)\)", "\n".join(lines), re.MULTILINE)
    assert len(links) > 8
    assert [link for link in links if not (ROOT / "docs" / link).is_file()] == []
