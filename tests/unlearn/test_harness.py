"""Tasks of lm-evaluation-harness at the end of a sweep, offline: a folder of tasks with rows of our own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_choices import known, rows  # noqa: F401 (fixtures)

from rayul.errors import InputError
from rayul.records.trusted import code_of
from rayul.spec import HarnessTask, SpecError, parse_spec
from rayul.unlearn import harness
from rayul.unlearn.data import Row
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.trial import reference_evaluation

installed = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{prompt}"
doc_to_choice: {choices}
doc_to_target: answer
num_fewshot: 0
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 3}}
"""
LETTERS = (
    "The following are multiple choice questions (with answers) about made up geography.\\n\\n{{question.strip()}}"
    "\\n{% for choice in choices %}{{ 'ABCD'[loop.index0] }}. {{ choice }}\\n{% endfor %}Answer:"
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, rows: tuple[Row, ...]) -> Path:  # noqa: F811
    """The questions with four options of test_choices.py, as `letters` and, without options, as `texts`; and `broken`,
    whose rows are missing."""
    folder = tmp_path_factory.mktemp("tasks")
    file = folder / "rows.json"
    four = [row for row in rows if len(row.choices) == 4]
    docs = [{"question": r.stem, "choices": r.choices, "answer": "ABCD".index(r.answer)} for r in four]
    file.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    letters = {"prompt": LETTERS, "choices": '["A", "B", "C", "D"]', "metric": "acc"}
    texts = {"prompt": "Question: {{question.strip()}}\\nAnswer:", "choices": "choices", "metric": "acc_norm"}
    for name, kind in (("letters", letters), ("texts", texts)):
        (folder / f"{name}.yaml").write_text(TASK.format(name=f"made_up_{name}", file=file, **kind))
    (folder / "broken.yaml").write_text(TASK.format(name="made_up_broken", file=folder / "nowhere.json", **texts))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))


@installed
def test_our_accuracies_are_those_of_the_harness(tasks: Path, known: Any, rows: tuple[Row, ...]) -> None:  # noqa: F811
    model, tokenizer = known
    asked = [HarnessTask(task=f"made_up_{name}", include_path=str(tasks)) for name in ("letters", "texts")]
    found = harness.harness_metrics(model, tokenizer, asked, 8)
    four = tuple(Row(**{**vars(row), "group": ""}) for row in rows if len(row.choices) == 4)
    ours = evaluate_model(model, tokenizer, {"general": four}, metrics=["choice", "choice_text"]).measured
    theirs = found.measured["lm_eval/made_up_letters.acc"], found.measured["lm_eval/made_up_texts.acc_norm"]
    for own, other in zip(ours.values(), theirs, strict=True):
        assert (own.value, own.rows) == (pytest.approx(other.value), other.rows)
        assert own.stderr == pytest.approx(other.stderr)
    assert 0 < theirs[0].value < 1
    assert found.notes[0].startswith("lm_eval/made_up_letters: task version 3, 4 examples, lm-evaluation-harness 0.4.")
    limited = harness.harness_metrics(model, tokenizer, [asked[0].model_copy(update={"limit": 2})], 8)
    assert limited.measured["lm_eval/made_up_letters.acc"].rows == 2


@installed
def test_it_is_recorded_of_the_baseline_and_draws_nothing(
    tasks: Path, make_spec: Callable[..., Any], sets: dict[str, Any], task: Any
) -> None:
    spec = make_spec(evaluate={"lm_eval": [{"task": "made_up_letters", "include_path": str(tasks), "limit": 3}]})
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 (what the harness seeds)
    random.seed(3)
    row = reference_evaluation(task, spec, "baseline")
    drawn = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    assert drawn == (torch.rand(1).item(), np.random.rand(), random.random())  # noqa: NPY002
    assert row.rows["lm_eval/made_up_letters"] == 3
    assert 0 <= row.metrics["lm_eval/made_up_letters.acc"] <= 1
    assert row.notes
    assert "task version 3, 3 examples" in row.notes[0]


@installed
def test_what_cannot_be_run_is_refused_by_name(tasks: Path, known: Any) -> None:  # noqa: F811
    with pytest.raises(InputError, match="has no task made_up_numbers") as caught:
        harness.check_tasks([HarnessTask(task="made_up_numbers", include_path=str(tasks))])
    assert "include_path" in caught.value.hint
    with pytest.raises(InputError, match="made_up_broken cannot be run") as caught:
        harness.harness_metrics(*known, [HarnessTask(task="made_up_broken", include_path=str(tasks))], 8)
    assert "lm-eval run" in caught.value.hint


def test_without_the_harness_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    harness._known.cache_clear()
    harness._manager.cache_clear()
    monkeypatch.setattr(harness, "version", absent)
    harness.check_tasks([])
    with pytest.raises(InputError, match="is not installed") as caught:
        harness.check_tasks([HarnessTask(task="mmlu")])
    assert "rayul[lm-eval]" in caught.value.hint
    monkeypatch.setattr(harness, "version", lambda name: "0.4.9.1")
    with pytest.raises(InputError, match=r"0\.4\.9\.1 is too old"):
        harness.check_tasks([HarnessTask(task="mmlu")])


TEXT = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"


def test_tasks_are_named_as_texts_or_with_a_folder(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("")
    spec = parse_spec(f"{TEXT}evaluate: {{lm_eval: [mmlu, {{task: mine, include_path: {tmp_path}}}]}}\n")
    assert [task.task for task in spec.evaluate.lm_eval] == ["mmlu", "mine"]
    assert spec.at({}) == spec
    assert any(f"{tmp_path} may hold code" in line for line in spec.notices)
    (before,) = code_of(spec)
    (tmp_path / "task.py").write_text("print()")
    assert code_of(spec) != [before]
    for broken, says in (
        ("[{task: mine, include_path: ./nowhere}]", "does not exist"),
        ("['mmlu*']", "no single task"),
        ("[{}]", "task"),
    ):
        with pytest.raises(SpecError, match=says):
            parse_spec(f"{TEXT}evaluate: {{lm_eval: {broken}}}\n")


@installed
@pytest.mark.slow
def test_rayul_evaluate_runs_it(tasks: Path, tiny_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    task = f"[{{task: made_up_texts, include_path: {tasks}}}]"
    command = [sys.executable, "-m", "rayul", "evaluate", str(tiny_folder), "--data", str(data_folder)]
    options = ["--metrics", "es", "--set", f"evaluate.lm_eval={task}", "--output", str(tmp_path / "out.json")]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "task version 3, 4 examples" in " ".join(done.stdout.split())
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["measured"]["lm_eval/made_up_texts.acc_norm"]["rows"] == 4
