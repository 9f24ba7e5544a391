"""A percentage of the baseline is one of the baseline on the same rows: card, report, held_out, audit and export say
the same of a point on retain-report, where the model before unlearning is not what it is on retain-select."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from audits import AUTHORS, NAME, SEEDS, audit_folder, scored
from synthetic import ROWS, SPEC, baseline
from test_pareto_summary import export
from test_report_page import Page

from rayul.audit.judge import judge
from rayul.audit.read import read_audit
from rayul.audit.verdict import sentence, standing
from rayul.pareto.held_out import held_out, keeps_there, on_report
from rayul.records import BASELINE, Evaluation, to_json
from rayul.records.audited import Audited, Scored, audited_to_json
from rayul.report import Results, load_results, summarise
from rayul.report.card import Forgotten, model_card
from rayul.report.card import held_out as said_by_card
from rayul.spec import Limit, load_spec

PARAMS = {"method.name": "ga", "lora.r": 4, "training.lr": 1e-3}


@dataclass(frozen=True)
class Case:
    """A limit on a metric of the retain rows; what baseline and point have on (retain-select, retain-report); the
    limit as a number there."""

    metric: str
    limit: str
    before: tuple[float, float]
    after: tuple[float, float]
    number: float
    kept: bool

    @property
    def direction(self) -> str:
        return "minimize" if self.metric == "ppl" else "maximize"


CASES = {
    "kept, and below the number of the easier rows": Case(
        "es", "at_least: 90% of baseline", (0.83, 0.71), (0.80, 0.65), 0.639, True
    ),
    "broken, and above the number of the harder rows": Case(
        "es", "at_least: 90% of baseline", (0.71, 0.83), (0.70, 0.70), 0.747, False
    ),
    "a number is the same on all rows": Case("es", "at_least: 0.66", (0.83, 0.71), (0.80, 0.65), 0.66, False),
    "at most, kept": Case("ppl", "at_most: 120% of baseline", (2.0, 3.0), (2.3, 3.5), 3.6, True),
    "at most, broken": Case("ppl", "at_most: 120% of baseline", (3.0, 2.0), (3.5, 2.5), 2.4, False),
    "at most a number": Case("ppl", "at_most: 3", (3.0, 2.0), (2.9, 2.5), 3, True),
    "a tie keeps it": Case("es", "at_least: 75% of baseline", (0.25, 0.5), (0.2, 0.375), 0.375, True),
    "a tie keeps an upper limit": Case("ppl", "at_most: 150% of baseline", (3.0, 2.0), (3.5, 3.0), 3.0, True),
}


def audited(case: Case, subject: str, seed: int, forget: float, retain: tuple[float, float]) -> Audited:
    """One subject with the metric on both retain sets; es has a value for each row, a perplexity has none."""
    one = scored(forget=forget)
    names = [f"{name}.{case.metric}" for name in ("retain", "retain_report")]
    rows = {
        name: (value,) * len(AUTHORS[name.partition(".")[0]])
        for name, value in zip(names, retain, strict=True)
        if case.metric != "ppl"
    }
    metrics = one.metrics | dict(zip(names, retain, strict=True))
    return Audited(subject, seed, scored=(Scored("", (), metrics, one.stderr, one.values | rows),))


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def point(case: Case) -> Evaluation:
    metrics = {"forget.es": 0.27, f"retain.{case.metric}": case.after[0]}
    rows = {"metrics": metrics, "stderr": dict.fromkeys(metrics, 0.02), "params": PARAMS, "rows": ROWS}
    return Evaluation("0003", 40, violation={f"retain.{case.metric}": -0.01}, **rows)  # type: ignore[arg-type]


@pytest.fixture
def results(case: Case, point: Evaluation, tmp_path: Path) -> Results:
    lines = [audited(case, BASELINE, 0, 1.0, case.before)]
    lines += [audited(case, NAME, seed, 0.3, case.after) for seed in SEEDS]
    folder = audit_folder(tmp_path / "sweep", lines)
    names = ("forget.es", f"retain.{case.metric}", f"retain_report.{case.metric}")
    before = baseline(dict(zip(names, (0.9, *case.before), strict=True)))
    (folder / "evaluations.jsonl").write_text("".join(to_json(e) + "\n" for e in (before, point)))
    spec = SPEC.replace("retain.es: maximize", f"retain.{case.metric}: {case.direction}")
    spec = spec.replace("{metric: retain.es, at_least: 90% of baseline,", f"{{metric: {names[1]}, {case.limit},")
    (folder / "spec.yaml").write_text(spec)
    note = json.loads((export(folder, point, report=0.0) / "rayul.json").read_text())
    note |= {"report_metrics": {names[2]: case.after[1]}, "report_stderr": {names[2]: 0.02}}
    (folder / "adapters" / "0003-40-1" / "rayul.json").write_text(json.dumps(note))
    return load_results(folder)


def test_all_that_judge_a_point_on_retain_report_agree(case: Case, point: Evaluation, results: Results) -> None:
    (limit,) = results.limits
    there = on_report(limit, results.baseline)
    assert there is not None
    assert (there.metric, there.value) == (f"retain_report.{case.metric}", pytest.approx(case.number))

    (h,) = held_out(results, point)
    assert h.breaks is not case.kept
    assert keeps_there(results, point) is case.kept

    (said,) = said_by_card(results, results.with_report(point))
    assert ("**not kept**" not in said) is case.kept
    assert f"({there})" in said
    card = model_card(
        results,
        load_spec(results.folder / "spec.yaml", check_files=False),
        point,
        Forgotten("people", 80, "0" * 64),
        address="unlearned",
        after={},
        difference=0.0,
        merged=False,
        adapter=True,
    )
    assert said in card

    audit = read_audit(results)
    assert audit is not None
    (judged,) = judge(audit)
    (kept,) = judged.kept
    assert kept.key == f"retain_report.{case.metric}"
    assert (kept.holds == "yes") is case.kept
    assert (kept.holds == "no") is not case.kept
    assert standing(judged) == ("unsure" if case.kept else "breaks"), "it was not attacked"
    shares = limit.scaled(np.array(case.after), np.array(case.before))
    assert (kept.searched, kept.fresh.value, kept.unread.value) == pytest.approx((shares[0], *shares))
    assert (", broken" not in sentence(audit, judged)) is case.kept

    summary = summarise(results.folder)
    text = re.sub(r"\s+", " ", Page(summary.report).text)
    assert ("but the limit does not hold on unseen rows" not in text) is case.kept
    verdicts = {check.title: check.verdict for check in summary.checks}
    assert (verdicts[f"Does the limit of retain.{case.metric} hold on retain-report?"] == "good") is case.kept


def test_what_is_kept_has_the_error_of_a_difference_quotient(case: Case, point: Evaluation, results: Results) -> None:
    """The slope by which a standard error goes onto the scale of `score`, against score itself a little further on."""
    from rayul.records.objectives import score

    (h,) = held_out(results, point)
    metric, step = f"retain.{case.metric}", 1e-6
    for (value, base), (kept, error) in zip(
        zip(case.after, case.before, strict=True),
        ((h.select, h.select_error), (h.report, h.report_error)),
        strict=True,
    ):
        at, further = score(metric, case.direction, [value, value + step], base)  # type: ignore[arg-type]
        assert kept == pytest.approx(at)
        assert error == pytest.approx(0.02 * abs(further - at) / step, rel=1e-4)


def test_where_the_baseline_has_nothing_no_percentage_is_judged(tmp_path: Path) -> None:
    limit = Limit("retain.es", True, 90, relative=True)
    for base in (0.0, -0.1):
        assert on_report(limit, baseline({"retain.es": 0.83, "retain_report.es": base})) is None
        fixed = on_report(replace(limit, value=0.7, relative=False), baseline({"retain_report.es": base}))
        assert fixed == Limit("retain_report.es", True, 0.7)
    assert on_report(Limit("general.es", True, 0.5), baseline()) is None
    folder = audit_folder(tmp_path / "sweep", [])
    lines = [Audited(BASELINE, 0, scored=(scored(forget=1.0, retain=1.0, retain_report=0.0),))]
    lines += [Audited(NAME, seed, scored=(scored(forget=0.3, retain=0.95, retain_report=0.1),)) for seed in SEEDS]
    (folder / "audit" / "evaluations.jsonl").write_text("".join(audited_to_json(row) + "\n" for row in lines))
    audit = read_audit(load_results(folder))
    assert audit is not None
    assert [kept.holds for one in judge(audit) for kept in one.kept] == ["unsure"]


def test_seeds_without_rows_are_as_sure_as_they_agree(tmp_path: Path) -> None:
    """Nothing is known of one seed's error, so nothing "stands"; two seeds that agree have one of nought. Of two that
    do not, the mean keeps the upper limit of 3.6, but not the upper bound."""
    case = CASES["at most, kept"]
    for i, (values, holds) in enumerate((([3.5], "unsure"), ([3.5, 3.5], "yes"), ([3.4, 3.7], "unsure"))):
        lines = [audited(case, BASELINE, 0, 1.0, case.before)]
        lines += [
            audited(case, NAME, seed, 0.3, (case.after[0], value)) for seed, value in zip(SEEDS, values, strict=False)
        ]
        folder = audit_folder(tmp_path / str(i), lines)
        spec = SPEC.replace("{metric: retain.es, at_least: 90% of baseline,", f"{{metric: retain.ppl, {case.limit},")
        (folder / "spec.yaml").write_text(spec)
        names = ("forget.es", "retain.es", "retain.ppl", "retain_report.ppl")
        before = baseline(dict(zip(names, (0.9, 0.83, *case.before), strict=True)))
        metrics = {"forget.es": 0.27, "retain.es": 0.8, "retain.ppl": case.after[0]}
        point = Evaluation("0003", 40, metrics=metrics, violation={"retain.ppl": -0.01}, params=PARAMS, rows=ROWS)
        (folder / "evaluations.jsonl").write_text("".join(to_json(e) + "\n" for e in (before, point)))
        audit = read_audit(load_results(folder))
        assert audit is not None
        (judged,) = judge(audit)
        assert [kept.holds for kept in judged.kept] == [holds]


def test_a_sweep_of_before_retain_report_was_measured_is_judged_by_its_retain_control(tmp_path: Path) -> None:
    limit = Limit("retain.es", True, 90, relative=True)
    for metrics in ({"retain.es": 0.83}, {"retain.es": 0.83, "retain_report.es": float("nan")}):
        assert on_report(limit, baseline(metrics)) == Limit("retain_report.es", True, pytest.approx(0.747))
