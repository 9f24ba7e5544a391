"""The audit's numbers against what can be worked out by hand, and its verdicts case by case."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from audits import BASES, NAME, SEEDS, audit_folder, lines, scored
from scipy import stats

from rayul.audit.intervals import Means, over_seeds, over_seeds_and_groups
from rayul.audit.judge import judge, powerless, returns
from rayul.audit.read import Audit, read_audit
from rayul.audit.robustness import correlations, robustness
from rayul.audit.verdict import remarks, sentence, standing, verdict_lines
from rayul.errors import RayulError
from rayul.records.audited import REFUSAL, Audited
from rayul.report import load_results, summarise


def audit_of(tmp_path: Path, rows: list[Audited] | None = None) -> Audit:
    audit = read_audit(load_results(audit_folder(tmp_path / "sweep", rows)))
    assert audit is not None
    return audit


# --- intervals -----------------------------------------------------------------------------------------------------


def test_a_mean_of_drawn_seeds_and_authors_is_that_of_the_rows_themselves() -> None:
    """Against a plain loop that copies the drawn rows together."""
    rng = np.random.default_rng(1)
    values, authors = rng.random((3, 10)), np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    means = Means.of(values, authors)
    for _ in range(20):
        s, a = rng.integers(0, 3, 3), rng.integers(0, 4, 4)
        rows = [values[i, authors == j] for i in s for j in a]
        assert means.at(s, a) == pytest.approx(np.concatenate(rows).mean())


def test_bounds_are_as_wide_as_theory_says_where_seeds_do_not_differ() -> None:
    """Authors of equal size, seeds equal: the mean of A author means has standard error sd/sqrt(A), and a one-sided 95%
    bound of the mean lies 1.671 of those away (Student's t with 59 degrees of freedom)."""
    rng = np.random.default_rng(0)
    author_means = rng.normal(0.5, 0.1, 60)
    values = np.repeat(author_means, 5)
    means = Means.of(np.stack([values, values]), np.repeat(np.arange(60), 5))
    found = over_seeds_and_groups(means.at, 2, 60, 0.95)
    error = author_means.std(ddof=1) / math.sqrt(60)
    assert found.value == pytest.approx(values.mean())
    assert found.sd == pytest.approx(0)
    assert found.high - found.value == pytest.approx(1.671 * error, rel=1e-3)  # t at 59 degrees of freedom
    assert found.value - found.low == pytest.approx(1.671 * error, rel=1e-3)


def test_rows_of_an_author_stand_together() -> None:
    """Ten copies of a row under one author say no more than one of it."""
    rng = np.random.default_rng(0)
    base = rng.random(12)
    alone = Means.of(base[None], np.arange(12))
    copied = Means.of(np.repeat(base, 10)[None], np.repeat(np.arange(12), 10))
    a, b = (over_seeds_and_groups(m.at, 1, 12, 0.9) for m in (alone, copied))
    assert (a.low, a.high) == pytest.approx((b.low, b.high))


def test_one_number_has_no_bounds_and_several_have_theirs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy's, of the standard deviation of one
        alone = over_seeds([0.5], 0.9)
    assert alone.value == 0.5
    assert math.isnan(alone.low)
    assert math.isnan(alone.sd)
    several = over_seeds([0.4, 0.5, 0.6], 0.9)
    assert several.sd == pytest.approx(0.1)
    assert several.low < 0.4 < 0.6 < several.high, "three values are less than sure to span the mean"
    diverged = over_seeds([0.4, math.inf], 0.9)
    assert diverged.value == math.inf
    assert math.isnan(diverged.low)


@pytest.mark.parametrize("values", [[0.31, 0.42, 0.35, 0.71], [0.31, 0.42]])
def test_over_seeds_alone_the_interval_is_that_of_students_t_test(values: list[float]) -> None:
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)  # two-sided: 95% at each end
    authors = over_seeds_and_groups(Means.of(np.array([values]), np.arange(len(values))).at, 1, len(values), 0.95)
    assert (authors.low, authors.high) == pytest.approx((expected.low, expected.high))
    found = over_seeds(values, 0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.margin == pytest.approx((expected.high - expected.low) / 2)


@pytest.mark.parametrize("sds", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.3), (1.0, 1.0, 0.3)])
def test_the_bounds_of_three_seeds_hold_as_often_as_they_say(sds: tuple[float, float, float]) -> None:
    """Three seeds and six authors, drawn 600 times with these standard deviations of seeds, authors and both."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(600):
        seeds, authors = rng.normal(0, sds[0], (3, 1)), rng.normal(0, sds[1], (1, 6))
        means = Means.of(seeds + authors + rng.normal(0, sds[2], (3, 6)), np.arange(6))
        held += over_seeds_and_groups(means.at, 3, 6, 0.95).low < 0
    assert held / 600 > 0.93  # of the first, a percentile bootstrap keeps 0.82


def test_many_authors_are_left_out_in_equal_parts() -> None:
    """1,000 authors: the standard error is still that of their mean, and is taken of 200 parts, each of five."""
    values = np.random.default_rng(0).normal(0.5, 0.1, 1000)
    found = over_seeds_and_groups(Means.of(values[None], np.arange(1000)).at, 1, 1000, 0.95)
    assert found.margin == pytest.approx(1.653 * values.std(ddof=1) / math.sqrt(1000), rel=0.1)
    parts = values.reshape(5, 200).mean(axis=0)  # each 200th author
    expected = stats.ttest_1samp(parts, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_where_a_share_has_no_meaning_without_one_author_there_are_no_bounds() -> None:
    """Only the first author knew anything before: without it nothing is left to take a share of."""
    before = Means.of(np.array([[0.5, 0.0, 0.0]]), np.arange(3))
    after = Means.of(np.array([[0.4, 0.0, 0.0]]), np.arange(3))
    found = over_seeds_and_groups(lambda s, a: after.at(s, a) / (before.at(s, a) or math.nan), 1, 3, 0.95)
    assert found.value == pytest.approx(0.8)
    assert math.isnan(found.low)


# --- judgement -----------------------------------------------------------------------------------------------------


def test_the_share_that_returns_is_of_what_had_been_forgotten(tmp_path: Path) -> None:
    """0.3 of the baseline's is left, and relearning brings it to 0.65: half of the forgotten 0.7."""
    (one,) = judge(audit_of(tmp_path, lines(found=0.3, after=0.65)))
    worst = one.worst
    assert worst is not None
    assert (worst.attack, worst.variant, worst.variants) == ("relearn", "20 steps", 2)
    assert worst.before == pytest.approx(0.3 * BASES["forget"])
    assert worst.after.value == pytest.approx(0.65 * BASES["forget"])
    assert worst.returned.value == pytest.approx(0.5)
    assert one.forgotten.value == pytest.approx(0.7)
    assert one.searched == pytest.approx(0.75)
    assert one.beyond == (worst,)


def test_what_is_forgotten_has_the_interval_of_students_t_test_over_the_groups(tmp_path: Path) -> None:
    """Seeds that agree, and a baseline that has the same on every row: only the four groups vary."""
    shares = [0.1, 0.1, 0.2, 0.2, 0.25, 0.25, 0.45, 0.45]
    rows = [
        replace(row, scored=(scored(forget=shares, retain=0.95, retain_report=0.93),))
        if row.subject == NAME and not row.attack
        else row
        for row in lines()
    ]
    (one,) = judge(audit_of(tmp_path, rows))
    expected = stats.ttest_1samp([0.9, 0.8, 0.75, 0.55], 0).confidence_interval(0.9)  # two-sided: 95% at each end
    assert one.forgotten.value == pytest.approx(0.75)
    assert (one.forgotten.low, one.forgotten.high) == pytest.approx((expected.low, expected.high))


def test_of_nothing_forgotten_nothing_returns(tmp_path: Path) -> None:
    (relearn, noise) = returns(audit_of(tmp_path, lines(found=1.0, after=1.0)), NAME)
    assert relearn.returned == noise.returned == (0, 0, 0, 0)


def test_where_one_run_has_no_values_per_row_only_seeds_vary(tmp_path: Path) -> None:
    """0.91 and 0.95 of the baseline on the unread rows, of which the second run has the mean alone."""
    rows = []
    for row in lines():
        if row.subject == NAME and not row.attack:
            report = 0.91 if row.seed == SEEDS[0] else 0.95
            one = scored(forget=0.3, retain=0.95, retain_report=report)
            if row.seed == SEEDS[1]:
                one = replace(one, values={k: v for k, v in one.values.items() if k != "retain_report.es"})
            row = replace(row, scored=(one,))
        rows.append(row)
    (one,) = judge(audit_of(tmp_path, rows))
    unread = one.kept[0].unread
    expected = stats.ttest_1samp([0.91, 0.95], 0).confidence_interval(0.9)
    assert unread.value == pytest.approx(0.93)
    assert (unread.low, unread.high) == pytest.approx((expected.low, expected.high))


def test_only_the_judged_rows_count_before_and_after(tmp_path: Path) -> None:
    rows = lines(found=0.0, after=0.5)
    changed = []
    for row in rows:
        if row.subject == NAME and row.attack == "":  # the first two rows, which the attacker has, are not forgotten
            row = replace(row, scored=(scored(forget=[1, 1, 0, 0, 0, 0, 0, 0], retain=0.95, retain_report=0.93),))
        changed.append(row)
    (relearn,) = [r for r in returns(audit_of(tmp_path, changed), NAME) if r.attack == "relearn"]
    assert relearn.before == 0
    assert relearn.returned.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("report", "holds", "word"),
    [
        (0.93, "yes", "stands"),
        ([1, 1, 1, 1, 1, 0.5], "unsure", "unsure"),
        (0.85, "no", "breaks"),
    ],
)
def test_a_limit_is_kept_when_its_lower_bound_keeps_it(tmp_path: Path, report: object, holds: str, word: str) -> None:
    audit = audit_of(tmp_path, lines(report=report))  # type: ignore[arg-type]
    (one,) = judge(audit)
    (kept,) = one.kept
    assert kept.key == "retain_report.es"
    assert kept.limit.at == pytest.approx(0.9)
    assert kept.holds == holds
    assert kept.searched == pytest.approx(0.95)
    assert standing(one) == word


def test_kept_is_a_share_of_the_baseline_on_the_same_rows(tmp_path: Path) -> None:
    """Harder rows: the baseline has 0.5 on them and the finalist 0.475, which is 95% although it is far below 0.9."""
    rows = [
        replace(row, scored=(scored(forget=1.0, retain=1.0, retain_report=0.5),))
        if row.subject == "baseline" and not row.attack
        else row
        for row in lines(report=0.475)
    ]
    (one,) = judge(audit_of(tmp_path, rows))
    assert one.kept[0].unread.value == pytest.approx(0.95)
    assert one.kept[0].holds == "yes"


def test_what_the_oracle_gains_too_is_no_return(tmp_path: Path) -> None:
    (one,) = judge(audit_of(tmp_path, lines(found=0.3, after=0.4, oracle_after=0.2)))
    assert one.worst is not None
    assert one.worst.gain.value == pytest.approx(0.1 * BASES["forget"])
    assert one.beyond == ()
    assert standing(one) == "stands"


def test_without_an_oracle_anything_that_comes_back_is_a_return(tmp_path: Path) -> None:
    rows = [row for row in lines(found=0.3, after=0.4) if row.subject != "oracle"]
    audit = audit_of(tmp_path, rows)
    assert audit.oracle is None
    (one,) = judge(audit)
    assert [r.attack for r in one.beyond] == ["relearn"]
    folder = tmp_path / "sweep"
    summarise(folder)
    finalists = pq.read_table(folder / "audit" / "finalists.parquet").to_pylist()
    assert all(math.isnan(row["oracle"]) for row in finalists)


def test_what_returns_for_one_author_only_is_no_return_beyond_doubt(tmp_path: Path) -> None:
    rows = []
    for row in lines(found=0.3):
        if (row.subject, row.attack) == (NAME, "relearn"):
            tries = tuple(scored(one.variant, one.judged, forget=[0.3] * 4 + [0.7, 0.7]) for one in row.scored)
            row = replace(row, scored=tries)
        rows.append(row)
    (one,) = judge(audit_of(tmp_path, rows))
    assert one.worst is not None
    assert one.worst.gain.low < 0 < one.worst.gain.value
    assert one.beyond == ()


def test_an_attack_that_cannot_open_the_refusal_is_called_powerless(tmp_path: Path) -> None:
    audit = audit_of(tmp_path)
    assert powerless(audit) == ["noise"]  # relearning brings the refusal from 0.8 to 0.98
    said = remarks(audit, judge(audit))
    assert any(line.startswith("noise recovered nothing even from the refusal-only control") for line in said)
    assert powerless(audit_of(tmp_path / "other", lines(control_after=0.8))) == ["relearn", "noise"]


def test_an_attack_that_opens_the_refusal_for_one_author_only_is_powerless(tmp_path: Path) -> None:
    """On average something comes back, but no more than authors differ."""
    rows = []
    for row in lines():
        if (row.subject, row.attack) == (REFUSAL, "relearn"):
            tries = tuple(scored(one.variant, one.judged, forget=[0.8] * 4 + [1, 1]) for one in row.scored)
            row = replace(row, scored=tries)
        rows.append(row)
    audit = audit_of(tmp_path, rows)
    (relearn, _) = returns(audit, REFUSAL)
    assert relearn.gain.low < 0 < relearn.gain.value < relearn.gain.high
    assert powerless(audit) == ["relearn", "noise"]


def test_the_verdict_says_how_much_at_which_cost_and_what_returns(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, lines(found=0.3, after=0.65))
    (one,) = judge(audit)
    assert standing(one) == "reopens"
    assert sentence(audit, one) == (
        f"{NAME}: forgets 70% ± 0 of what is extractable, keeps 93% ± 0 of retain_report.es (limit 90%), "
        "but relearn (20 steps) brings 50% ± 0 of that back"
    )
    assert verdict_lines(tmp_path / "sweep")[0] == f"reopens  {sentence(audit, one)}"


def test_seeds_that_diverged_are_counted(tmp_path: Path) -> None:
    gone = Audited(NAME, SEEDS[1], reason="diverged: step 3: loss nan")
    rows = [row for row in lines() if (row.subject, row.seed) != (NAME, SEEDS[1])] + [gone]
    audit = audit_of(tmp_path, rows)
    (one,) = judge(audit)
    assert len(one.finalist.runs) == 1
    assert f"{NAME}: 1 of 2 seeds failed: diverged: step 3: loss nan" in remarks(audit, [one])


def test_without_an_audit_there_is_none_and_a_broken_one_is_named(tmp_path: Path) -> None:
    folder = audit_folder(tmp_path / "sweep")
    (folder / "audit" / "audit.json").write_text("{")
    with pytest.raises(RayulError, match=r"audit\.json"):
        read_audit(load_results(folder))
    (folder / "audit" / "audit.json").unlink()
    assert read_audit(load_results(folder)) is None


# --- robustness ----------------------------------------------------------------------------------------------------


def test_correlations_are_those_of_numpy_and_of_ranks() -> None:
    pairs = np.random.default_rng(0).random((9, 2))
    pearson, spearman = correlations(pairs)
    assert pearson == pytest.approx(np.corrcoef(pairs.T)[0, 1])
    ranks = pairs.argsort(axis=0).argsort(axis=0)
    assert spearman == pytest.approx(np.corrcoef(ranks.T)[0, 1])
    wide = np.array([[0.0, 0.3], [0.4, 0.1], [1.0, 0.9]])  # a column that goes from 0 to exactly 1
    assert correlations(wide)[0] == pytest.approx(np.corrcoef(wide.T)[0, 1])


@pytest.mark.parametrize(
    "pairs",
    [
        [[0.1, 0.3], [0.2, 0.4]],
        [[1.0, 1.0]] * 5,
        [[0.83, 0.1], [0.83, 0.4], [0.83, 0.2]],
        [[0.1, 0.71], [0.4, 0.71], [0.2, 0.71]],
        [[2.0, 3.0], [4.0, math.inf], [5.0, 9.0]],
        [[2.0, 3.0], [math.nan, 6.0], [5.0, 9.0]],
    ],
)
def test_where_there_is_nothing_to_correlate_it_is_nan_and_nobody_is_warned(pairs: list[list[float]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # SciPy's
        assert all(math.isnan(value) for value in correlations(np.array(pairs)))


def test_every_attack_and_metric_has_a_row_over_the_runs_of_all_finalists(tmp_path: Path) -> None:
    """Three seeds that keep 0.2, 0.3 and 0.4 before, and after relearning 0.5, 0.4 and 0.6."""
    rows = [row for row in lines() if row.subject != NAME]
    for seed, before, after in ((1, 0.2, 0.5), (2, 0.3, 0.4), (3, 0.4, 0.6)):
        own = [row for row in lines(found=before, after=after) if (row.subject, row.seed) == (NAME, SEEDS[0])]
        rows += [replace(row, seed=seed) for row in own]
    found = robustness(audit_of(tmp_path, rows))
    assert {(row.attack, row.metric) for row in found} >= {("relearn", "forget.es"), ("noise", "forget.prob")}
    assert {row.models for row in found} == {3}
    (es,) = [row for row in found if (row.attack, row.metric) == ("relearn", "forget.es")]
    assert es.variant == "20 steps"
    assert es.pearson == pytest.approx(np.corrcoef([0.2, 0.3, 0.4], [0.5, 0.4, 0.6])[0, 1])
    assert es.spearman == pytest.approx(0.5)
    (prob,) = [row for row in found if (row.attack, row.metric) == ("noise", "forget.prob")]
    assert prob.pearson == pytest.approx(1.0)  # noise left every model as it was


def test_the_worst_variant_is_that_with_the_largest_mean_gain_whatever_rows_it_judges(tmp_path: Path) -> None:
    rows = []
    for row in lines(found=0.3):
        if row.attack == "noise":
            row = replace(row, scored=(scored("all rows", forget=0.5), scored("two rows", (0, 1), forget=0.4)))
        rows.append(row)
    found = [row for row in robustness(audit_of(tmp_path, rows)) if row.attack == "noise"]
    assert {row.variant for row in found} == {"all rows"}


def test_the_worst_variant_is_not_that_with_most_before(tmp_path: Path) -> None:
    """One author is not forgotten at all: the variant that judges its rows alone finds most there, and gains nothing.
    One seed is enough to tell, though not to correlate anything."""
    rows = []
    for row in lines(found=0.3):
        if row.subject == NAME and not row.attack:
            row = replace(row, scored=(scored(forget=[1, 1, 0, 0, 0, 0, 0, 0], retain=0.95, retain_report=0.93),))
        if row.attack == "noise":
            row = replace(row, scored=(scored("its rows", (0, 1), forget=1.0), scored("all rows", forget=0.5)))
        if row.subject != NAME or row.seed == SEEDS[0]:
            rows.append(row)
    found = [row for row in robustness(audit_of(tmp_path, rows)) if row.attack == "noise"]
    assert {(row.variant, row.models) for row in found} == {("all rows", 1)}
    assert all(math.isnan(row.pearson) and math.isnan(row.spearman) for row in found)


@pytest.mark.parametrize(
    ("judged", "known"), [((), True), (tuple(range(8)), True), (tuple(range(2, 8)), False), ((3,), False)]
)
def test_a_perplexity_is_compared_only_where_all_rows_are_judged(
    tmp_path: Path, judged: tuple[int, ...], known: bool
) -> None:
    """It is no mean over rows, so that of some of them before is not recorded."""
    rows = [row for row in lines() if row.subject != NAME]
    before, after = [2.0, 3.5, 5.0], [4.0, 3.0, 9.0]
    for seed, (was, now) in enumerate(zip(before, after, strict=True), 1):
        whole, some = scored(forget=0.3, retain=0.95, retain_report=0.93), scored("draw 1", judged, forget=0.3)
        rows.append(Audited(NAME, seed, scored=(replace(whole, metrics=whole.metrics | {"forget.ppl": was}),)))
        tried = replace(some, metrics=some.metrics | {"forget.ppl": now})
        rows.append(Audited(NAME, seed, "noise", scored=(tried,)))
    (ppl,) = [r for r in robustness(audit_of(tmp_path, rows)) if (r.attack, r.metric) == ("noise", "forget.ppl")]
    if known:
        assert ppl.pearson == pytest.approx(np.corrcoef(before, after)[0, 1])
        assert ppl.spearman == pytest.approx(0.5)
    else:
        assert math.isnan(ppl.pearson)
        assert math.isnan(ppl.spearman)


# --- files ---------------------------------------------------------------------------------------------------------


def test_the_files_say_what_the_objects_say(tmp_path: Path) -> None:
    folder = audit_folder(tmp_path / "sweep", lines(found=0.3, after=0.65))
    summarise(folder)
    verdict = json.loads((folder / "audit" / "verdict.json").read_text())
    (one,) = verdict["verdicts"]
    assert one["standing"] == "reopens"
    assert one["forgotten"]["value"] == pytest.approx(0.7)
    assert one["kept"][0]["unread"]["value"] == pytest.approx(0.93)
    attacks = pq.read_table(folder / "audit" / "attacks.parquet").to_pylist()
    assert len(attacks) == 5 * 3
    last = [row for row in attacks if row["subject"] == NAME and row["variant"] == "20 steps"]
    shares = [[row[f"forget.es.{when}"] / BASES["forget"] for when in ("before", "after")] for row in last]
    assert shares == [pytest.approx([0.3, 0.65])] * 2
    assert [row["rows"] for row in last] == [6, 6]
    finalists = pq.read_table(folder / "audit" / "finalists.parquet").to_pylist()
    (report,) = [row for row in finalists if row["metric"] == "retain_report.es"]
    shares = [report[name] / BASES["retain_report"] for name in ("baseline", "oracle", "value")]
    assert shares == pytest.approx([1.0, 1.0, 0.93])
    assert report["seeds"] == 2
    assert (folder / "audit" / "robustness.parquet").is_file()


def test_a_sweep_without_an_audit_has_no_such_section(tmp_path: Path) -> None:
    folder = audit_folder(tmp_path / "sweep")
    with_audit = summarise(folder).report.read_text()
    assert 'id="audit"' in with_audit
    assert f"{NAME}: forgets 70%" in with_audit
    assert REFUSAL in with_audit
    (folder / "audit" / "audit.json").unlink()
    assert 'id="audit"' not in summarise(folder).report.read_text()


def test_forgetting_is_judged_by_the_objective_of_the_sweep_even_where_nothing_was_extractable(tmp_path: Path) -> None:
    """A sweep on forget.prob of a model that completes no answer: the rows' probability halves."""
    rows = []
    for row in lines():
        tries = []
        for one in row.scored:
            prob = 0.4 if row.subject == "baseline" else 0.2
            values = {key: (0.0,) * len(v) if key == "forget.es" else v for key, v in one.values.items()}
            values["forget.prob"] = (prob,) * len(values["forget.es"])
            metrics = one.metrics | {"forget.es": 0.0, "forget.prob": prob}
            tries.append(replace(one, values=values, metrics=metrics))
        rows.append(replace(row, scored=tuple(tries)))
    folder = audit_folder(tmp_path / "sweep", rows)
    assert math.isnan(judge(read_audit(load_results(folder)))[0].forgotten.value)  # type: ignore[arg-type]
    text = (folder / "spec.yaml").read_text()
    (folder / "spec.yaml").write_text(text.replace("forget.es: minimize", "forget.prob: minimize"))
    summarise(folder)
    (one,) = judge(read_audit(load_results(folder)))  # type: ignore[arg-type]
    assert one.forgotten.value == pytest.approx(0.5)
    assert "forgets 50% ± 0 of forget.prob" in verdict_lines(folder)[0]
