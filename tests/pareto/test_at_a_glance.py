"""What the head of a report says of the answer's point, in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rayul.records.folder import SweepRecords, load_records
from rayul.records.manifest import Run
from rayul.report import summarise, summary_of
from rayul.report.answer import answer, states, tiles
from rayul.report.at_a_glance import at_a_glance
from tests.pareto.synthetic import baseline, ends, evaluation, sweep, write_folder
from tests.pareto.test_certified_answer import passed, reading, results_with
from tests.pareto.test_recalled import folder as recalled_folder  # noqa: F401 (a fixture)

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def facts(results: SweepRecords) -> dict[str, str]:
    return {what: " ".join(lines) for what, lines in at_a_glance(results, summary_of(results))}


def test_a_certified_point_is_told_by_its_own_numbers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "made", sweep(12))
    results = results_with(folder, reading(passed("0002", 14, 0.49)))
    told = facts(results)
    assert "96.0% of retain.es on 20 new groups that nothing had read before" in told["Kept"]
    assert "at least 92.0% at 90% confidence" in told["Kept"]
    assert told["Under attack"].startswith(f"No attack was tried yet: `rayul certify {folder}`")
    assert "Trial 0002 after 30 steps at 70% of its strength" in told["Its weights"]
    assert f"{folder}/certified/0002-30-0.7" in told["Its weights"]
    shown = {label: (value, note) for label, value, note, _ in tiles(results, summary_of(results))}
    assert shown["Kept, certified: retain.es"] == ("96.0%", "on 20 new groups; at least 92.0% at 90% confidence")
    page = summarise(folder).report.read_text()
    assert f"<code>rayul export {folder} --certified</code>" in page
    assert "What had to be kept: retain.es ≥" in page
    assert "trial 0002, step 30, mixing 0.7" in page, "the table of metrics is about the same point"


def test_an_average_over_unequal_groups_is_told_apart(recalled_folder: Path) -> None:  # noqa: F811
    told = facts(load_records(recalled_folder))
    assert "Uneven: of Benedikt 80.0% can still be extracted, of Adalind 20.0%." in told["Still comes back"]
    assert told["Under attack"].startswith("Not tried.")


def test_trials_of_a_stopped_sweep_are_not_running(tmp_path: Path) -> None:
    rows = [baseline(), evaluation("0000", 20, 0.5, 0.9)]
    going, stopped = (load_records(write_folder(tmp_path / name, rows)) for name in ("going", "stopped"))
    assert states(going) == "1 running"
    run = Run(began=NOW, ended=NOW, stopped="Ctrl-C")
    assert states(replace(stopped, manifest=stopped.manifest.model_copy(update={"runs": (run,)}))) == "1 unfinished"


def test_what_any_model_completes_is_told_or_said_to_be_unknown(tmp_path: Path) -> None:
    rows = sweep(12)
    unknown = load_records(write_folder(tmp_path / "without", rows))
    if unknown.oracle is None:
        assert "is not known, since the spec names no oracle" in facts(unknown)["Still comes back"]
    oracle = replace(baseline(), trial_id="oracle", metrics=baseline().metrics | {"forget.es": 0.24})
    known = load_records(write_folder(tmp_path / "with", [*(r for r in rows if r != unknown.oracle), oracle]))
    assert "A model that never saw the rows has a forget.es of 0.24." in facts(known)["Still comes back"]


def test_rows_of_earlier_requests_that_come_back_are_told_at_once(tmp_path: Path) -> None:
    before = {"before_forget.es": 0.316, "before_forget.prob": 0.517}
    now = {"before_forget.es": 0.345, "before_forget.prob": 0.4}
    rows = [replace(baseline(), metrics=baseline().metrics | before)]
    rows += [replace(e, metrics=e.metrics | now) for e in [evaluation("0000", 20, 0.3, 0.9)]]
    told = facts(load_records(write_folder(tmp_path / "made", rows)))["Earlier requests"]
    assert told.startswith("Of the rows of earlier requests some comes back: ")
    assert "before_forget.es was 0.316 before this request and is 0.345" in told
    assert "before_forget.prob was 0.517 before this request and is 0.400" in told


def test_who_lost_most_stands_beside_what_is_kept(recalled_folder: Path) -> None:  # noqa: F811
    kept = facts(load_records(recalled_folder))["Kept"]
    assert "come back word for word (19 did before); most is lost of Dietlind: 2 of 10 (before: 9)." in kept


def test_what_the_settings_did_with_other_seeds_stands_at_the_top(tmp_path: Path) -> None:
    """The best of three seeds forgot nearly everything, the others a third."""
    rows = [baseline()]
    for number, (forget, rate) in enumerate([(0.098, 1e-3), (0.686, 1e-3), (0.588, 1e-3), (0.9, 2e-3)]):
        e = evaluation(f"{number:04d}", 5, forget, 0.95, params={"training.lr": rate})
        rows += ends(e)
    results = load_records(write_folder(tmp_path / "made", rows))
    assert facts(results)["Other seeds"] == (
        "The same settings with 2 other seeds: 30.0% to 40.0% forgotten at most within the limits, and 53.3% on "
        "average over all 3. These weights are of one of them."
    )
    said = " ".join(answer(results, summary_of(results)))
    assert "one run with one seed" not in said
    assert "Other seeds" not in facts(load_records(write_folder(tmp_path / "once", sweep(12))))
