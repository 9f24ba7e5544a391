"""The pages on metrics, methods and design name all there is and nothing else, with the directions and defaults of the
code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_imports import FLOORS

from rayul.spec import GRADIENTS, METHODS, METRICS, SAMPLERS, SETS, Control, load_spec
from rayul.spec.gradients import SETTINGS
from rayul.spec.pruning import Pruning

DOCS = Path(__file__).resolve().parents[1] / "docs"


def rows(page: str, first: str) -> dict[str, list[str]]:
    """Cells by the code in the first column, of the tables whose first heading is `first`."""
    found: dict[str, list[str]] = {}
    inside = False
    for line in (DOCS / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        inside = bool(cells) and (inside or cells[0] == first)
        if inside and (name := re.fullmatch(r"`(\w+)`", cells[0])):
            assert name[1] not in found, f"{name[1]} stands twice"
            found[name[1]] = cells[1:]
    return found


def test_every_metric_and_set_is_on_the_page() -> None:
    assert rows("metrics.md", "metric").keys() == METRICS.keys()
    assert rows("metrics.md", "set").keys() == set(SETS)


@pytest.mark.parametrize("name", METRICS)
def test_the_direction_of_a_metric_is_that_of_the_code(name: str) -> None:
    _, span, kept, forget, _ = rows("metrics.md", "metric")[name]
    measured_on = METRICS[name].only or SETS
    assert kept == (METRICS[name].better_on("retain") if "retain" in measured_on else "–")
    assert forget == (METRICS[name].better_on("forget") if "forget" in measured_on else "–")
    assert (span == "0 to 1") == METRICS[name].bounded
    known = METRICS[name].direction_on_utility
    other = {"higher": "lower", "lower": "higher"}[known]
    bad_everywhere = name in ("empty", "repetition", "distinct", "fluency")
    assert kept in (known, "–")
    goals = {"loss": "0.5", "zlib": "0.5", "k": "0.5", "pp": "0.5", "gap": "0", "privleak": "0"}
    has_goal = name == "privleak" or name.startswith("mia_")
    assert forget in ("–", goals[name.split("_")[-1]] if has_goal else known if bad_everywhere else other)
    assert (kept, forget) != ("–", "–")
    spans = {"ppl": "1 to ∞", "fluency": "0 to ∞", "privleak": "-100 to ∞"}
    assert span == spans.get(name, "-1 to 1" if name.endswith("_gap") else "0 to 1")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_on_its_page_with_its_parameters(name: str) -> None:
    table = rows("methods.md", "method")
    assert table.keys() == METHODS.keys()
    _, reads, parameters, source = table[name]
    needs = {"retain": "retain", "refusals": "idk", "ref": "reference", "hidden states": "hidden"}
    assert {needs[word] for word in reads.split(", ") if word != "forget"} == METHODS[name].needs
    said = dict(re.findall(r"`(\w+)` ([\w.]+)", parameters))
    defaults = {k: p.default for k, p in METHODS[name].parameters.items() if k not in SETTINGS}
    assert said.keys() == defaults.keys()
    assert all(said[k] == ("the" if v is None else str(v)) for k, v in defaults.items())
    assert "arxiv.org/abs/" in source


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_rule_is_on_the_page_with_its_settings(name: str) -> None:
    table = rows("methods.md", "`method.gradient`")
    assert table.keys() == GRADIENTS.keys()
    _, text, source = table[name]
    said = dict(re.findall(r"`(\w+)` ([\w.]+)", text))
    settings = GRADIENTS[name].parameters.items()
    assert said == {key: "the" if p.default is None else str(p.default) for key, p in settings}
    assert name == "plain" or "arxiv.org/abs/" in source


def test_every_control_is_on_the_page_with_its_default() -> None:
    table = rows("methods.md", "`control.`")
    assert table.keys() == Control.model_fields.keys()
    for name, (default, _) in table.items():
        value: Any = Control.model_fields[name].default
        assert default == ("none" if value == () else "null" if value is None else str(value).lower()), name


def test_the_design_has_every_room_on_its_floor() -> None:
    """As tests/test_imports.py checks the imports."""
    found: dict[int, set[str]] = {}
    for line in (DOCS / "design.md").read_text().splitlines():
        if floor := re.match(r"\| (\d+) \| (.*?) \|", line):
            found.setdefault(int(floor[1]), set()).update(re.findall(r"`(\w+)`", floor[2]))
    assert found == {number: set(rooms) for number, rooms in enumerate(FLOORS)}


def test_links_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(((?!http)[^)#]+)", page.read_text()):
            assert (DOCS / target).exists(), f"{page.name}: {target}"


def example(page: str, file: str) -> tuple[str, str]:
    """The source of a page's example file, and the YAML that follows it."""
    found = re.search(
        rf"```python\n(# {re.escape(file)}\n.*?)```.*?```yaml\n(.*?)```", (DOCS / page).read_text(), re.DOTALL
    )
    assert found is not None
    return found[1], found[2]


def test_every_sampler_is_on_the_page_with_what_its_row_says() -> None:
    table = rows("methods.md", "sampler")
    assert table.keys() == SAMPLERS.keys()
    for name, (theirs, learns, startup) in table.items():
        row = SAMPLERS[name]
        own = "rayul's own, then " if row.trajectories else ""
        assert theirs == ("every cell of the space once" if row.grid else f"{own}`{row.optuna}`")
        assert learns == row.learns
        assert row.trajectories or startup == (f"`{row.startup}`" if row.startup else "–")


OWN = [
    ("metrics.md", "my_metric.py"),
    ("methods.md", "my_loss.py"),
    ("methods.md", "my_control.py"),
    ("methods.md", "my_sampler.py"),
    ("pruning.md", "my_rule.py"),
]


@pytest.mark.parametrize(("page", "file"), OWN)
def test_the_example_of_ones_own_is_a_spec_that_holds(
    page: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, section = example(page, file)
    Path(file).write_text(source)
    method = "" if "method:" in section else "method: ga\n"
    Path("x.yaml").write_text(f"name: x\nmodel: testbed\ndata: testbed\n{method}training: {{lr: 1e-3}}\n{section}")
    assert f"./{file}" in load_spec("x.yaml").code


def test_the_metric_of_ones_own_measures(
    task: Any, make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: Any
) -> None:
    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.task import load_task

    monkeypatch.chdir(tmp_path)
    Path("my_metric.py").write_text(example("metrics.md", "my_metric.py")[0])
    spec = make_spec(evaluate={"metrics": ["prob", "./my_metric.py:weakest"]}, objectives={"forget.prob": "minimize"})
    found = evaluate(task.base, load_task(spec, sets), spec.evaluate.metrics, 64).values
    assert 0 < found["forget.weakest"] < found["forget.prob"] < 1


def test_every_pruning_key_is_on_the_page_with_its_default() -> None:
    table = rows("pruning.md", "`pruning.`")
    assert table.keys() == Pruning.model_fields.keys() - {"code"}
    for name, (default, *_) in table.items():
        value = getattr(Pruning(), name)
        said = {"none": (), "false": None, "true": value or None}
        assert value == said[default], name


def test_the_rule_of_ones_own_stops_a_trial_when_it_says(
    make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayul.records import Evaluation
    from rayul.sweep.pruning.history import History
    from rayul.sweep.pruning.rules import rules_of

    monkeypatch.chdir(tmp_path)
    (source,) = re.findall(r"```python\n(# my_.*?)```", (DOCS / "pruning.md").read_text(), re.DOTALL)
    Path("my_rule.py").write_text(source)
    spec = make_spec(pruning={"rules": ["./my_rule.py:slow"]})
    rows = [Evaluation("0000", step, metrics={"forget.es": 0.77, "retain.es": 0.5}) for step in (15, 20)]
    history = History(spec, {"forget.es": 0.8, "retain.es": 0.5}, rows)
    *_, rule = rules_of(spec)
    assert rule(history, "0000", 15) is None
    stop = rule(history, "0000", 20)
    assert stop is not None
    assert (stop.rule, stop.reason) == ("./my_rule.py:slow", "forget.es is still 0.770 at step 20")


def test_the_loss_and_the_control_of_ones_own_train(
    task: Any, make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayul.unlearn.job import TrialJob
    from rayul.unlearn.trial import run_trial

    monkeypatch.chdir(tmp_path)
    Path("my_loss.py").write_text(example("methods.md", "my_loss.py")[0])
    Path("my_control.py").write_text(example("methods.md", "my_control.py")[0])
    own = [{"name": "./my_control.py:unsure", "above": 1e-3}]
    spec = make_spec(method={"name": "./my_loss.py:tilted", "weight": 0.5}, control={"own": own})
    *_, last = run_trial(task, TrialJob("0", spec, 0, {}, {}))
    assert last.ending is not None
    assert (last.ending.state, last.evaluations[-1].step) == ("completed", spec.training.steps)


def test_the_sampler_of_ones_own_draws(make_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayul.sweep.search.samplers import check_sampler, sampler

    monkeypatch.chdir(tmp_path)
    Path("my_sampler.py").write_text(example("methods.md", "my_sampler.py")[0])
    search = {"sampler": "./my_sampler.py:spread"}
    spec = make_spec(training={"lr": {"float": [1e-4, 1e-2]}}, search=search)
    check_sampler(spec)
    assert type(sampler(spec, 0)).__name__ == "QMCSampler"
