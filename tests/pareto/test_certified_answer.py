"""What people read of a certificate: the answer everywhere, the front plot, and what it says where nothing passed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayul.errors import InputError
from rayul.pareto.power import Spread, needed_groups
from rayul.pareto.spread import spread
from rayul.records.certificate import Certificates, Dial, Margin, Reading, RowsRead, Walked, write_certificates
from rayul.records.folder import load_records
from rayul.report.answer import answer, caution, headline
from rayul.report.certified import best_certified, certified_lines
from rayul.report.charts import payload
from rayul.report.status import read_status, status_lines
from rayul.report.summary import summary_of
from rayul.report.terminal import front_lines
from tests.pareto.synthetic import evaluation, sweep, write_folder

SCALES = tuple(round(i / 20, 6) for i in range(1, 21))


def walked(scale: float, p: float, kept: float, low: float) -> Walked:
    return Walked(scale, p, (Margin("retain.es", True, True, 0.9, kept, low, 0.13),))


def reading(*dials: Dial, named: bool = True) -> Reading:
    limits = ("retain.es ≥ 90% of baseline",)
    return Reading(
        "2026-11-28T09:00:00+00:00",
        0.1,
        (RowsRead("retain_certify", 20, named, 100, "ab" * 32),),
        limits,
        (),
        dials,
        finished=True,
    )


def passed(trial: str, count: int, forget: float) -> Dial:
    e = evaluation(trial, 30, forget, 0.9)
    steps = (*(walked(s, 0.001, 0.96, 0.92) for s in SCALES[:count]), walked(SCALES[count], 0.2, 0.9, 0.87))
    return Dial(trial, 30, 1.0, SCALES, steps, count, 0, replace(e, mixing=SCALES[count - 1]))


FAILED = Dial("0003", 30, 1.0, SCALES, (walked(0.05, 0.04, 0.92, 0.86),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "made", sweep(12))


def results_with(folder: Path, *readings: Reading) -> Any:
    """The certified evaluations get the settings that their trials have in the folder, as those of a sweep have."""
    rows = {e.trial_id: e for e in load_records(folder).evaluations}

    def of_its_trial(dial: Dial) -> Dial:
        row, e = rows[dial.trial_id], dial.certified
        return dial if e is None else replace(dial, certified=replace(e, seed=row.seed, params=row.params))

    real = [replace(one, dials=tuple(map(of_its_trial, one.dials))) for one in readings]
    write_certificates(folder, Certificates(tuple(real)))
    return load_records(folder)


def test_the_best_certified_point_is_the_answer_everywhere(folder: Path) -> None:
    results = results_with(folder, reading(passed("0001", 10, 0.6), passed("0002", 14, 0.49), FAILED))
    summary = summary_of(results)
    said = (
        "Certified: keeps at least 90% of retain.es on new groups (90% confidence, 20 groups: 96.0% of retain.es, at "
        "least 92.0%); 50.0% forgotten, scale 0.70 of trial 0002 at step 30."
    )
    assert answer(results, summary)[0] == said
    assert headline(results, summary) == (
        "50% forgotten. Certified is what it keeps: at least 90% of retain.es on new groups."
    )
    for lines in (front_lines(summary), status_lines(read_status(folder, held=False))):
        assert said in " ".join(lines)
        assert max(map(len, lines)) <= 100
    assert best_certified(results).key == ("0002", 30, 0.7)
    assert "Not certified at any scale: 0003 at step 30." in certified_lines(results)
    assert caution(results, summary) == []


def test_of_several_targets_one_can_be_named_for_an_export(folder: Path) -> None:
    strict, loose = replace(passed("0001", 10, 0.6), target=0.95), replace(passed("0002", 14, 0.49), target=0.9)
    results = results_with(folder, reading(strict, loose))
    chosen = {tau: best_certified(results, tau).trial_id for tau in (None, 0.95, 0.9)}
    assert chosen == {None: "0002", 0.95: "0001", 0.9: "0002"}
    with pytest.raises(InputError, match=r"no point that is certified for tau 0\.8") as refused:
        best_certified(results, 0.8)
    assert refused.value.hint == "certified are 0.95, 0.9"


def test_where_nothing_passes_it_says_so_first_and_why_and_what_helps(folder: Path) -> None:
    results = results_with(folder, reading(FAILED))
    summary = summary_of(results)
    said = answer(results, summary)
    assert said[0] == headline(results, summary) == front_lines(summary)[0] == "Nothing is certified."
    assert said[1] == (
        "Even at scale 0.05 the bound of retain.es on 20 certify groups is 86.0%, and the limit is 90.0%: the groups' "
        "mean is 92.0% with a spread (sd) of 0.13."
    )
    enough = needed_groups(0.92, 0.9, 0.1, Spread(0.13, 0.92))
    assert said[2] == f"With the same mean and spread, {enough} groups pass four times in five."
    assert "more certify groups" in said[3]
    with pytest.raises(InputError, match=r"no certified point\. Even at scale 0\.05"):
        best_certified(results)


def test_a_front_that_was_never_certified_keeps_its_words(folder: Path) -> None:
    results = load_records(folder)
    summary = summary_of(results)
    assert summary.certified == []
    assert "ertified" not in " ".join([headline(results, summary), *front_lines(summary)])


def test_rows_without_groups_are_not_called_groups(folder: Path) -> None:
    results = results_with(folder, reading(passed("0001", 10, 0.6), named=False))
    assert "on new rows (90% confidence, 20 rows: 96.0%" in certified_lines(results)[0]


def test_both_tests_are_told_with_what_they_assume(folder: Path) -> None:
    def told(dial: Dial) -> str:
        return certified_lines(results_with(folder, reading(dial)))[1]

    dial = passed("0001", 10, 0.6)
    few = "assumes that group means are close to normal; the e-value, which does not, takes 22 groups or more."
    assert told(dial).endswith(few)
    tried = replace(dial, walked=tuple(replace(one, e_value=2.0) for one in dial.walked))
    assert told(tried).endswith("passes at no scale.")
    assert told(replace(tried, passed_free=4)).endswith("by an e-value, the limits are kept up to scale 0.20.")


def test_groups_that_are_all_equal_are_said_to_be(folder: Path) -> None:
    dial = passed("0001", 10, 0.6)
    last = dial.walked[9]
    equal = replace(last, margins=(replace(last.margins[0], kept=1.0, low=1.0, sd=1e-17),))
    walk = (*dial.walked[:9], equal, dial.walked[10])
    lines = certified_lines(results_with(folder, reading(replace(dial, walked=walk))))
    assert lines[2].startswith("All groups keep the same retain.es there, so the t test has no spread to go by")
    assert "20 groups: 100.0% of retain.es, the same in every group, so without a bound" in lines[0]
    assert "All groups" not in " ".join(certified_lines(results_with(folder, reading(dial))))


def test_report_rows_below_the_limit_are_told_of_a_certified_point(tmp_path: Path) -> None:
    def measured(e: Any, kept: float) -> Any:
        return replace(e, metrics=e.metrics | {"retain_report.es": kept})

    rows = [measured(row, 0.98) if getattr(row, "is_reference", False) else row for row in sweep(12)]
    dial = passed("0002", 14, 0.49)
    for kept, told in ((0.7, True), (0.97, False)):
        results = results_with(
            write_folder(tmp_path / f"{kept}", rows), reading(replace(dial, certified=measured(dial.certified, kept)))
        )
        said = " ".join(certified_lines(results))
        assert ("On the report rows the same weights keep 71.4%" in said) is told


def test_an_earlier_certificate_stays_when_a_later_reading_finds_less(folder: Path) -> None:
    later = replace(reading(FAILED, passed("0002", 4, 0.8)), alpha=0.025)
    results = results_with(folder, reading(passed("0001", 10, 0.6)), later)
    assert best_certified(results).trial_id == "0001"
    first, second = (line for line in certified_lines(results) if "certified:" in line.lower())
    assert "90% confidence" in first
    assert "97.5% confidence" in second


def test_certified_points_are_filled_with_their_bound_and_the_front_behind_them_hollow(folder: Path) -> None:
    results = results_with(folder, reading(passed("0002", 14, 0.49)))
    summary = summary_of(results)
    page = payload(results, summary.front, summary.best, summary.history)
    traces = {trace["meta"]: trace for trace in page["figures"]["front"]["data"]}
    point = traces["certified"]
    assert point["x"] == pytest.approx([0.5])
    assert point["y"] == pytest.approx([0.96])
    assert point["error_y"]["arrayminus"] == pytest.approx([0.04])
    (row,) = point["customdata"]
    assert (page["rows"]["step"][row], page["rows"]["mixing"][row]) == (30, 0.7)
    assert traces["front"]["marker"]["symbol"] == "circle-open"
    assert "best" not in traces
    json.dumps(page, allow_nan=False)


def test_adapters_are_spread_over_the_front_and_each_is_taken_once() -> None:
    front = [evaluation(f"{i // 2:04d}", 10, 0.1 + 0.05 * i, 0.9) for i in range(10)]
    front = [replace(e, mixing=0.5 + 0.05 * (i % 2)) for i, e in enumerate(front)]
    assert [e.key for e in spread(front, 5)] == [(f"{i:04d}", 10, 0.55) for i in range(5)]
    assert [e.trial_id for e in spread(front, 3)] == ["0000", "0002", "0004"]
    assert [e.trial_id for e in spread(front, 1)] == ["0000"]
    assert spread([], 5) == []
    assert np.all([e in front for e in spread(front, 4)])
