"""The spec's JSON Schema takes what `load_spec` takes and refuses its typos; the published file is the current one."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from typer.testing import CliRunner

from rayul.cli import app
from rayul.plan.starter import starter_spec
from rayul.spec import SpecError, load_spec, parse_spec
from rayul.spec.json_schema import ADDRESS, EDITOR_LINE, spec_schema
from rayul.spec.yaml_text import read_yaml

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))
SCHEMA = spec_schema()
VALIDATOR = Draft7Validator(SCHEMA)
MINIMAL = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"


def data(text: str) -> Any:
    return read_yaml(text, "x").data


def problems(document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message[:300]}" for error in VALIDATOR.iter_errors(document)]


def of(section: str) -> str:
    """The minimal spec with this section in place of its own."""
    key = section.partition(":")[0]
    return "".join(line + "\n" for line in MINIMAL.splitlines() if line.partition(":")[0] != key) + section + "\n"


def test_it_is_a_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert VALIDATOR.is_valid(data(MINIMAL))
    assert not VALIDATOR.is_valid([])


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_it_takes_every_shipped_spec_also_with_all_defaults_written_out(file: Path) -> None:
    assert problems(data(file.read_text())) == []
    assert problems(json.loads(json.dumps(load_spec(file).resolved()))) == []


def test_it_takes_what_init_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("f", "r"):
        lines = [json.dumps({"prompt": f"{name} {i}?", "response": f"{name} {i}."}) for i in range(40)]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    text = starter_spec("mine", Path("f.jsonl"), Path("r.jsonl"))
    assert text.startswith(EDITOR_LINE)
    assert problems(data(text)) == []


def sections_on_pages() -> list[str]:
    """Every `key: value` in code on the pages that makes a valid spec of the minimal one."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text()
        found += re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        found += re.findall(r"`(\w+: [^`\n]+)`", text)
    return list(dict.fromkeys(found))


def test_it_takes_every_example_on_the_pages_that_load_spec_takes() -> None:
    taken = 0
    for section in sections_on_pages():
        text = section if section.count("\n") > 3 and "model:" in section else of(section)
        try:
            parse_spec(text, check_files=False)
        except SpecError:
            continue
        taken += 1
        assert problems(data(text)) == [], section
    assert taken > 15


@pytest.mark.parametrize(
    "section",
    [
        "training: {lr: {float: [1e-4, 1e-2], log: true}, steps: {int: [20, 60], step: 20}}",
        "training: {lr: {float: [1e-4, 1e-2], log: true, prior: {center: 1e-3, spread: 3}}}",
        "training: {lr: 1, evaluate_every: geometric, optimizer: {choice: [adamw, muon]}}",
        "lora: {r: {int: [4, 16], log: true}, target_modules: [q_proj], layers: [1, 2]}",
        "method: npo",
        "method: {name: {choice: [ga, npo]}, gradient: {choice: [plain, gru]}, gru_gamma: 0.5}",
        "method: {name: rmu, layers: [1, 2]}",
        "control: [{metric: retain.es, at_least: 90% of baseline, patience: 3}]",
        "control: {criteria: [{metric: retain.prob, at_least: {choice: [0.5, 90% of baseline]}}], tau: 0.9}",
        "control: {tau: [0.5, 0.9], mixing: {choice: [true, false]}, loss_cap: {choice: [null, 3.0]}}",
        "model: {path: testbed, dtype: bfloat16, chat_template_args: {enable_thinking: false}}",
        "oracle: testbed",
        "data: {tofu: some/place, forget: forget05, split: published}",
        "data: {forget: f.jsonl, retain: {path: r.parquet, split: test}, columns: {question: prompt, author: who}}",
        "data: {forget: {path: f.csv.gz, where: {subject: [a, 2]}, limit: 3, columns: {text: null}}, retain: r}",
        "objectives: {forget.prob: minimize, general.em: maximize}",
        "search: {sampler: random, time_limit: 1h30m, trial_time_limit: 90, stagnation: 20}",
        "search: {warm_start: results/x, stagnation: {trials: 5, growth: 0}}",
        "search: {warm_start: [results/x, results/y]}",
        "resources: {gpu: 0, trials_per_gpu: auto, checkpoint_every: 5m}",
        "resources: {gpu: 0.5, trials_per_gpu: 3, concurrency: null}",
        "pruning: {dominance: {margin: 0.1}, budget: true}",
        "pruning: {dominance: false, budget: {reduction: 2}}",
        "certify: true",
        "certify: {points: 3, confidence: 0.95}",
        "finalists: 4",
        "finalists: {n: 2, attacks: [relearn], within: {metric: retain.es, at_least: 0.9}, points: [0014-35]}",
        "tracking: [tensorboard, mlflow]",
        "tracking: {mlflow: {experiment: x}, wandb: false}",
        "on_end: {webhook: 'https://chat.example/hook', timeout: 5}",
        "on_end: {webhook: $CHAT_HOOK, command: [notify-send, done]}",
        "update: full",
    ],
)
def test_it_takes_every_form_that_load_spec_takes(section: str) -> None:
    assert parse_spec(of(section), check_files=False)
    assert problems(data(of(section))) == []


@pytest.mark.parametrize(
    ("file", "source", "section"),
    [
        ("my_loss.py", "def fn(forget, retain, idk, *, w: float = 1.0): ...", "method: {name: ./my_loss.py:fn, w: 2}"),
        ("my_loss.py", "def fn(forget, retain, idk): ...", "method: {name: {choice: [ga, ./my_loss.py:fn]}}"),
        ("my_control.py", "def fn(a, *, w: float = 0.5): ...", "control: {own: [{name: ./my_control.py:fn, w: 0}]}"),
        ("my_control.py", "def fn(a): ...", "control: {own: ./my_control.py:fn}"),
        ("my_rule.py", "def fn(trial, others, baseline): ...", "pruning: {rules: [./my_rule.py:fn]}"),
        ("my_sampler.py", "def fn(seed, startup_trials): ...", "search: {sampler: ./my_sampler.py:fn}"),
        (
            "my_metric.py",
            "def fn(scores): ...\nfn.better = 'higher'",
            "evaluate: {metrics: [es, ./my_metric.py:fn]}\nobjectives: {forget.fn: minimize, retain.es: maximize}",
        ),
    ],
)  # fmt: skip
def test_it_takes_functions_of_ones_own(
    file: str, source: str, section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).write_text(source)
    spec = parse_spec(of(section))
    assert problems(data(of(section))) == []
    assert problems(json.loads(json.dumps(spec.resolved()))) == []


NAMES_OF_ONES_OWN = re.compile(r"^probes\.\w+$|\.(where|unless)\.\w+$|^objectives\.(\w+_(forget|retain)|mmlu)\.")
"""Keys that a user chooses: of probes, and of columns."""


def misspelt(document: Any) -> Iterator[tuple[str, Any]]:
    """The document with one key misspelt, for each of its keys."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield key, {(f"{k}x" if k == key else k): v for k, v in document.items()}
            for name, child in misspelt(value):
                yield f"{key}.{name}", document | {key: child}
    elif isinstance(document, list):
        for index, value in enumerate(document):
            for name, child in misspelt(value):
                yield f"{index}.{name}", [*document[:index], child, *document[index + 1 :]]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_it_refuses_every_misspelt_key_of_every_shipped_spec(file: Path) -> None:
    document = data(file.read_text())
    found = {key: broken for key, broken in misspelt(document) if not NAMES_OF_ONES_OWN.search(key)}
    assert len(found) > 15
    assert [name for name, broken in found.items() if VALIDATOR.is_valid(broken)] == []


@pytest.mark.parametrize("key", ["name", "model", "data", "method", "training"])
def test_it_refuses_a_spec_without_what_it_needs(key: str) -> None:
    document = copy.deepcopy(data(MINIMAL))
    del document[key]
    assert problems(document)


@pytest.mark.parametrize(
    "section",
    [
        'training: {lr: "1e-3"}',
        "training: {lr: 0}",
        "training: {lr: {flaot: [1e-4, 1e-2]}}",
        "training: {lr: {float: [1e-4]}}",
        "training: {lr: {float: [1e-4, 1e-2], lgo: true}}",
        "training: {lr: {float: [1e-4, 1e-2], prior: {centre: 1e-3, spread: 3}}}",
        "training: {lr: 1e-3, steps: {float: [20, 60]}}",
        "training: {lr: 1e-3, evaluate_every: often}",
        "training: {lr: 1e-3, optimizer: adam}",
        "training: {lr: 1e-3, optimizer: {choice: [adamw, adam]}}",
        "method: nop",
        "method: {name: {choice: [ga, gdd]}}",
        "method: {name: ga, beta: 0.1}",
        "method: {name: npo, betta: 0.1}",
        "method: {name: npo, beta: -1}",
        "method: {beta: 0.1}",
        "lora: {r: 8.5}",
        "lora: {r: true}",
        "update: adapter",
        "control: [{metric: retain.ess, at_least: 0.9}]",
        "control: {criteria: [{metric: holdout.es, at_least: 0.9}]}",
        "control: {criteria: [{metric: retain.es, at_least: 90%}]}",
        "control: {tau: 1.5}",
        "control: {tau: []}",
        "objectives: {forget.ess: minimize}",
        "objectives: {forget.es: minimise}",
        "objectives: {}",
        "evaluate: {metrics: [ess]}",
        "evaluate: {metrics: [rouge]}",
        "search: {sampler: tppe}",
        "search: {trials: 0}",
        "search: {time_limit: 2 hours}",
        "search: {tell: newest}",
        "pruning: {dominance: 3}",
        "pruning: {rules: [stall]}",
        "resources: {gpus: 1}",
        "resources: {trials_per_gpu: 0}",
        "certify: {points: 0}",
        "finalists: {attacks: [relern]}",
        "finalists: 0",
        "tracking: [mlfow]",
        "data: {forgett: f.jsonl}",
        "data: {tofu: x, forgot: forget10}",
        "data: {forget: {path: f, were: {a: b}}, retain: r}",
        "data: {forget: {path: f, limit: 0}, retain: r}",
        "data: {forget: f, retain: r, columns: {questoin: q}}",
    ],
)
def test_it_refuses_what_load_spec_refuses(section: str) -> None:
    with pytest.raises(SpecError):
        parse_spec(of(section), check_files=False)
    assert problems(data(of(section)))


def test_it_explains_keys() -> None:
    lr = SCHEMA["$defs"]["Training"]["properties"]["schedule"]
    assert lr["description"].startswith("Schedule of the learning rate")
    undescribed = [
        f"{name}.{key}"
        for name, section in SCHEMA["$defs"].items()
        for key, value in section["properties"].items()
        if "description" not in value
    ]
    assert len(undescribed) < 60


def test_rayul_schema_prints_the_file_that_is_published(tmp_path: Path) -> None:
    """After a change of a section: rayul schema --out docs/spec.schema.json"""
    printed = CliRunner().invoke(app, ["schema"]).stdout
    assert json.loads(printed) == json.loads(json.dumps(SCHEMA))
    assert CliRunner().invoke(app, ["schema", "--out", str(tmp_path / "s.json")]).exit_code == 0
    assert (tmp_path / "s.json").read_text() == printed
    published = ROOT / ADDRESS.partition("/main/")[2]
    assert published.read_text() == printed, "run: rayul schema --out docs/spec.schema.json"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_editors_find_the_schema_of_a_shipped_spec(file: Path) -> None:
    assert file.read_text().startswith(EDITOR_LINE)
