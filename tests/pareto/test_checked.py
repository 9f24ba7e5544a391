"""A comparison beyond the rows of the search: unread rows, certificates and audits, each target by its own limit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from audits import audit_folder
from synthetic import BASE, SPEC, baseline, evaluation, sweep, write_folder
from test_compare import spec
from test_pareto_summary import export

from rayul.audit.judge import judge
from rayul.audit.read import read_audit
from rayul.audit.verdict import standing
from rayul.pareto.attainment import attainment
from rayul.records.certificate import (
    Certificates,
    Dial,
    Margin,
    Reading,
    RowsRead,
    Walked,
    read_certificates,
    write_certificates,
)
from rayul.records.folder import load_records
from rayul.report.compare import load_comparison
from rayul.report.compare_text import checked_table, comparison_lines, sentences

STRICT, LOOSE = evaluation("0001", 5, 0.6, 0.94, feasible=True), evaluation("0002", 5, 0.2, 0.6, feasible=True)
"""Of baselines 0.98 and 0.96."""


def dial(target: float, mixing: float, forget: float, retain: float, report: float) -> Dial:
    source = STRICT if target > 0.9 else LOOSE
    metrics = {"forget.es": forget, "retain.es": retain, "retain_report.es": report}
    e = replace(source, mixing=mixing, metrics=metrics)
    walk = (Walked(mixing, 0.001, (Margin("retain.es", True, True, target, 0.97, target + 0.01, 0.1),)),)
    return Dial(e.trial_id, e.step, 1.0, (mixing, 1.0), walk, 1, 0, e, target)


@pytest.fixture
def two_targets(tmp_path: Path) -> Path:
    """Both points lose more on retain-report: the strict one breaks its limit there, and would keep the loose one's."""
    text = SPEC[: SPEC.index("control:")] + "control: {tau: [0.5, 0.95]}\n" + SPEC[SPEC.index("search:") :]
    before = baseline(BASE | {"retain_report.es": 0.8})
    folder = write_folder(tmp_path / "two", [before, STRICT, LOOSE], text)
    export(folder, STRICT, report=0.7)
    export(folder, LOOSE, report=0.44)
    found = (dial(0.95, 0.5, 0.784, 0.95, 0.784), dial(0.5, 0.8, 0.49, 0.72, 0.52))
    asked = ("retain.es ≥ 95% of baseline", "retain.es ≥ 50% of baseline")
    reading = Reading(
        "2026-11-28T09:00:00+00:00",
        0.1,
        (RowsRead("retain_certify", 20, True, 100, "ab" * 32),),
        asked,
        (),
        found,
        finished=True,
    )
    write_certificates(folder, Certificates((reading,)))
    return folder


def test_each_target_has_its_point_its_unread_rows_and_its_certificate(two_targets: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "one", sweep(20))
    comparison = load_comparison([two_targets, other])
    kinds = [(one.kind, one.target, one.e.trial_id, one.breaks) for one in comparison.entries[0].checked]
    assert kinds == [
        ("best", 0.95, "0001", True),  # 0.7 / 0.8 = 87.5%
        ("best", 0.5, "0002", False),  # 55%
        ("certified", 0.95, "0001", False),
        ("certified", 0.5, "0002", False),
    ]
    table = [row[1:] for row in checked_table(comparison) if row[0] == comparison.entries[0].label]
    assert table == [
        ["best at 95.0% kept", "0001 at step 5", "38.8%", "97.9%", "87.5% (breaks the limit)", "–", "–"],
        ["best at 50.0% kept", "0002 at step 5", "79.6%", "62.5%", "55.0%", "–", "–"],
        [
            *("certified at 95.0% kept", "0001 at step 5", "20.0%", "99.0%", "98.0%"),
            *("at least 95% of retain.es (90% confidence)", "–"),
        ],
        [
            *("certified at 50.0% kept", "0002 at step 5", "50.0%", "75.0%", "65.0%"),
            *("at least 50% of retain.es (90% confidence)", "–"),
        ],
    ]
    assert comparison.targets == []
    plain = comparison.entries[1].checked
    assert [(one.kind, one.target) for one in plain] == [("best", None)]
    assert plain[0].forgotten == pytest.approx(comparison.entries[1].best)
    assert comparison.common.every_limit == load_comparison([other, two_targets]).common.every_limit
    assert any("certified at 95.0% kept" in line for line in comparison_lines(comparison))


def test_the_verdict_is_per_target_where_all_sweeps_have_targets(two_targets: Path, tmp_path: Path) -> None:
    text = (two_targets / "spec.yaml").read_text().replace("name: synthetic", "name: other")
    text = text.replace("[0.5, 0.95]", "[0.5, 0.9, 0.95, 0.99]")
    rows = [evaluation("0001", 5, 0.3, 0.94, feasible=True), evaluation("0002", 5, 0.21, 0.6, feasible=True)]
    comparison = load_comparison([two_targets, write_folder(tmp_path / "other", [baseline(), *rows], text)])
    assert [(one.share, one.winner, one.clear) for one in comparison.targets] == [(0.95, 1, True), (0.5, 0, False)]
    gone = [[1 - forget / BASE["forget.es"] for forget in pair] for pair in ((0.6, 0.3), (0.2, 0.21))]
    assert [one.forgotten for one in comparison.targets] == [pytest.approx(pair) for pair in gone]
    assert sentences(comparison)[:2] == [
        "With 95% kept, other forgets most: 69.4% forgotten, against 38.8% for synthetic.",
        "With 50% kept, synthetic forgets most: 79.6% forgotten, against 78.6% for other; on these groups that "
        "may be chance.",
    ]


def test_certificates_of_the_same_rows_are_noted(two_targets: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(two_targets, again)
    other = write_folder(tmp_path / "one", sweep(20))
    (note,) = [note for note in load_comparison([two_targets, again, other]).notes if "certificates" in note]
    assert note.startswith("2 certificates read the same rows of retain_certify (two, again)")
    assert "is for it alone" in note
    reading = read_certificates(again).readings[0]
    elsewhere = replace(reading, read=(replace(reading.read[0], sha256="cd" * 32),))
    write_certificates(again, Certificates((elsewhere,)))
    assert not [note for note in load_comparison([two_targets, again]).notes if "certificates" in note]


def test_the_verdict_of_an_audit_is_named_beside_its_point(tmp_path: Path) -> None:
    folder = audit_folder(tmp_path / "audited")
    audit = read_audit(load_records(folder))
    assert audit is not None
    (judged,) = judge(audit)
    comparison = load_comparison([folder, write_folder(tmp_path / "other", sweep(20))])
    found = {one.e.trial_id: one.audit for one in comparison.entries[0].checked}
    assert found["0003"] == standing(judged)
    assert {one.audit for one in comparison.entries[1].checked} == {None}


def test_figures_have_the_fronts_and_what_half_of_the_seeds_attain(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the figures extra is not installed")
    from matplotlib.figure import Figure

    from rayul.report.compare_figures import draw_attainment, draw_fronts, write_comparison_figures

    folders = [write_folder(tmp_path / f"ga-{i}", sweep(30, seed=i), spec(f"ga-{i}", i)) for i in range(3)]
    c = load_comparison([*folders, write_folder(tmp_path / "b", sweep(30, seed=9), spec("b", m=("[ga, gd]", "[gd]")))])
    assert c.axes is not None
    x, y = c.axes
    figure = Figure()
    draw_fronts(figure, c, c.axes)
    assert len(figure.axes[0].containers) == 4
    labels = [str(bars.get_label()) for bars in figure.axes[0].containers]
    assert [label for label in labels if not label.startswith("_")] == ["ga (3 seeds)", "b"]
    colours = [bars.lines[0].get_color() for bars in figure.axes[0].containers]
    assert len(set(colours[:3])) == 1
    assert colours[3] != colours[0]
    for bars, entry in zip(figure.axes[0].containers, c.entries, strict=True):
        drawn = bars.lines[0].get_xydata()
        expected = np.stack([x.of(entry.front), y.of(entry.front)], axis=1)
        np.testing.assert_allclose(drawn, expected[np.argsort(expected[:, 0], kind="stable")])
    figure = Figure()
    draw_attainment(figure, c, c.axes)
    (median,) = [line for line in figure.axes[0].lines if "median" in str(line.get_label())]
    assert median.get_label() == "ga: median of 3 seeds"
    assert median.get_color() == colours[0], "one colour for one recipe"
    seeds = [np.stack([x.of(e.front), y.of(e.front)], axis=1) for e in c.entries[:3]]
    corners = {tuple(map(float, corner)) for corner in attainment(seeds)["median"]}
    assert corners <= set(map(tuple, median.get_xydata().tolist()))
    (band,) = figure.axes[0].patches
    assert band.get_xy()[:, 0].max() == pytest.approx(max(float(one[:, 0].max()) for one in seeds))
    two = load_comparison([*folders[:2], tmp_path / "b"])
    assert two.axes is not None
    figure = Figure()
    draw_attainment(figure, two, two.axes)
    assert not figure.axes[0].patches
    assert [line.get_label() for line in figure.axes[0].lines if line.get_label() in ("ga-0", "ga-1")] == [
        "ga-0",
        "ga-1",
    ]
    assert not [line for line in figure.axes[0].lines if "median" in str(line.get_label())]
    written = write_comparison_figures(c, tmp_path / "figures", ["svg"])
    assert [path.name for path in written] == ["attainment.svg", "fronts.svg"]
