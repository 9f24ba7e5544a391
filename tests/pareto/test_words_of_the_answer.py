"""Heading, tiles and checks: one meaning a word, an audit's verdict, sweeps that are not over, side effects."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from audits import NAME, audit_folder, lines
from synthetic import SPEC, baseline, ends, evaluation, write_folder

from rayul.records import COMPLETED, PRUNED, Evaluation, Record
from rayul.records.folder import load_records
from rayul.report import front_lines, summarise, summary_of
from rayul.report.answer import headline, tiles
from rayul.report.at_a_glance import at_a_glance
from rayul.report.card import Forgotten, model_card
from rayul.report.fell import BOTH, NEITHER, ONLY, PART, fell, fell_lines
from rayul.spec import load_spec
from rayul.words import measured

PROB = SPEC.replace("forget.es: minimize, retain.es: maximize", "forget.prob: minimize, retain.es: maximize")

PROBED = SPEC.replace("forget.es: minimize, retain.es: maximize", "facts_forget.rouge: minimize, retain.es: maximize")


def point(trial: str, forget: float, prob: float, retain: float = 0.95, general: float = 0.9) -> Evaluation:
    e = evaluation(trial, 20, forget, retain, params={"training.lr": 1e-3})
    more = {"forget.prob": prob, "general.es": general}
    return replace(e, metrics=e.metrics | more, stderr=e.stderr | dict.fromkeys(more, 0.02))


def said(folder: Path) -> str:
    results = load_records(folder)
    return headline(results, summary_of(results))


def test_forgotten_is_by_extraction_strength_whatever_the_objective(tmp_path: Path) -> None:
    rows: list[Record] = [baseline(), *ends(point("0000", 0.49, 0.19))]
    by_es, by_prob = (write_folder(tmp_path / name, rows, spec) for name, spec in (("es", SPEC), ("prob", PROB)))
    assert said(by_es) == "50% forgotten within the limits."
    assert said(by_prob) == "50% forgotten, forget.prob down 80% within the limits."
    summary = summarise(by_prob)
    head = next(line for line in front_lines(summary) if "trial" in line and "step" in line)
    assert head.split() == ["trial", "step", "forget.prob", "gone", "forget.prob", "retain.es", "forget.es"]
    shown = {label: value for label, value, _, _ in tiles(load_records(by_prob), summary)}
    assert shown["Forgotten: forget.es"] == "50.0%"
    page = summary.report.read_text()
    assert "forget.prob gone: 1 − forget.prob / baseline" in page
    assert "Forgotten: 1 − forget.es" not in page


def test_a_probe_that_the_search_goes_by_says_what_is_forgotten(tmp_path: Path) -> None:
    def asked(e: Evaluation, rouge: float) -> Evaluation:
        return replace(e, metrics=e.metrics | {"facts_forget.rouge": rouge})

    spec = f"{PROBED}probes: {{facts: {{forget: org/facts, metrics: [rouge]}}}}\n"
    e = asked(point("0000", 0.0, 0.0), 0.8)  # nothing extractable is left of the rows that were trained on
    folder = write_folder(tmp_path / "s", [asked(baseline(), 1.0), *ends(e)], spec)
    assert said(folder) == "facts_forget.rouge down only 20% within the limits."
    summary = summarise(folder)
    shown = {label: value for label, value, _, _ in tiles(load_records(folder), summary)}
    assert shown["Forgotten: facts_forget.rouge"] == "20.0%"
    assert "Forgotten: forget.es" not in shown
    (check,) = [c for c in summary.checks if c.title == "Is most of it forgotten?"]
    assert (check.verdict, "20.0% of facts_forget.rouge" in check.sentence) == ("warning", True)


def test_it_is_said_where_most_is_left(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", [baseline(), *ends(point("0000", 0.8, 0.8))])
    assert said(folder).startswith("Only 18% forgotten")
    (check,) = [c for c in summarise(folder).checks if c.title == "Is most of it forgotten?"]
    assert check.verdict == "warning"


def test_an_objective_alone_is_named_where_es_was_not_measured(tmp_path: Path) -> None:
    def without(e: Evaluation) -> Evaluation:
        return replace(e, metrics={k: v for k, v in e.metrics.items() if k != "forget.es"})

    e = without(point("0000", 0.49, 0.19))
    folder = write_folder(tmp_path / "s", [without(baseline()), *ends(e)], PROB)
    assert said(folder) == "forget.prob down 80% within the limits."
    summarise(folder)
    page = (folder / "report.html").read_text()
    assert "The search went by forget.prob (probability in [0, 1]: the geometric mean of the answer" in page
    assert "no longer completes it exactly" not in page


@pytest.mark.parametrize(("general", "verdict", "mark"), [(0.9, "good", ""), (0.5, "warning", "lost")])
def test_a_set_without_a_limit_has_a_tile_and_a_check(tmp_path: Path, general: float, verdict: str, mark: str) -> None:
    folder = write_folder(tmp_path / "s", [baseline(), *ends(point("0000", 0.4, 0.2, general=general))])
    summary = summarise(folder)
    (check,) = [c for c in summary.checks if c.title == "Did general rows suffer, which no limit protects?"]
    assert check.verdict == verdict
    assert f"{general / 0.9:.1%} of general.es" in check.sentence
    found = {label: (value, shown) for label, value, _, shown in tiles(load_records(folder), summary)}
    assert found["Kept: general.es"] == (f"{general / 0.9:.1%}", mark)
    assert ("lost more than 10%" in summary.report.read_text()) is (mark == "lost")


def test_rows_with_a_limit_have_no_further_tile(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", [baseline(), *ends(point("0000", 0.4, 0.2))])
    labels = [label for label, *_ in tiles(load_records(folder), summarise(folder))]
    assert labels.count("Kept: retain.es") == 1


def test_a_sweep_that_is_not_over_says_so_in_its_heading(tmp_path: Path) -> None:
    running = point("0001", 0.8, 0.8)
    folder = write_folder(tmp_path / "s", [baseline(), *ends(point("0000", 0.49, 0.19)), running])
    assert said(folder) == "Unfinished: 1 trial has ended. So far: 50% forgotten within the limits."


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({}, "The audit "),
        ({"after": 0.9}, "But in the audit an attack brings it back."),
        ({"report": 0.5}, "But in the audit it breaks a limit."),
    ],
)
def test_an_audit_of_the_point_changes_the_heading(tmp_path: Path, rows: dict[str, float], words: str) -> None:
    folder = audit_folder(tmp_path / "s", lines(**rows))
    summary = summary_of(load_records(folder))
    assert summary.best is not None
    assert NAME.startswith(summary.best.trial_id)
    assert words in said(folder)
    assert dict(at_a_glance(load_records(folder), summary))["Under attack"][0].startswith(
        "In the audit of its settings"
    )
    options = {"address": "x", "after": {}, "difference": 0.0, "adapter": True, "merged": False}
    chosen = ["method.name=gd", "method.retain_weight=1.0", "lora.r=8", "training.lr=1e-3"]
    of = (load_spec(folder / "spec.yaml", chosen, check_files=False), summary.best, Forgotten("people", 8, "0" * 64))
    assert f"## Audit\n\n{words.rstrip('.')}" in model_card(load_records(folder), *of, **options)


ENDS = {BOTH: (0.1, 0.2), NEITHER: (0.95, 0.95), ONLY: (0.2, 0.93), PART: (0.6, 0.7)}


def test_trials_are_counted_by_what_they_lost(tmp_path: Path) -> None:
    counts = {BOTH: 7, NEITHER: 3, ONLY: 1, PART: 2}
    lr = {BOTH: 5e-3, NEITHER: 1e-4, ONLY: 1e-3, PART: 1e-3}
    rows: list[Record] = [baseline()]
    for zone, count in counts.items():
        for _ in range(count):
            forget, retain = ENDS[zone]
            number = f"{sum(isinstance(r, Evaluation) for r in rows):04d}"
            e = evaluation(number, 20, forget, retain, params={"training.lr": lr[zone], "lora.r": 8})
            rows += ends(e, PRUNED if not e.feasible else COMPLETED, *(("retain.es", "r") if not e.feasible else ()))
    folder = write_folder(tmp_path / "s", rows)
    found = fell(load_records(folder))
    assert found is not None
    assert {zone: len(trials) for zone, trials in found.zones.items()} == counts
    assert found.parts == "training.lr"
    assert (found.typical[BOTH], found.typical[NEITHER]) == ("0.005", "0.0001")
    told = fell_lines(found)
    assert told[0].startswith("Of 13 ended trials, 7 lost most of both")
    assert told[-1].startswith("Most trials over-forget: search lower learning rates")
    summary = summarise(folder)
    said = " ".join(front_lines(summary))
    assert "7 of 13 ended trials forgot, but lost most of what they were to keep too: search lower" in said
    assert "3 lost little of either" not in said, "the page has them all"
    assert "little of either" in summary.report.read_text()
    assert "Where the trials fell" in summary.report.read_text()


def test_nothing_is_said_of_what_parts_few_trials(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", [baseline(), *ends(point("0000", 0.49, 0.19))])
    found = fell(load_records(folder))
    assert found is not None
    assert (found.parts, found.total) == ("", 1)
    assert fell(load_records(write_folder(tmp_path / "t", [baseline()]))) is None


def test_what_mixing_scales_back_is_no_reason_to_search_more_gently(tmp_path: Path) -> None:
    rows: list[Record] = [baseline()]
    for trial in ("0000", "0001", "0002"):
        forget, retain = ENDS[BOTH]
        rows.append(evaluation(trial, 20, forget, retain))
        rows += ends(replace(point(trial, 0.2, 0.95), step=20, mixing=0.25))
    folder = write_folder(tmp_path / "s", rows)
    found = fell(load_records(folder))
    assert found is not None
    assert len(found.zones[BOTH]) == 3
    assert found.advice[BOTH] == "nothing: mixing scales these back"
    assert not [line for line in fell_lines(found) if "over-forget" in line]
    said = " ".join(front_lines(summarise(folder)))
    assert (
        "3 of 3 ended trials forgot, but lost most of what they were to keep too, before mixing scaled them back."
        in said
    )


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (0.4123, 0.0312, "0.412 ± 0.031"),
        (6.9e-4, 4.6e-4, "0.00069 ± 0.00046"),
        (3.9e-16, 2e-16, "3.9e-16 ± 2.0e-16"),
        (0.9, 1e-6, "0.9000000 ± 0.0000010"),
        (0.5, math.nan, "0.5"),
    ],
)
def test_a_value_has_as_many_digits_as_its_error(value: float, error: float, said: str) -> None:
    assert measured(Evaluation("0", 1, metrics={"m": value}, stderr={"m": error}), "m") == said
