"""A loss from a file: read without running it, run from its text, and equal to the same loss that is built in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayul.errors import InputError
from rayul.spec import Choice, Float, SpecError, difference, dump_yaml, load_spec, notices, parse_spec
from rayul.spec.gradients import SETTINGS

GD = '''
"""A loss of my own."""
from __future__ import annotations
from typing import Literal, Optional

from rayul.unlearn.losses import mean_nll


def mine(forget, retain, idk, *, retain_weight: float = 1, kind: Literal["nll", "kl"] = "nll", n: Optional[int] = None):
    """GradDiff, written again."""
    return -mean_nll(forget) + retain_weight * mean_nll(retain)


def ascent(forget, retain, idk):
    return -mean_nll(forget)
'''


FILE = "my_loss.py"


def spec_of(method: str, *overrides: str) -> Any:
    text = f"name: x\nmodel: testbed\ndata: testbed\nmethod: {method}\ntraining: {{lr: 1e-3}}\n"
    return parse_spec(text, overrides, source="x.yaml")


def problem(method: str) -> str:
    with pytest.raises(SpecError) as caught:
        spec_of(method)
    (only,) = caught.value.problems
    return str(only)


def test_parameters_come_from_the_signature(write: Callable[[str], Path]) -> None:
    write(GD)
    spec = spec_of("./my_loss.py:mine")
    parameters = {k: v for k, v in spec.method.parameters.items() if k not in SETTINGS}
    assert parameters == {"retain_weight": 1.0, "kind": "nll", "n": None}
    assert isinstance(parameters["retain_weight"], float)
    method = spec.method.of("./my_loss.py:mine")
    assert method.summary == "GradDiff, written again."
    assert method.needs == {"retain"}
    assert spec_of("./my_loss.py:ascent").method.of("./my_loss.py:ascent").needs == frozenset()


def test_parameters_are_checked_and_searched_as_those_of_any_method(write: Callable[[str], Path]) -> None:
    write(GD)
    spec = spec_of("{name: {choice: [ga, ./my_loss.py:mine]}, retain_weight: {float: [0.5, 2]}, kind: kl}")
    assert spec.space == {"method.name": Choice(("ga", "./my_loss.py:mine")), "method.retain_weight": Float(0.5, 2.0)}
    assert not spec.is_active("method.retain_weight", {"method.name": "ga"})
    mine = spec.at({"method.name": "./my_loss.py:mine", "method.retain_weight": 0.75})
    assert mine.method.parameters["retain_weight"] == 0.75
    assert spec.at({"method.name": "ga"}).method.name == "ga"
    assert "x.yaml:4: method.n: expected a whole number" in problem("{name: ./my_loss.py:mine, n: 0.5}")
    assert "did you mean kl?" in problem("{name: ./my_loss.py:mine, kind: kll}")
    assert "did you mean retain_weight?" in problem("{name: ./my_loss.py:mine, retain_wight: 3}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, 'no file "./my_loss.py"'),
        ("def mine(", "./my_loss.py:1: not Python"),
        ("def other(forget, retain, idk): ...", "has no function mine"),
        ("mine = 3", "defines none"),
        ("def mine(forget, retain): ...", "three positional arguments without defaults, got forget, retain"),
        ("def mine(forget, retain, idk=None): ...", "without defaults"),
        ("def mine(forget, retain, idk, *rest): ...", "* or **"),
        ("def mine(forget, retain, idk, **rest): ...", "* or **"),
        ("\ndef mine(forget, retain, idk, *, weight): ...", "./my_loss.py:2: mine: weight has no default"),
        ("def mine(forget, retain, idk, *, weight=None): ...", "weight has no type"),
        ("def mine(forget, retain, idk, *, weight: list = 1): ...", "weight has no type"),
        ("def mine(forget, retain, idk, *, weight=1/3): ...", "the default of weight is not a plain value"),
        ("def mine(forget, retain, idk, *, weight: float = 'a'): ...", "the default of weight: expected a number"),
        ("def mine(forget, retain, idk, *, gru: bool = True): ...", "gru cannot be a parameter"),
        ("def mine(forget, retain, idk): ...\nmine.needs = {'retian'}", "did you mean retain?"),
        ("def mine(forget, retain, idk): ...\nmine.needs = set(x)", "needs is not a plain set"),
        ("def mine(forget, retain, idk): ...\nmine.needs = {'hidden'}", "layer: int | None = None"),
        ("def mine(forget, retain, idk): ...\nmine.retain = 'mse'", "retain is 'mse'"),
        ("def mine(forget, retain, idk): ...\nmine.retain = 1 + 1", "retain is 1 + 1"),
        ("def mine(forget, retain, idk): retain.logp\nmine.retain = 'nll'", "leave one of the two out"),
        ("def mine(forget, retain, idk, *, retain_weight=1.0): ...\nmine.retain = 'nll'", "retain_weight cannot be"),
    ],
)
def test_what_breaks_the_contract_is_a_problem_of_the_spec(
    write: Callable[[str], Path], source: str | None, said: str
) -> None:
    if source is not None:
        write(source)
    got = problem("./my_loss.py:mine")
    assert got.startswith("x.yaml:4: method.name: ")
    assert said in got
    assert "hint: " in got or "not a plain" in got or "the default of" in got


def test_a_file_without_a_function_says_how_to_name_one() -> None:
    assert "./my_loss.py:function" in problem("./my_loss.py")


def test_stated_needs_take_the_place_of_those_read_off_the_body(write: Callable[[str], Path]) -> None:
    write("def mine(forget, keep, refuse): return keep.answers\nmine.needs = {'retain', 'idk', 'reference'}")
    assert spec_of("./my_loss.py:mine").method.of("./my_loss.py:mine").needs == {"retain", "idk", "reference"}
    write("def mine(forget, keep, refuse): return refuse.answers")
    assert spec_of("./my_loss.py:mine").method.of("./my_loss.py:mine").needs == {"idk"}


def test_the_resolved_spec_keeps_the_code(write: Callable[[str], Path]) -> None:
    file = write(GD)
    spec = spec_of("{name: {choice: [ga, ./my_loss.py:mine]}}")
    (file.parent / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    file.unlink()
    assert load_spec(file.parent / "spec.yaml") == spec
    assert "def mine(forget, retain, idk" in (file.parent / "spec.yaml").read_text()
    write(GD + "# changed\n")
    (line,) = difference(spec, spec_of("{name: {choice: [ga, ./my_loss.py:mine]}}"))
    assert line.startswith("method.code../my_loss.py: ")
    assert "sha256" in line
    assert "def mine" not in line


def test_a_line_says_that_code_will_run(write: Callable[[str], Path]) -> None:
    write(GD)
    (line,) = notices(spec_of("./my_loss.py:mine").method.code)
    assert line.startswith("code of ./my_loss.py will run (sha256 ")
    assert notices(spec_of("ga").method.code) == []


def test_validating_neither_runs_the_file_nor_loads_torch(write: Callable[[str], Path]) -> None:
    file = write("import torch\nopen('it_ran', 'w')\n" + GD)
    (file.parent / "x.yaml").write_text(dump_yaml(spec_of("./my_loss.py:mine").resolved()))
    code = "import sys; from rayul.spec import load_spec; load_spec('x.yaml'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=file.parent, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert not (file.parent / "it_ran").exists()


def test_it_trains_as_the_built_in_loss_of_the_same_formula(
    write: Callable[[str], Path], make_spec: Callable[..., Any], task: Any
) -> None:
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.trial import run_trial

    file = write(GD)
    own = make_spec(method={"name": "./my_loss.py:mine", "retain_weight": 0.5})
    file.unlink()  # a worker has the text, not the file
    built_in = make_spec(method={"name": "gd", "retain_weight": 0.5})
    rows = []
    for spec in (own, built_in):
        run = [e for s in run_trial(task, TrialJob("0000", spec, 0, {}, {})) for e in s.evaluations]
        rows.append([(e.step, e.metrics) for e in run])
    assert rows[0] == rows[1]
    assert len(rows[0]) > 2


ASCENT = "from rayul.unlearn.losses import mean_nll\ndef mine(forget, retain, idk): return -mean_nll(forget)\n"


def test_a_retain_term_that_it_asks_for_has_a_weight_that_can_be_searched(write: Callable[[str], Path]) -> None:
    write(ASCENT + "mine.retain = 'kl'")
    spec = spec_of("{name: ./my_loss.py:mine, retain_weight: {float: [0.5, 2]}}")
    assert spec.space == {"method.retain_weight": Float(0.5, 2.0)}
    assert spec.method.of("./my_loss.py:mine").needs == {"retain", "reference"}
    assert spec_of("./my_loss.py:mine").method.retaining == ["./my_loss.py:mine"]
    assert spec_of("{name: ./my_loss.py:mine, retain_weight: 0}").method.retaining == []


@pytest.mark.parametrize(("term", "method", "gradient"), [("nll", "gd", "sam"), ("kl", "kl", "plain")])
def test_with_the_retain_term_that_it_asks_for_it_trains_as_the_built_in_loss(
    term: str,
    method: str,
    gradient: str,
    write: Callable[[str], Path],
    make_spec: Callable[..., Any],
    task: Any,
) -> None:
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.trial import run_trial

    write(ASCENT + f"mine.retain = {term!r}")
    rows = []
    for name in ("./my_loss.py:mine", method):
        spec = make_spec(method={"name": name, "retain_weight": 0.5, "gradient": gradient})
        run = [e for s in run_trial(task, TrialJob("0000", spec, 0, {}, {})) for e in s.evaluations]
        rows.append([(e.step, e.metrics) for e in run])
    assert rows[0] == rows[1], "a gradient rule is given its retain term apart, as of a built-in loss"
    assert len(rows[0]) > 2


def test_an_error_of_its_own_ends_the_trial_with_its_words(
    write: Callable[[str], Path], make_spec: Callable[..., Any], task: Any
) -> None:
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.trial import run_trial

    write("def mine(forget, retain, idk): raise ValueError('not today')")
    *_, last = run_trial(task, TrialJob("0", make_spec(method="./my_loss.py:mine"), 0, {}, {}))
    assert last.ending is not None
    assert (last.ending.state, last.ending.rule) == ("failed", "ValueError")
    assert last.ending.reason == "ValueError: not today"


def test_a_module_that_cannot_be_run_is_named(write: Callable[[str], Path]) -> None:
    from rayul.unlearn.losses import loss_of

    write("import beside_me\ndef mine(forget, retain, idk): ...")
    with pytest.raises(InputError, match=r"\./my_loss\.py cannot be run: ModuleNotFoundError.*beside_me"):
        loss_of(spec_of("./my_loss.py:mine").method)


@pytest.mark.slow
def test_a_sweep_ships_it_and_notes_what_ran(
    write: Callable[[str], Path],
    make_spec: Callable[..., Any],
) -> None:
    import hashlib
    import io

    from rich.console import Console

    from rayul.records import COMPLETED, read_journal
    from rayul.records.manifest import read_manifest
    from rayul.sweep.run import run_sweep

    folder = write(GD).parent / "results"
    said = io.StringIO()
    method = {"name": "./my_loss.py:mine", "retain_weight": {"float": [0.5, 1.0]}}
    run_sweep(make_spec(method=method, search={"trials": 2}), folder, console=Console(file=said, width=200))
    assert "code of ./my_loss.py will run" in said.getvalue()
    assert read_manifest(folder).code == {"./my_loss.py": f"sha256 {hashlib.sha256(GD.encode()).hexdigest()}"}
    ended = [e for e in read_journal(folder / "evaluations.jsonl").endings.values() if e.state == COMPLETED]
    assert len(ended) == 2
