"""Rows of a probe that are held back from a search, for its certificate and its report: split, and read by nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayul.errors import InputError
from rayul.spec import Limit, SpecError
from rayul.unlearn.data import Row, load_sets
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.group_means import answered_group_means
from rayul.unlearn.job import TrialJob
from rayul.unlearn.probe import Probe
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.suite_metrics import distinct, repetition
from rayul.unlearn.task import load_task
from rayul.unlearn.trial import final_measurement, reference_evaluation, run_trial
from tests.conftest import NAMES

MakeSpec = Callable[..., Any]

TOWNS = [
    {"question": f"Who rows boat {i} of town {town}?", "answer": f"A rower {i} of {town}.", "town": f"T{town}"}
    for town in range(10)
    for i in range(2)
]
SPLIT = {"select": 0.4, "certify": 0.4, "report": 0.2}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def probe_of(tmp_path: Path, rows: list[dict[str, Any]] = TOWNS, **more: Any) -> dict[str, Any]:
    source = {"path": write(tmp_path / "towns.jsonl", rows), "columns": {"group": "town"}}
    return {"rows": source, "metrics": ["prob", "repetition"], "max_new_tokens": 8, "split": SPLIT} | more


@pytest.fixture
def made(make_spec: MakeSpec, tmp_path: Path) -> Callable[..., Any]:
    def make(rows: list[dict[str, Any]] = TOWNS, **more: Any) -> Any:
        return make_spec(
            probes={"towns": probe_of(tmp_path, rows, **more)},
            objectives={"forget.es": "minimize", "towns.repetition": "maximize"},
            control={"criteria": [{"metric": "towns.prob", "at_least": "50% of baseline"}]},
        )

    return make


def test_whole_groups_are_dealt_alike_whatever_the_order_of_the_file(made: Callable[..., Any]) -> None:
    spec = made()
    sets, backwards = (load_sets(spec.data, made(rows).probes) for rows in (TOWNS, TOWNS[::-1]))
    parts = ("towns", "towns_certify", "towns_report")
    groups = [{row.group for row in sets[name]} for name in parts]
    assert [len(found) for found in groups] == [4, 4, 2]
    assert len(set.union(*groups)) == 10
    assert groups == [{row.group for row in backwards[name]} for name in parts]
    assert sum(len(sets[name]) for name in parts) == len(TOWNS)
    whole = load_sets(spec.data, made(split=None).probes)
    assert "towns_certify" not in whole
    assert len(whole["towns"]) == len(TOWNS)


def test_a_probe_of_two_sides_holds_back_rows_to_keep_only(make_spec: MakeSpec, tmp_path: Path) -> None:
    other = [row | {"question": f"And {row['question']}"} for row in TOWNS]
    probe = probe_of(tmp_path, split=True) | {"forget": write(tmp_path / "f.jsonl", other)}
    probe["retain"] = probe.pop("rows")
    sets = load_sets(make_spec(probes={"towns": probe}).data, make_spec(probes={"towns": probe}).probes)
    assert len(sets["towns_forget"]) == len(TOWNS)
    assert {"towns_retain", "towns_retain_certify", "towns_retain_report"} < sets.keys()


def test_nothing_reads_the_certify_rows_but_the_certificate(made: Callable[..., Any]) -> None:
    """Trials, references, the report's measurement and the suite give the same without them and with others."""
    spec = made()
    sets = load_sets(spec.data, spec.probes)
    others = tuple(replace(row, answer="Something else entirely.") for row in sets["towns_certify"])
    seen = []
    for own in (sets, sets | {"towns_certify": others}, {k: v for k, v in sets.items() if k != "towns_certify"}):
        task = load_task(spec, own)
        baseline = reference_evaluation(task, spec, "baseline")
        snapshots = list(run_trial(task, TrialJob("0000", spec, 0, {}, baseline.metrics)))
        rows = [e for one in snapshots for e in one.evaluations if e.step]
        suite = evaluate_model(task.base, task.tokenizer, own, metrics=["prob"], probes={"towns": spec.probes["towns"]})
        seen.append((baseline.metrics, [row.metrics for row in rows], suite.measured))
    assert seen[0] == seen[1] == seen[2]
    names = {key.partition(".")[0] for metrics in (seen[0][0], *seen[0][1], seen[0][2]) for key in metrics}
    assert "towns_certify" not in names
    during = {key.partition(".")[0] for metrics in seen[0][1] for key in metrics}
    assert "towns" in during
    assert "towns_report" not in during


def test_the_report_rows_are_measured_at_the_end_as_a_set_of_their_own(made: Callable[..., Any]) -> None:
    spec = made()
    sets = load_sets(spec.data, spec.probes)
    task = load_task(spec, sets)
    found = final_measurement(task.base, task, spec).values
    alone = load_task(spec, sets | {"towns": sets["towns_report"]})
    expected = evaluate(alone.base, alone, ["es"], 8, everything=True).values
    for metric in ("prob", "repetition"):
        assert found[f"towns_report.{metric}"] == pytest.approx(expected[f"towns.{metric}"], rel=1e-5)


def test_generated_answers_are_averaged_by_group(made: Callable[..., Any]) -> None:
    spec = made(metrics=["repetition", "distinct", "prob"])
    task = load_task(spec, load_sets(spec.data, spec.probes))
    means = answered_group_means(task.base, task, {"towns_certify": ["repetition", "distinct"]}, 3)
    by_town: dict[str, list[Row]] = {}
    for row in task.sets["towns_certify"]:
        by_town.setdefault(row.group, []).append(row)
    asked = [Probe(task.base, task.tokenizer, rows, None, 8) for rows in by_town.values()]
    for probe in asked:
        probe.asked = probe.asked._replace(max_new_tokens=8)
    assert means["towns_certify.repetition"] == pytest.approx([float(np.mean(repetition(one))) for one in asked])
    assert means["towns_certify.distinct"] == pytest.approx([distinct(one).value for one in asked])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"split": {"select": 0.5, "certify": 0.4, "report": 0.2}}, r"split: the shares add up to 1\.1"),
        ({"split": {"select": 1.0}}, r"split\.select"),
        ({"split": 3}, r"split: expected a mapping"),
    ],
)
def test_shares_that_are_no_split_are_refused(made: Callable[..., Any], change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        made(**change)


def test_rows_to_forget_are_not_held_back(make_spec: MakeSpec, tmp_path: Path) -> None:
    probe = probe_of(tmp_path)
    probe["forget"] = probe.pop("rows")
    with pytest.raises(SpecError, match="no rows to keep"):
        make_spec(probes={"towns": probe})


@pytest.mark.parametrize("name", ["towns_certify", "towns_report"])
def test_names_of_rows_that_are_held_back_are_taken(make_spec: MakeSpec, tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="reads like rows that are held back"):
        make_spec(probes={name: probe_of(tmp_path)})


@pytest.mark.parametrize(("name", "why"), [("towns_certify", "read once"), ("towns_report", "final report")])
def test_rows_that_are_held_back_steer_nothing(make_spec: MakeSpec, tmp_path: Path, name: str, why: str) -> None:
    criteria = [{"metric": f"{name}.prob", "at_least": "50% of baseline"}]
    with pytest.raises(SpecError, match=f"{name}.prob cannot steer the search: .*{why}(?s:.*)use towns.prob"):
        make_spec(probes={"towns": probe_of(tmp_path)}, control={"criteria": criteria})
    with pytest.raises(InputError, match="no metric of a search"):
        Limit.parse(f"{name}.prob>=0.5*baseline")


def test_too_few_groups_to_split_are_one_sentence(made: Callable[..., Any]) -> None:
    spec = made(TOWNS[:4])
    with pytest.raises(InputError, match=r"towns: 4 rows of 2 groups cannot be split into 3 parts"):
        load_sets(spec.data, spec.probes)


def test_certify_rows_of_a_probe_stand_in_no_other_set(made: Callable[..., Any]) -> None:
    spec = made()
    rows = {"towns": spec.probes["towns"], "again": spec.probes["towns"].model_copy(update={"split": None})}
    with pytest.raises(InputError, match=r"of 8 towns_certify rows also stand in again"):
        load_sets(spec.data, rows)


def test_a_group_that_certifies_is_nowhere_in_the_data(made: Callable[..., Any]) -> None:
    """Eight of ten groups have names of the data, and four certify."""
    spec = made([row | {"town": NAMES[i // 2] if i < 16 else row["town"]} for i, row in enumerate(TOWNS)])
    with pytest.raises(InputError, match=r"rows in \w+ and in towns_certify: .*"):
        load_sets(spec.data, spec.probes)
