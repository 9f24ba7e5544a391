"""A chat template that tells the date: what a sweep measured on one day is measured again on every later day."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rayul.records.text_note import NOTE, noted_text

DATED = (
    "Today is {{ strftime_now('%A, %d %B %Y') }}. {% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
BEGAN = datetime(2024, 7, 26, 9, tzinfo=UTC)


@pytest.fixture
def results(tiny_folder: Path, data_folder: Path, tmp_path: Path) -> Any:
    """The results of a sweep of one trial that began on BEGAN, its records measured on that day by hand."""
    import torch

    from rayul.records import BASELINE, Evaluation, to_json
    from rayul.records.folder import load_records
    from rayul.records.manifest import Manifest, write_manifest
    from rayul.spec import dump_yaml
    from rayul.spec.spec import from_plain
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.export import measure_reported
    from rayul.unlearn.model import load_model
    from rayul.unlearn.task import Task
    from rayul.unlearn.trial import reference_evaluation
    from rayul.unlearn.update import attach

    torch.set_num_threads(1)
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    (model / "chat_template.jinja").write_text(DATED)
    spec = from_plain(
        {
            "name": "dated",
            "model": str(model),
            "data": str(data_folder),
            "method": "ga",
            "training": {"lr": 1e-2},
            "evaluate": {"metrics": ["prob", "ppl"]},
            "objectives": {"forget.prob": "minimize", "retain.prob": "maximize"},
        }
    )
    base, tokenizer = load_model(spec.model)
    tokenizer.chat_template = DATED.replace("{{ strftime_now('%A, %d %B %Y') }}", "Friday, 26 July 2024")
    task = Task(base, tokenizer, load_sets(spec.data), None, None, {})
    rows = [reference_evaluation(task, spec, BASELINE)]
    update = attach(task, spec, 0)
    with torch.no_grad():
        for name, parameter in update.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    found = measure_reported(task, spec, update.model)
    metrics = {key: m.value for key, m in found.items() if not key.startswith("retain_report.")}
    rows.append(Evaluation("0000", 5, seed=0, metrics=metrics, rows={"forget": 6}))
    place = tmp_path / "dated"
    update.save(1.0, place / "adapters" / "0000-5-1")
    write_manifest(place, Manifest(date=BEGAN))
    (place / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    (place / "evaluations.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    return load_records(place)


def test_an_export_of_a_later_day_scores_as_recorded_and_notes_the_day(results: Any, tmp_path: Path) -> None:
    from rayul.sweep.export import export

    point = next(iter(results.trials.values()))[-1]
    assert export(results, point, tmp_path / "out", merge=True) < 1e-5
    for folder in (tmp_path / "out", tmp_path / "out" / "merged"):
        assert noted_text(folder) == {
            "template": None,
            "system": None,
            "chat_template_args": {},
            "date": "2024-07-26",
        }


def test_a_resume_of_a_later_day_runs_on_the_day_of_the_first(results: Any) -> None:
    from rayul.spec import load_spec
    from rayul.sweep.folder import checked
    from rayul.testbed import with_testbed

    spec = load_spec(results.folder / "spec.yaml")
    recorded = checked(results.folder, spec, True)
    assert with_testbed(spec, began=recorded.date).model.date == "2024-07-26"
    assert spec.model.date is None, "what the user asked for stays as it was"


def test_adapters_of_the_front_note_how_rows_became_text(results: Any, tmp_path: Path) -> None:
    from rayul.spec import load_spec
    from rayul.sweep.driver_disk import DriverDisk
    from rayul.sweep.reference import verified
    from rayul.testbed import with_testbed
    from rayul.unlearn.data import load_sets

    spec = with_testbed(load_spec(results.folder / "spec.yaml"), began=BEGAN)
    point = next(iter(results.trials.values()))[-1]
    disk = DriverDisk(results.folder, tmp_path / "mark", "", {})
    assert [*verified(spec, load_sets(spec.data), disk, [point])] == [""]
    place = results.folder / "adapters" / "0000-5-1"
    assert noted_text(place)["date"] == "2024-07-26"
    assert json.loads((place / NOTE).read_text())["verified"] is True
