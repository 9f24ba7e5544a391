"""What attacks on certified weights bring back, judged from lines with known numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rayul.audit.recovery import recoveries, recovery, shares
from rayul.errors import RayulError
from rayul.records.attacked import (
    FINE_TUNE,
    INTERPOLATE,
    Attacked,
    attack_journal,
    attacked_from_json,
    attacked_to_json,
    read_attacked,
)
from rayul.records.folder import load_records
from rayul.report import summary_of
from rayul.report.answer import headline
from rayul.report.at_a_glance import at_a_glance
from rayul.report.health import health_checks
from tests.pareto.synthetic import sweep, write_folder
from tests.pareto.test_certified_answer import passed, reading, results_with

MODEL = "0003-20-0.9"


def line(attack: str, variant: str, *es: float, before: float = 0.2, baseline: float = 1.0) -> Attacked:
    at = tuple(5 * i for i in range(len(es)))
    return Attacked(MODEL, attack, variant, at, es, (0.1,) * len(es), before, baseline, rows=72, groups=8)


def test_the_share_returned_is_of_what_was_forgotten() -> None:
    row = line(FINE_TUNE, "own rows, LoRA", 0.2, 0.4, 0.6, 0.5)
    assert shares(row) == pytest.approx([0, 0.25, 0.5, 0.375])
    one = recovery(row)
    assert (one.returned, one.at, one.half, one.after) == (pytest.approx(0.5), 10, 10, 0.6)


def test_where_nothing_was_forgotten_there_is_no_share() -> None:
    one = recovery(line("noise", "5%", 0.9, before=1.0))
    assert one.returned != one.returned
    assert one.half is None


def test_the_worst_of_each_kind_comes_first_and_the_way_back_last() -> None:
    rows = [
        line(FINE_TUNE, "own rows, LoRA, lr 1", 0.2, 0.3),
        line(FINE_TUNE, "own rows, LoRA, lr 2", 0.2, 0.5),
        line(FINE_TUNE, "related rows, LoRA", 0.2, 0.9),
        line("noise", "5%", 0.1),
        line(INTERPOLATE, "", 0.3, 1.0),
        Attacked(MODEL, "paraphrase", "", reason="no row has one"),
    ]
    found = recoveries(rows)
    told = [(one.row.attack, one.row.variant.partition(",")[0], one.tried) for one in found]
    assert told == [
        (FINE_TUNE, "related rows", 1),
        (FINE_TUNE, "own rows", 2),
        ("noise", "5%", 1),
        (INTERPOLATE, "", 1),
    ]
    assert found[1].row.variant.endswith("lr 2")


def test_lines_are_read_back_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    rows = [line(FINE_TUNE, "own rows", 0.2, 0.5), Attacked(MODEL, "paraphrase", "", reason="none")]
    assert [attacked_to_json(attacked_from_json(attacked_to_json(row))) for row in rows] == list(
        map(attacked_to_json, rows)
    )
    journal = attack_journal(tmp_path)
    assert len(journal.append(*rows)) == 2
    assert journal.append(rows[0]) == []
    assert read_attacked(tmp_path)[0] == rows[0]
    path = journal.path
    path.write_text(path.read_text().replace("0.5", "0.4", 1))
    with pytest.raises(RayulError, match=r"attacks\.jsonl:1: .*checksum"):
        read_attacked(tmp_path)
    with pytest.raises(ValueError, match="looks"):
        Attacked(MODEL, FINE_TUNE, "own rows", (0, 5), (0.1,), (0.1,))


def test_what_an_attack_brings_back_stands_in_the_headline_and_the_checks(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "made", sweep(12))
    results = results_with(folder, reading(passed("0002", 14, 0.49)))
    assert "attack brings back" not in headline(results, summary_of(results))
    name = "0002-30-0.7"
    rows = [
        replace(line(FINE_TUNE, "own rows, LoRA, lr 1", 0.49, 0.85, before=0.49, baseline=0.98), model=name),
        replace(line("jailbreak", "prefix", 0.6, before=0.49, baseline=0.98), model=name),
        replace(line(INTERPOLATE, "", 0.5, 0.98, before=0.49, baseline=0.98), model=name),
    ]
    journal = attack_journal(folder)
    for row in rows:
        journal.append(row)
    results = load_records(folder)
    summary = summary_of(results)
    assert headline(results, summary).startswith("50% forgotten, of which an attack brings back 73%. ")
    check = next(one for one in health_checks(results, summary.front) if "under attack" in one.title)
    assert (check.verdict, check.sentence[:3]) == ("warning", "No:")
    assert "73.5% of what was forgotten" in check.sentence
    told = " ".join(dict(at_a_glance(results, summary))["Under attack"])
    assert "jailbreak prompts 22.4%" in told
