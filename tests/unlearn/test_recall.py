"""What a saved model recalls, by group: counted as a loop over rows and greedy decoding would, before and after."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayul.errors import RayulError
from rayul.records.recall import RECALL, Counted, Recall, read_recall, write_recall
from rayul.spec import Spec, parse_spec
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.job import TrialJob
from rayul.unlearn.probe import Generation, Probe
from rayul.unlearn.recall import SAMPLE_TOKENS, Recaller, counted
from rayul.unlearn.task import Task, load_task
from rayul.unlearn.template import Template
from rayul.unlearn.trial import final_measurement, run_trial
from tests.conftest import small_sets


def with_samples(spec: Spec, samples: int) -> Spec:
    return spec.model_copy(update={"report": spec.report.model_copy(update={"samples": samples})})


@pytest.fixture
def small(make_spec: Callable[..., Any]) -> tuple[Task, Spec, Any]:
    """A tiny model, how it is trained, and its rows."""
    sets = small_sets()
    spec = make_spec(
        training={"lr": 3e-2, "steps": 40, "evaluate_every": 40},
        evaluate={"metrics": ["prob"]},
        objectives={"forget.prob": "minimize", "retain.prob": "maximize"},
    )
    task = load_task(spec, sets)
    return task, spec, sets


def test_rows_are_counted_by_group(small: tuple[Task, Spec, Any]) -> None:
    task, spec, sets = small
    spec = with_samples(spec, 2)
    recaller = Recaller(task, spec)
    job = TrialJob("0000", spec, 0, {}, final_measurement(task.base, task, spec).values)
    for snapshot in run_trial(task, job):
        if snapshot.update is None or snapshot.evaluations[-1].step == 0:
            continue
        model = snapshot.update.model
        recall = recaller.of(model, final_measurement(model, task, spec))
        texts = Probe(model, task.tokenizer, sets["forget"], Template.of(spec.model)).texts
    assert set(recall.after) >= {"forget", "retain"}
    es = evaluate(task.base, task, ["es"], 64).per_row["forget.es"]
    for i, group in enumerate(recall.before["forget"].groups):
        own = [e for e, row in zip(es, sets["forget"], strict=True) if row.group == group]
        assert recall.before["forget"].rows[i] == len(own)
        assert recall.before["forget"].es[i] == pytest.approx(sum(own) / len(own), abs=1e-6)
    exact = sum(text == row.answer.strip() for text, row in zip(texts, sets["forget"], strict=True))
    assert recall.after["forget"].verbatim_count == exact
    shown = [s for s in recall.samples if s.set == "forget"]
    assert len(shown) == 2
    for s in shown:
        assert s.after
        assert texts[[r.question for r in sets["forget"]].index(s.question)].startswith(s.after)
    assert [s.before for s in recall.samples] != [s.after for s in recall.samples]


def test_samples_are_what_a_model_answers_to_each_row_alone(make_spec: Callable[..., Any]) -> None:
    """Trained on refusals for a while, it answers in several words and lengths."""
    sets = small_sets()
    spec = with_samples(make_spec(method="po", training={"lr": 2e-2, "steps": 60, "evaluate_every": 60}), 3)
    task = load_task(spec, sets)
    recaller = Recaller(task, spec)
    asked = Template.of(spec.model), 64, Generation(SAMPLE_TOKENS)
    for snapshot in run_trial(task, TrialJob("0000", spec, 0, {}, final_measurement(task.base, task, spec).values)):
        if snapshot.update is not None and snapshot.evaluations[-1].step:
            model = snapshot.update.model
            samples = recaller.of(model, final_measurement(model, task, spec)).samples
            rows = {(name, row.question): row for name in sets for row in sets[name]}
            alone = [Probe(model, task.tokenizer, [rows[s.set, s.question]], *asked).texts for s in samples]
    assert [s.set for s in samples] == ["forget"] * 3 + ["retain_report"] * 3 + ["general"] * 3
    assert [[s.after] for s in samples] == alone
    assert len({len(s.after) for s in samples}) > 3, [s.after for s in samples]


def test_no_row_is_recorded_unless_asked_for(small: tuple[Task, Spec, Any]) -> None:
    task, spec, _ = small
    assert Recaller(task, spec).of(task.base, final_measurement(task.base, task, spec)).samples == ()


def test_it_reads_back_and_refuses_what_cannot_be(tmp_path: Path, small: tuple[Task, Spec, Any]) -> None:
    task, spec, _ = small
    recall = Recaller(task, with_samples(spec, 1)).of(task.base, final_measurement(task.base, task, spec))
    write_recall(tmp_path, recall)
    assert read_recall(tmp_path) == recall
    plain = json.loads((tmp_path / RECALL).read_text())
    plain["after"]["forget"]["verbatim"][0] = plain["after"]["forget"]["rows"][0] + 1
    (tmp_path / RECALL).write_text(json.dumps(plain))
    with pytest.raises(RayulError, match=r"recall\.json is not as rayul writes it.*more rows"):
        read_recall(tmp_path)
    with pytest.raises(ValueError, match="other groups"):
        Recall({"forget": replace(recall.before["forget"], rows=(1,) * len(recall.before["forget"].rows))}, {})


def test_a_row_that_comes_back_whole_has_an_extraction_strength_of_one() -> None:
    import numpy as np

    from rayul.unlearn.data import Row

    rows = [Row("q", "a", group="A"), Row("q", "b"), Row("q", "c", group="A"), Row("q", "d")]
    found = counted(np.array([1.0, 0.5, 0.25, 1.0]), rows)
    assert found == Counted(("A", ""), (2, 2), (0.625, 0.75), (1, 1))


def test_samples_are_shown_of_fiction_only() -> None:
    assert parse_spec(TEXT).report.sampling(fiction=True).samples == 5
    assert parse_spec(TEXT).report.sampling(fiction=False).samples == 0
    assert parse_spec(TEXT + "report: {samples: 2}\n").report.sampling(fiction=False).samples == 2
    assert parse_spec(TEXT + "report: {samples: 0}\n").report.sampling(fiction=True).samples == 0


TEXT = "name: x\nmodel: testbed\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}\n"
