"""A pruning rule from a user's file: read without being run, asked last, and clear about its own errors."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from driver import ended, endings, rows, sweep, write_spec

from rayul.errors import InputError
from rayul.records import Evaluation
from rayul.spec import SpecError, difference, dump_yaml, load_spec
from rayul.spec.load import parse_spec
from rayul.sweep import connection  # noqa: F401  before ray.tune, as everywhere
from rayul.sweep.result import TrialResult

# isort: split
from rayul.sweep.folder import MAY_CHANGE
from rayul.sweep.pruning.history import History, Stop
from rayul.sweep.pruning.rules import rules_of
from rayul.sweep.pruning.scheduler import PruningScheduler

BASE = {"forget.es": 0.8, "retain.es": 0.5}
SLOW = '''
def slow(trial, others, baseline):
    """Stop a trial that has forgotten less than a tenth by step 4."""
    last = trial[-1]
    if last.step >= 4 and last.metrics["forget.es"] > 0.9 * baseline["forget.es"]:
        return f"forget.es is still {last.metrics['forget.es']:.3f} at step {last.step}"
'''
SEES = """
seen = []

def fn(trial, others, baseline):
    seen.append((list(trial), {name: list(rows) for name, rows in others.items()}, dict(baseline)))
"""


def spec_of(*overrides: str, rules: str = "[./mine.py:slow]") -> Any:
    text = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"
    return parse_spec(f"{text}pruning: {{rules: {rules}}}\n", overrides, source="x.yaml")


def row(trial: int, step: int, forget: float, retain: float = 0.5, mixing: float = 1.0) -> Evaluation:
    return Evaluation(f"{trial:04d}", step, mixing, metrics={"forget.es": forget, "retain.es": retain})


def test_it_stops_a_trial_under_its_own_name(write: Callable[[str], Path]) -> None:
    write(SLOW)
    history = History(spec_of(), BASE, [row(0, 0, 0.8), row(0, 4, 0.75), row(1, 4, 0.2)])
    *_, rule = rules_of(history.spec)
    assert rule(history, "0000", 0) is None
    assert rule(history, "0000", 4) == Stop("./mine.py:slow", "forget.es is still 0.750 at step 4")
    assert rule(history, "0001", 4) is None


def test_built_in_rules_are_asked_before_it(write: Callable[[str], Path]) -> None:
    write(SLOW)
    spec = spec_of("control=[{metric: retain.es, at_least: 0.45, patience: 1}]")
    scheduler = PruningScheduler(spec, BASE)
    for trial, retain in enumerate((0.5, 0.1)):
        last = row(trial, 4, 0.75, retain)
        assert scheduler.on_trial_result(None, SimpleNamespace(), TrialResult([last]).to_ray()) == "STOP"  # type: ignore[arg-type]
    assert [stop.rule for stop in scheduler.stops.values()] == ["./mine.py:slow", "retain.es"]


def test_it_sees_its_trial_until_now_and_all_that_others_reached(write: Callable[[str], Path]) -> None:
    write(SEES)
    spec = spec_of(rules="[./mine.py:fn]")
    mine = [row(0, 0, 0.8), row(0, 2, 0.7), row(0, 2, 0.75, mixing=0.5), row(0, 4, 0.6)]
    other = [row(1, 0, 0.8), row(1, 8, 0.1)]
    (rule,) = rules_of(spec)[-1:]
    rule(History(spec, BASE, [mine[2 - 1], *mine, *other]), "0000", 2)
    import sys

    module = next(m for name, m in sys.modules.items() if name.startswith("rayul_own_") and hasattr(m, "seen"))
    assert module.seen == [(mine[:3], {"0001": other}, BASE)]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('not today')", "./mine.py:fn failed for trial 0000 at step 4: ValueError: not today"),
        ("return trial[99]", "./mine.py:fn failed for trial 0000 at step 4: IndexError"),
        ("return True", "./mine.py:fn returned True for trial 0000 at step 4"),
        ("return ''", "./mine.py:fn returned '' for trial 0000 at step 4"),
    ],
)
def test_its_own_error_names_file_and_function_and_the_way_on(
    write: Callable[[str], Path], body: str, said: str
) -> None:
    write(f"def fn(trial, others, baseline):\n    {body}\n")
    history = History(spec_of(rules="[./mine.py:fn]"), BASE, [row(0, 4, 0.75)])
    *_, rule = rules_of(history.spec)
    with pytest.raises(InputError) as caught:
        rule(history, "0000", 4)
    assert caught.value.message.startswith(said)
    assert "pruning.rules" in caught.value.hint
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "rules", "said"),
    [
        (None, "[./mine.py:fn]", 'no file "./mine.py"'),
        ("def fn(", "[./mine.py:fn]", "./mine.py:1: not Python"),
        ("def other(trial, others, baseline): ...", "[./mine.py:fn]", "has no function fn"),
        ("def fn(trial): ...", "[./mine.py:fn]", "three positional arguments without defaults, got trial"),
        ("def fn(trial, others, baseline, *, k): ...", "[./mine.py:fn]", "k has no default"),
        ("def fn(*trial): ...", "[./mine.py:fn]", "* or **"),
        ("def fn(trial, others, baseline): ...", "[./mine.py:fn, ./mine.py:fn]", "./mine.py:fn stands twice"),
        (None, "[dominance]", '"dominance" is not a function in a file'),
        (None, "[3]", "./my_rule.py:fn"),
        (None, "./mine.py:fn", "pruning.rules"),
    ],
)
def test_what_breaks_the_contract_is_a_problem_of_the_spec(
    write: Callable[[str], Path], source: str | None, rules: str, said: str
) -> None:
    if source is not None:
        write(source)
    with pytest.raises(SpecError) as caught:
        spec_of(rules=rules)
    (problem,) = map(str, caught.value.problems)
    assert problem.startswith("x.yaml:6: pruning.rules")
    assert said in problem


def test_the_text_travels_with_the_spec_and_is_not_run(write: Callable[[str], Path], tmp_path: Path) -> None:
    source = SLOW + "\nraise RuntimeError('this ran')\n"
    file = write(source)
    spec = spec_of()
    (tmp_path / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    file.unlink()
    again = load_spec(tmp_path / "spec.yaml")
    assert again.code == {"./mine.py": source}
    assert difference(spec, again) == []
    assert again.at({}).pruning == spec.pruning
    assert any("code of ./mine.py will run" in line for line in again.notices)
    with pytest.raises(InputError, match=r"\./mine\.py cannot be run: RuntimeError: this ran"):
        rules_of(again)
    assert (
        "code"
        not in parse_spec("name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1}\n").resolved()[
            "pruning"
        ]
    )


def test_a_resume_may_mend_it_or_take_it_out(write: Callable[[str], Path]) -> None:
    write(SLOW)
    before = spec_of()
    write(SLOW.replace("0.9", "0.95"))
    for after in (spec_of(), spec_of(rules="[]")):
        changed = difference(before, after)
        assert changed
        assert all(line.startswith(MAY_CHANGE) for line in changed)


def sections(file: Path, function: str) -> dict[str, Any]:
    training = {"lr": {"float": [1e-6, 1e-5]}, "batch_size": 4, "steps": 8, "evaluate_every": 2}
    return {
        "method": "ga",
        "training": training,
        "control": [],
        "pruning": {"dominance": False, "rules": [f"{file}:{function}"]},
        "search": {"sampler": "random", "trials": 3},
    }


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Standard error without the line breaks of a terminal."""
    return " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_real_sweep_is_pruned_by_it(
    write: Callable[[str], Path], tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    file = write(SLOW.replace("forget.es", "forget.prob"))
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, **sections(file, "slow"))
    done = sweep(spec, tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert f"code of {file} will run" in said(done)
    found = endings(tmp_path / "results" / "tiny").values()
    assert {(end["state"], end["rule"]) for end in found} == {("pruned", f"{file}:slow")}
    assert all(end["reason"].startswith("forget.prob is still 0.") for end in found)
    assert max(row["step"] for row in rows(tmp_path / "results" / "tiny")) == 4


@pytest.mark.slow
def test_one_that_breaks_stops_the_sweep_and_a_resume_with_it_mended_goes_on(
    write: Callable[[str], Path], tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    source = "def fn(trial, others, baseline):\n    if trial[-1].step > 4:\n        return trial[99]\n"
    file, folder = write(source), tmp_path / "results" / "tiny"
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, **sections(file, "fn"))
    done = sweep(spec, tmp_path / "results")
    assert done.returncode == 2, done.stderr
    assert f"{file}:fn failed for trial 000" in said(done)
    assert "IndexError" in said(done)
    assert "--resume" in said(done)
    assert "Traceback" not in done.stderr
    before = (folder / "evaluations.jsonl").read_bytes()
    assert {row["step"] for row in rows(folder)} == {0, 2, 4}
    assert sweep(spec, tmp_path / "results", "--resume").returncode == 2, "it is still broken"
    write(source.replace("trial[99]", "None"))
    again = sweep(spec, tmp_path / "results", "--resume")
    assert again.returncode == 0, again.stderr
    assert (folder / "evaluations.jsonl").read_bytes().startswith(before)
    assert ended(folder) == dict.fromkeys(("0000", "0001", "0002"), "completed")


@pytest.mark.slow
def test_one_that_cannot_be_run_is_refused_before_anything_is_spent(
    write: Callable[[str], Path], tmp_path: Path, tiny_folder: Path, data_folder: Path
) -> None:
    file = write("import beside_me\ndef fn(trial, others, baseline): ...\n")
    spec = write_spec(tmp_path / "tiny.yaml", tiny_folder, data_folder, **sections(file, "fn"))
    done = sweep(spec, tmp_path / "results")
    assert done.returncode == 2, done.stderr
    assert "cannot be run: ModuleNotFoundError" in said(done)
    assert not (tmp_path / "results" / "tiny").exists()
