"""The health check that names terms of the loss which do nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synthetic import baseline, evaluation, write_folder

from rayul.report import load_results, summary_of

TITLE = "Does every term of the loss do something?"


def said(folder: Path, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]) -> tuple[str, str] | None:
    evaluations = [
        evaluation(f"{n:04d}", 5 * (1 + n), 0.5, 0.93, params=dict(params), terms=dict(terms))
        for n, (params, terms) in enumerate(rows)
    ]
    ends = [e.ended("completed") for e in evaluations]
    results = load_results(write_folder(folder, [baseline(), *evaluations, *ends]))
    return next(((c.verdict, c.sentence) for c in summary_of(results).checks if c.title == TITLE), None)


def test_a_term_that_is_always_nought_is_named(tmp_path: Path) -> None:
    found = said(tmp_path, [({}, {"forget": -f, "orth": 0.0}) for f in (1.0, 2.0, 3.0)])
    assert found is not None
    assert found[0] == "warning"
    assert found[1].startswith("No: orth is 0 at all 3 evaluations. ")


def test_a_term_that_never_moves_is_named_with_its_method_and_rule(tmp_path: Path) -> None:
    gd, npo = ({"method.name": name, "method.gradient": "sam"} for name in ("gd", "npo"))
    rows = [(gd, {"forget": 1.0, "retain": 0.2}), (gd, {"forget": 2.0, "retain": 0.2})]
    rows += [(npo, {"forget": 1.0, "retain": 0.2}), (npo, {"forget": 2.0, "retain": 0.3})]
    found = said(tmp_path, rows)
    assert found is not None
    assert found[0] == "warning"
    assert found[1].startswith("No: retain of gd with sam is 0.2 at all 2 evaluations. ")


def test_terms_that_move_are_good(tmp_path: Path) -> None:
    found = said(tmp_path, [({}, {"forget": -f, "retain": f}) for f in (1.0, 2.0)])
    assert found == ("good", "Yes: forget, retain, all move.")


def test_one_value_says_nothing(tmp_path: Path) -> None:
    assert said(tmp_path, [({}, {"forget": 0.0}), ({}, {})]) is None


def test_records_of_before_say_nothing(tmp_path: Path) -> None:
    assert said(tmp_path, [({}, {}), ({}, {})]) is None
