"""What still comes back, by group and in words: on the page, in the terminal, on the card, in the comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import sweep, write_folder

from rayul.pareto.best import best_of
from rayul.pareto.front import front_of
from rayul.records import adapter_folder
from rayul.records.folder import load_records
from rayul.records.recall import Counted, Recall, Sample, write_recall
from rayul.report import front_lines, summarise
from rayul.report.card import Forgotten, model_card
from rayul.report.compare import load_comparison
from rayul.report.compare_page import write_comparison
from rayul.report.compare_text import comparison_lines
from rayul.report.recalled import recalled_lines
from rayul.report.results import load_results
from rayul.report.status import read_status, status_lines
from rayul.spec import load_spec

SECRET = "the row <b>nobody</b> may see"
NAMES = ("Adalind", "Benedikt", "Cyprian", "Dietlind")
BEFORE = {
    "forget": Counted(("Adalind", "Benedikt", ""), (10, 5, 2), (1.0, 0.9, 0.5), (10, 4, 1)),
    "retain": Counted(("Cyprian", "Dietlind"), (10, 10), (1.0, 0.95), (10, 9)),
    "general": Counted(("",), (60,), (0.9,), (50,)),
}
AFTER = {
    "forget": Counted(("Adalind", "Benedikt", ""), (10, 5, 2), (0.2, 0.8, 0.0), (0, 3, 0)),
    "retain": Counted(("Cyprian", "Dietlind"), (10, 10), (0.9, 0.3), (8, 2)),
    "general": Counted(("",), (60,), (0.8,), (39,)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = write_folder(tmp_path / "s", sweep(8, seed=3))
    results = load_records(place)
    best = best_of(front_of(results), results)
    assert best is not None
    where = adapter_folder(place, best)
    where.mkdir(parents=True)
    write_recall(where, Recall(BEFORE, AFTER, (Sample("forget", "Adalind", "Who?", SECRET, SECRET, "nobody"),)))
    return place


def test_the_lines_count_rows_and_name_the_worst(folder: Path) -> None:
    (one,) = summarise(folder).recalled
    assert recalled_lines(one) == [
        "3 of the 17 rows to forget still come back word for word (15 did before); most is left of Benedikt: 3 of 5 "
        "(before: 4). 1 of 2 groups still has such a row.",
        "Of 20 rows to keep (select rows), 10 come back word for word (19 did before); most is lost of Dietlind: 2 of "
        "10 (before: 9).",
        "Of 60 rows of general knowledge, 39 come back word for word (50 did before).",
    ]
    whole = {found.set: found.whole for found in one.sets}
    assert whole["forget"].es_before == pytest.approx((10 * 1.0 + 5 * 0.9 + 2 * 0.5) / 17)
    assert whole["forget"].es_after == pytest.approx((10 * 0.2 + 5 * 0.8) / 17)
    assert "3 of the 17 rows" in " ".join(front_lines(summarise(folder))).replace("\n", " ")


def test_no_worst_group_is_named_where_no_row_comes_back(folder: Path) -> None:
    (place,) = folder.glob("adapters/*/recall.json")
    gone = {"forget": Counted(("Adalind", "Benedikt", ""), (10, 5, 2), (0.2, 0.1, 0.0), (0, 0, 0))}
    write_recall(place.parent, Recall({"forget": BEFORE["forget"]}, gone))
    (one,) = summarise(folder).recalled
    assert recalled_lines(one) == ["0 of the 17 rows to forget still come back word for word (15 did before)."]


def test_the_page_shows_groups_and_escapes_rows(folder: Path) -> None:
    text = summarise(folder).report.read_text()
    assert '<th scope="row">Benedikt</th><td>5</td><td>4 → 3</td><td>90.0% → 80.0%</td>' in text
    assert text.index(">Benedikt</th>") < text.index(">Adalind</th>"), "of rows to forget, most left comes first"
    assert SECRET not in text
    assert "the row &lt;b&gt;nobody&lt;/b&gt; may see" in text
    summary = summarise(folder, samples=0)
    assert "most is left of forget group 2" in " ".join(front_lines(summary))
    shared = summary.report.read_text()
    assert "may see" not in shared
    assert '<th scope="row">forget group 2</th><td>5</td><td>4 → 3</td><td>90.0% → 80.0%</td>' in shared
    assert "most is left of forget group 2: 3 of 5" in shared
    for private in NAMES:
        assert private not in shared


def test_a_page_with_rows_says_so_at_its_top(folder: Path) -> None:
    """And one without rows, or with those of the testbed, which are fictional, says nothing."""
    said = "This page contains rows of your data (to forget) and names of groups: mind whom you send it to."
    assert said not in summarise(folder).report.read_text()
    spec = folder / "spec.yaml"
    spec.write_text(spec.read_text().replace("data: testbed", "data: {forget: people.jsonl, retain: others.jsonl}"))
    text = summarise(folder).report.read_text()
    assert text.index(said) < text.index('<h1 id="headline">')
    assert f"rayul report {folder} --samples 0" in text
    assert "mind whom you send it to" not in summarise(folder, samples=0).report.read_text()
    (place,) = folder.glob("adapters/*/recall.json")
    write_recall(place.parent, Recall(BEFORE, AFTER))
    assert "mind whom you send it to" not in summarise(folder).report.read_text()


def test_terminal_and_comparison_name_groups_only_where_samples_were_asked_for(folder: Path, tmp_path: Path) -> None:
    assert "most is left of Benedikt" in " ".join(front_lines(summarise(folder)))
    (place,) = folder.glob("adapters/*/recall.json")
    write_recall(place.parent, Recall(BEFORE, AFTER))
    summary = summarise(folder)
    assert ">Benedikt</th>" in summary.report.read_text(), "the report is about them"
    said = " ".join(front_lines(summary))
    assert "most is left of forget group 2: 3 of 5" in said
    assert "most is lost of retain group" in said, "the same number of another set is somebody else"
    assert said.count("Groups are numbered within each set, as in recall.json.") == 1
    c = load_comparison([folder, write_folder(tmp_path / "other", sweep(6, seed=4))])
    write_comparison(c, tmp_path / "c.html")
    status = "\n".join(status_lines(read_status(folder, held=False)))
    for text in (said, status, "\n".join(comparison_lines(c)), (tmp_path / "c.html").read_text()):
        assert "group 2" in text
        for private in NAMES:
            assert private not in text


def test_the_card_has_numbers_and_no_names(folder: Path) -> None:
    results = load_records(folder)
    best = load_results(folder).best()
    options = {"address": "x", "after": {}, "difference": 0.0, "adapter": True, "merged": False}
    card = model_card(results, load_spec(folder / "spec.yaml"), best, Forgotten("people", 17, "0" * 64), **options)
    assert "3 of the 17 rows to forget still come back word for word" in card
    assert "| to forget | 17 | 15 → 3 | 91.2% → 35.3% |" in card
    tables = {part.partition(",")[0]: part for part in card.split("Groups of rows ")[1:]}
    assert [line for line in tables["to forget"].splitlines() if line.startswith("| forget group ")] == [
        "| forget group 2 | 5 | 4 → 3 | 90.0% → 80.0% |",
        "| forget group 1 | 10 | 10 → 0 | 100.0% → 20.0% |",
    ], "the worst first, by the numbers of recall.json; rows that name no group have no line"
    assert "| retain group 2 | 10 | 9 → 2 | 95.0% → 30.0% |\n| retain group 1 |" in tables["to keep (select rows)"]
    assert len(tables) == 2, "general rows name no group"
    for private in (*NAMES, "nobody", "Who?"):
        assert private not in card


def test_a_card_of_many_groups_has_the_worst(folder: Path) -> None:
    (place,) = folder.glob("adapters/*/recall.json")
    people = tuple(f"Person {i}" for i in range(30))
    before, after = (
        Counted(people, (1,) * 30, es, (0,) * 30) for es in ((1.0,) * 30, tuple(i / 30 for i in range(30)))
    )
    write_recall(place.parent, Recall({"forget": before}, {"forget": after}))
    options = {"address": "x", "after": {}, "difference": 0.0, "adapter": True, "merged": False}
    best, spec = load_results(folder).best(), load_spec(folder / "spec.yaml")
    card = model_card(load_records(folder), spec, best, Forgotten("people", 30, "0" * 64), **options)
    listed = [line.split(" | ")[0] for line in card.splitlines() if line.startswith("| forget group ")]
    assert listed == [f"| forget group {number}" for number in range(30, 10, -1)]
    assert "10 more are left out: less is left of them." in card


def test_the_comparison_counts_them_per_sweep(folder: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", sweep(6, seed=4))
    c = load_comparison([folder, other])
    lines = "\n".join(comparison_lines(c))
    assert "3 of 17" in lines
    assert "Benedikt: 3 of 5" in lines
    write_comparison(c, tmp_path / "c.html")
    assert "Benedikt: 3 of 5" in (tmp_path / "c.html").read_text()


def test_a_folder_without_them_reads_as_before(tmp_path: Path) -> None:
    summary = summarise(write_folder(tmp_path / "old", sweep(8, seed=3)))
    assert summary.recalled == []
    assert 'id="recalled"' not in summary.report.read_text()
