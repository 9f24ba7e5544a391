"""A metric from a file: read without running it, run from its text on every row, and judged as any other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed import advance

from rayul.errors import InputError
from rayul.spec import SpecError, difference, dump_yaml, load_spec, notices, parse_spec

MINE = '''
"""Metrics of my own."""
from __future__ import annotations

import numpy as np


def weakest(scores) -> float:
    """Probability of the least likely token of an answer."""
    return np.exp(scores.logp.min())


weakest.better = "higher"


def whole(scores, *, share: float = 1.0):
    return bool(scores.match.mean() >= share)


whole.better = "higher"


def surprise(scores) -> float:
    return -scores.logp.mean()


surprise.better = "lower"
'''


def spec_of(metrics: str, *overrides: str) -> Any:
    text = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"
    return parse_spec(f"{text}evaluate: {{metrics: {metrics}}}\n", overrides, source="x.yaml")


def problems(metrics: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec_of(metrics, *overrides)
    return [str(p) for p in caught.value.problems]


def test_its_name_stands_in_objectives_and_criteria(write: Callable[[str], Path]) -> None:
    write(MINE)
    spec = spec_of(
        "[./mine.py:weakest, ./mine.py:whole]",
        "objectives={forget.weakest: minimize, retain.whole: maximize}",
        "control=[{metric: general.weakest, at_least: 80% of baseline}]",
    )
    assert dict(spec.objectives) == {"forget.weakest": "minimize", "retain.whole": "maximize"}
    assert spec.control.criteria[0].metric == "general.weakest"
    assert spec.evaluate.names == ("weakest", "whole")
    assert spec.at({}) == spec


def test_direction_and_summary_come_from_the_text(write: Callable[[str], Path]) -> None:
    write(MINE)
    measures = spec_of("[es, ./mine.py:weakest, ./mine.py:surprise]", "objectives={forget.es: minimize}").evaluate
    weakest, surprise = measures.of("weakest"), measures.of("surprise")
    assert (weakest.direction_on_utility, surprise.direction_on_utility) == ("higher", "lower")
    assert weakest.summary == "Probability of the least likely token of an answer."
    assert measures.of("es").direction_on_utility == "higher"
    assert measures.of("whole") is None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, 'no file "./mine.py"'),
        ("def mine(", "./mine.py:1: not Python"),
        ("def other(scores): ...", "has no function mine"),
        ("\ndef mine(scores): ...", "./mine.py:2: mine does not say which way is better"),
        ("def mine(scores): ...\nmine.better = 'more'", "better is 'more'"),
        ("def mine(scores): ...\nmine.better = HIGHER", "better is HIGHER"),
        ("def mine(scores, row): ...\nmine.better = 'higher'", "one positional argument without a default, got scores"),
        ("def mine(scores=None): ...\nmine.better = 'higher'", "without a default"),
        ("def mine(*scores): ...\nmine.better = 'higher'", "* or **"),
        ("def mine(scores, *, k): ...\nmine.better = 'higher'", "k has no default"),
    ],
)
def test_what_breaks_the_contract_is_a_problem_of_the_spec(
    write: Callable[[str], Path], source: str | None, said: str
) -> None:
    if source is not None:
        write(source)
    (got,) = problems("[es, ./mine.py:mine]", "objectives={forget.es: minimize}")
    assert got.startswith("x.yaml:6: evaluate.metrics.1: ")
    assert said in got
    assert "hint: " in got


def test_names_do_not_collide(write: Callable[[str], Path]) -> None:
    file = write("def es(scores): ...\nes.better = 'higher'\ndef mine(scores): ...\nmine.better = 'lower'")
    (own,) = problems("[./mine.py:es]", "objectives={forget.es: minimize}")
    assert "rayul has a metric es of its own" in own
    (file.parent / "other.py").write_text(file.read_text())
    (two,) = problems("[es, ./mine.py:mine, ./other.py:mine]", "objectives={forget.es: minimize}")
    assert "./mine.py:mine and ./other.py:mine have one name" in two


def test_an_unknown_name_is_answered_with_those_that_are_there(write: Callable[[str], Path]) -> None:
    write(MINE)
    (got,) = problems("[es, ./mine.py:weakest]", "objectives={forget.weakst: minimize}")
    assert "did you mean forget.weakest?" in got
    both = problems("[es, ./mine.py:weekest]", "objectives={forget.ess: minimize}")
    assert ["did you mean" in one for one in both] == [True, True], "every problem at once"
    (final,) = problems("[es]", "objectives={forget.weakest: minimize}", "evaluate.final=[./mine.py:weakest]")
    assert "add ./mine.py:weakest to evaluate.metrics" in final


def test_the_resolved_spec_keeps_the_code(write: Callable[[str], Path]) -> None:
    file = write(MINE)
    spec = spec_of("[es, ./mine.py:weakest]", "objectives={forget.weakest: minimize}")
    (file.parent / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    file.unlink()
    assert load_spec(file.parent / "spec.yaml") == spec
    write(MINE + "# changed\n")
    (line,) = difference(spec, spec_of("[es, ./mine.py:weakest]", "objectives={forget.weakest: minimize}"))
    assert line.startswith("evaluate.code../mine.py: ")
    assert "def weakest" not in line
    assert "code" not in spec_of("[es]", "objectives={forget.es: minimize}").resolved()["evaluate"]


def test_a_line_says_that_code_will_run(write: Callable[[str], Path]) -> None:
    write(MINE)
    spec = spec_of("[es, ./mine.py:weakest, ./mine.py:whole]", "objectives={forget.es: minimize}")
    (line,) = notices(spec.code)
    assert line.startswith("code of ./mine.py will run (sha256 ")


def test_validating_neither_runs_the_file_nor_loads_torch(write: Callable[[str], Path]) -> None:
    file = write("import torch\nopen('it_ran', 'w')\n" + MINE)
    spec = spec_of("[es, ./mine.py:weakest]", "objectives={forget.weakest: minimize}")
    (file.parent / "x.yaml").write_text(dump_yaml(spec.resolved()))
    code = "import sys; from rayul.spec import load_spec; load_spec('x.yaml'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=file.parent, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert not (file.parent / "it_ran").exists()


def positions(names: list[str]) -> list[list[int]]:
    return [[i for i, name in enumerate(names) if name == group] for group in dict.fromkeys(names)]


def test_every_evaluation_has_its_mean_and_standard_error(
    write: Callable[[str], Path], make_spec: Callable[..., Any], sets: Any
) -> None:
    """Against the same numbers made from each row's token scores here."""
    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.forward import score
    from rayul.unlearn.task import load_task

    file = write(MINE)
    metrics = ["prob", "./mine.py:weakest", "./mine.py:whole"]
    evaluated = {"metrics": metrics, "sets": ["retain", "general"]}
    spec = make_spec(evaluate=evaluated, objectives={"forget.weakest": "minimize"})
    file.unlink()  # a worker has the text, not the file
    task = load_task(spec, sets)
    got = evaluate(task.base, task, spec.evaluate.metrics, 64)
    for name in ("forget", "retain", "general"):
        rows = score(task.base, task.examples[name], task.pad)
        smallest = np.array([np.exp(row.logp.min()) for row in rows])
        measured = got.measured[f"{name}.weakest"]
        assert measured.value == pytest.approx(smallest.mean())
        names = [row.group or f"row {i}" for i, row in enumerate(sets[name])]
        beyond = [sum(smallest[i] - smallest.mean() for i in of) for of in positions(names)]
        clustered = np.std(beyond, ddof=1) * len(beyond) ** 0.5 / len(smallest) if len(beyond) > 1 else np.nan
        assert measured.stderr == pytest.approx(clustered, nan_ok=True)
        assert measured.rows == len(rows)
        assert got.measured[f"{name}.whole"].value == np.mean([row.match.all() for row in rows])
    assert {key.partition(".")[2] for key in got.measured} == {"prob", "weakest", "whole"}


def test_it_steers_prunes_and_calibrates_a_trial(
    write: Callable[[str], Path], make_spec: Callable[..., Any], sets: Any
) -> None:
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.task import load_task
    from rayul.unlearn.trial import reference_evaluation, run_trial

    write(MINE)
    spec = make_spec(
        evaluate={"metrics": ["es", "./mine.py:weakest"]},
        objectives={"forget.weakest": "minimize", "retain.weakest": "maximize"},
        control={"criteria": [{"metric": "retain.weakest", "at_least": "90% of baseline"}], "mixing": True},
        training={"lr": 5e-2},
    )
    task = load_task(spec, sets)
    baseline = reference_evaluation(task, spec, "baseline")
    assert {"retain_report.weakest", "retain.weakest"} <= set(baseline.metrics)
    rows = [e for s in run_trial(task, TrialJob("0000", spec, 0, {}, baseline.metrics)) for e in s.evaluations]
    limit = 0.9 * baseline.metrics["retain.weakest"]
    broken = [e for e in rows if not e.feasible]
    assert broken, "the learning rate must break the limit"
    for e in rows:
        assert e.violation["retain.weakest"] == pytest.approx((limit - e.metrics["retain.weakest"]) / limit)
        assert e.feasible == (e.metrics["retain.weakest"] >= limit)
    assert {e.mixing for e in rows} - {0.0, 1.0}, "calibration must have scaled an update back"


def test_packs_measure_it_too(write: Callable[[str], Path], make_spec: Callable[..., Any], sets: Any) -> None:
    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.pack import Pack, Shape
    from rayul.unlearn.task import load_task
    from rayul.unlearn.trial import run_trial

    write(MINE)
    objectives = {"forget.weakest": "minimize", "retain.weakest": "maximize"}
    spec = make_spec(evaluate={"metrics": ["es", "./mine.py:weakest"]}, objectives=objectives)
    task = load_task(spec, sets)
    baseline = evaluate(task.base, task, spec.evaluate.metrics, 64).values
    alone = [e for s in run_trial(task, TrialJob("0000", spec, 0, {}, baseline)) for e in s.evaluations]
    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=2))
    slot = pack.join(TrialJob("0000", spec, 0, {}, baseline))
    packed: list[Any] = []
    while not pack.slots[slot].ended:
        packed += [row for _, rows in advance(pack) for row in rows]
    assert [e.step for e in packed] == [e.step for e in alone]
    for ours, theirs in zip(packed, alone, strict=True):
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-4)
        assert {"forget.weakest", "retain.weakest"} <= ours.metrics.keys()


def test_an_audit_has_it_with_its_values_per_row(
    write: Callable[[str], Path], make_spec: Callable[..., Any], sets: Any
) -> None:
    from rayul.unlearn.finalist import measure_everything
    from rayul.unlearn.task import load_task
    from rayul.unlearn.update.saved import standalone

    write(MINE)
    spec = make_spec(evaluate={"metrics": ["es", "./mine.py:weakest"]}, objectives={"forget.weakest": "minimize"})
    task = load_task(spec, sets)
    scored = measure_everything(standalone(task.base), task, spec, [], lambda: None)
    assert scored.metrics["retain.weakest"] == pytest.approx(np.mean(scored.values["retain.weakest"]), rel=1e-5)
    assert "retain.ppl" not in scored.values


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return scores.logp", "returned an array of shape ["),
        ("return scores.logp[:1]", "returned an array of shape [1]"),
        ("return None", "returned a NoneType"),
        ("return 'much'", "returned a str"),
        ("return scores.nothing", "failed on a row of"),
        ("scores.logp.sort(); return 0.5", "failed on a row of"),
    ],
)
def test_what_is_not_a_number_is_refused_with_its_name(
    write: Callable[[str], Path], make_spec: Callable[..., Any], sets: Any, body: str, said: str
) -> None:
    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.task import load_task

    write(f"def mine(scores): {body}\nmine.better = 'higher'")
    spec = make_spec(evaluate={"metrics": ["./mine.py:mine"]}, objectives={"forget.mine": "minimize"})
    task = load_task(spec, sets)
    with pytest.raises(InputError) as caught:
        evaluate(task.base, task, spec.evaluate.metrics, 64)
    assert caught.value.message.startswith("./mine.py:mine ")
    assert said in caught.value.message


def test_a_module_that_cannot_be_run_is_named(
    write: Callable[[str], Path], make_spec: Callable[..., Any], sets: Any
) -> None:
    from rayul.unlearn.task import load_task

    write("import beside_me\ndef mine(scores): ...\nmine.better = 'higher'")
    spec = make_spec(evaluate={"metrics": ["./mine.py:mine"]}, objectives={"forget.mine": "minimize"})
    with pytest.raises(InputError, match=r"\./mine\.py cannot be run: ModuleNotFoundError.*beside_me"):
        load_task(spec, sets)


def test_rayul_evaluate_measures_it_of_a_model_that_is_there(
    write: Callable[[str], Path], tiny_folder: Path, data_folder: Path
) -> None:
    file = write(MINE)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "rayul", "evaluate", str(tiny_folder), "--data", str(data_folder)),
            *("--metrics", "prob,./mine.py:weakest", "--output", "numbers.json"),
        ],
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path), "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert "code of ./mine.py will run" in done.stderr
    measured = json.loads((file.parent / "numbers.json").read_text())["measured"]
    assert set(measured) >= {"forget.weakest", "retain_report.weakest", "forget.prob"}
    assert 0 < measured["forget.weakest"]["value"] < measured["forget.prob"]["value"]
    assert "weakest" in done.stdout


@pytest.mark.slow
def test_a_sweep_on_it_from_the_first_row_to_the_exported_card(
    write: Callable[[str], Path], make_spec: Callable[..., Any]
) -> None:
    import io

    from rich.console import Console

    from rayul.report import load_results
    from rayul.sweep.export import export
    from rayul.sweep.run import run_sweep

    folder = write(MINE).parent / "results"
    spec = make_spec(
        evaluate={"metrics": ["prob", "./mine.py:weakest"], "final": ["./mine.py:whole"]},
        objectives={"forget.weakest": "minimize", "retain.prob": "maximize"},
        control={"criteria": [{"metric": "retain.weakest", "at_least": "60% of baseline"}]},
        training={"lr": {"float": [1e-3, 1e-2], "log": True}},
        search={"trials": 3},
    )
    said = io.StringIO()
    run_sweep(spec, folder, console=Console(file=said, width=200))
    assert "code of ./mine.py will run" in said.getvalue()
    results = load_results(folder)
    assert results.front, "something must be forgotten within the limit"
    assert {"forget.whole", "retain_report.whole"} <= set(results.baseline.metrics)
    frame = results.frames.evaluations
    assert frame["metrics.forget.weakest"].notna().sum() > 3
    assert "forget.weakest" in (folder / "report.html").read_text()
    point = results.best()
    assert export(results, point, folder.parent / "out") < 1e-6
    card = (folder.parent / "out" / "README.md").read_text()
    assert [line for line in card.splitlines() if "forget.weakest" in line and "lower" in line]


@pytest.mark.slow
def test_a_sweep_is_refused_before_a_trial_where_fractions_of_it_mean_nothing(
    write: Callable[[str], Path], make_spec: Callable[..., Any]
) -> None:
    from rayul.sweep.run import run_sweep

    file = write("def mine(scores): return scores.logp.mean()\nmine.better = 'higher'")
    spec = make_spec(evaluate={"metrics": ["./mine.py:mine"]}, objectives={"forget.mine": "minimize"})
    with pytest.raises(InputError, match=r"objective forget\.mine is -.* fractions of that"):
        run_sweep(spec, file.parent / "results")
    assert not (file.parent / "results").exists(), "the corrected spec must find the way free"
