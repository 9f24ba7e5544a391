"""Tasks of lm-evaluation-harness on a saved point: in its note, its record and its model card."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_certify import Sweep, made  # noqa: F401 (a fixture)

from rayul.pareto.front import front_of
from rayul.records.folder import load_records
from rayul.report.write import summarise
from rayul.sweep.export import export
from rayul.sweep.reference import verified
from rayul.unlearn.recall import Recaller

TASK = """
task: made_up_towns
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["Lorn", "Vesk"]
doc_to_target: answer
metadata: {{version: 2}}
"""


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")
@pytest.mark.slow
def test_what_a_task_gives_goes_with_the_point(
    made: Callable[..., Sweep],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": f"Where is lamp {i}?", "answer": i % 2} for i in range(6)]
    (folder / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "towns.yaml").write_text(TASK.format(file=folder / "rows.json"))
    sweep = made(evaluate={"lm_eval": [{"task": "made_up_towns", "include_path": str(folder)}]})
    summarise(sweep.folder)
    (point, *_) = front_of(load_records(sweep.folder))
    recaller = Recaller(sweep.task, sweep.spec)
    assert not any(verified(sweep.spec, sweep.sets, sweep.measurer.disk, [point], recaller))
    results = load_records(sweep.folder)
    adapter = results.adapters[point.key]
    note = "lm_eval/made_up_towns: task version 2, 6 examples, lm-evaluation-harness"
    assert adapter.report_notes[0].startswith(note)
    assert results.baseline.notes[0].startswith(note)
    assert 0 <= adapter.report_metrics["lm_eval/made_up_towns.acc"] <= 1
    export(results, point, tmp_path / "out", trust=True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert note in card
    assert "| lm_eval/made_up_towns.acc |" in card
