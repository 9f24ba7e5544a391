"""What `plan` and `validate` say of a certificate before anything is spent, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayul.errors import InputError
from rayul.pareto.power import PRIOR, needed_groups, needed_share
from rayul.plan.certificate import CertifyRows, certificate_lines, certificate_told, kept_of
from rayul.plan.history import spread_seen
from rayul.plan.rows import local_sets
from rayul.records import BASELINE, Evaluation, Journal
from rayul.spec import Spec, check_certifiable, dump_yaml, parse_spec

TWENTY = {"retain_certify": CertifyRows(20, 100)}
PARTS = "{forget: a/b, retain_train: a/c, retain_select: a/d, retain_report: a/e}"


def spec_of(data: str = "testbed", limit: str = "at_least: 90% of baseline", more: str = "") -> Spec:
    control = f"control: {{criteria: [{{metric: retain.es, {limit}}}]}}" if limit else ""
    text = f"name: a\nmodel: testbed\ndata: {data}\nmethod: ga\ntraining: {{lr: 1e-3}}\n{control}\n{more}\n"
    return parse_spec(text, source="spec.yaml", check_files=False)


def test_it_says_what_to_aim_for_and_how_many_groups_would_do() -> None:
    said = " ".join(certificate_lines(spec_of(), TWENTY, {}))
    assert (
        "20 groups: aim for 95.9% of retain.es to certify 90%; 33 groups are enough for a point that keeps 95%" in said
    )
    assert (needed_share(0.9, 20, 0.02), needed_groups(0.95, 0.9, 0.02)) == (pytest.approx(0.959, abs=5e-4), 33)
    assert "groups have a standard deviation of 0.13 at 90%, a guess until rows are measured" in said
    alone = " ".join(certificate_lines(spec_of(more="certify: {points: 1}"), TWENTY, {}))
    assert "aim for 94.7%" in alone
    assert "1 point sharing 90% confidence" in alone
    objectives = "objectives: {forget.es: minimize, retain.es: maximize}"
    targets = spec_of(limit="", more=f"control: {{tau: [0.9, 0.95]}}\n{objectives}")
    said = " ".join(certificate_lines(targets, TWENTY, {}))
    for share in (0.9, 0.95):
        aim = needed_share(share, 20, 0.1 / 2)
        assert f"aim for {100 * aim:.3g}% of retain.es to certify {100 * share:g}%" in said
    assert said.count("2 points sharing 90% confidence") == 2


@pytest.mark.parametrize(
    ("limit", "baseline", "said"),
    [
        ("at_least: 0.45", {"retain.es": 0.5}, "to certify 90%"),
        ("at_least: 0.9", {}, "to certify 90%"),
        ("at_most: 110% of baseline", {}, "is not known: how groups spread in it has to be seen first"),
        ("", {}, "no limit on rows that have certify rows is set, so there is nothing to certify"),
    ],
)
def test_of_every_kind_of_limit(limit: str, baseline: dict[str, float], said: str) -> None:
    assert said in " ".join(certificate_lines(spec_of(limit=limit), TWENTY, baseline))


def test_rows_without_a_group_are_said_to_be_taken_as_independent() -> None:
    sentence = "no row names a group (data.columns.group): this assumes that rows are independent"
    assert sentence in list(certificate_lines(spec_of(), {"retain_certify": CertifyRows(80, 80, grouped=False)}, {}))
    assert sentence not in list(certificate_lines(spec_of(), TWENTY, {}))
    assert list(certificate_lines(spec_of(more="certify: false"), TWENTY, {})) == []


def write(path: Path, groups: int, name: str) -> str:
    rows = [
        {"question": f"{name} {g} {i}?", "answer": "yes", "group": f"{name}{g}"} for g in range(groups) for i in (0, 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_kept_groups_are_counted_where_the_rows_are_here(tmp_path: Path) -> None:
    def kept(data: str = "testbed") -> CertifyRows | None:
        spec = spec_of(data)
        found = kept_of(spec, local_sets(spec))
        return None if found is None else found["retain_certify"]

    assert kept() == (20, 100, True)
    assert kept("{tofu: locuslab/TOFU}") == (40, 800, True)
    assert kept("{tofu: locuslab/TOFU, split: published}") == (0, 0, True)
    forget, retain = write(tmp_path / "f.jsonl", 3, "f"), write(tmp_path / "r.jsonl", 50, "r")
    assert kept(f"{{forget: {forget}, retain: {retain}}}") == (10, 20, True)
    assert kept(f"{{forget: {forget}, retain: org/rows}}") is None
    for name in ("forget", "retain_train", "retain_select", "retain_certify"):
        write(tmp_path / f"{name}.jsonl", 4, name)
    assert kept(str(tmp_path)) == (4, 8, True)


@pytest.mark.parametrize(
    ("data", "groups", "said", "way_out"),
    [
        ("{forget: a/b, retain: a/c}", 2, "2 groups of certify rows", "about 25 groups of equal size"),
        ("{forget: a/b, retain: a/c}", 1, "1 group of certify rows", "set `certify: false`"),
        (
            "{forget: a/b, retain_train: a/c, retain_select: a/d, retain_report: a/e}",
            0,
            "no certify rows",
            "as data.retain_certify",
        ),
        ("{tofu: a/b, split: published}", 0, "no certify rows", "leave data.split out"),
        ("./folder", 4, "4 groups of certify rows", "retain_certify.jsonl"),
    ],
)
def test_too_few_groups_are_refused_with_the_number_needed(data: str, groups: int, said: str, way_out: str) -> None:
    with pytest.raises(InputError) as caught:
        check_certifiable(spec_of(data), {"retain_certify": groups})
    assert said in caught.value.message
    assert "takes 5 groups at least" in caught.value.message
    assert way_out in caught.value.hint
    check_certifiable(spec_of(data, more="certify: false"), {"retain_certify": groups})
    check_certifiable(spec_of(data, limit=""), {})
    check_certifiable(spec_of(data), {"retain_certify": 5})


def test_validate_tells_and_refuses(tmp_path: Path) -> None:
    forget, few, many = (write(tmp_path / f"{n}.jsonl", g, n) for n, g in (("f", 3), ("few", 8), ("many", 100)))
    for name, retain in (("few", few), ("many", many)):
        spec = spec_of(f"{{forget: {forget}, retain: {retain}}}")
        (tmp_path / f"{name}.yaml").write_text(dump_yaml(spec.resolved()))
    command = [sys.executable, "-m", "rayul", "validate", "few.yaml", "many.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "certify rows, and a certificate takes 5 groups at least" in done.stderr
    assert "many.yaml: 20 groups: aim for 95.9%" in done.stdout
    assert "few.yaml: ok" not in done.stdout


def test_a_spread_that_earlier_sweeps_saw_takes_the_priors_place(tmp_path: Path) -> None:
    spec = spec_of()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "spec.yaml").write_text(dump_yaml(spec.resolved()))
    journal = Journal(tmp_path / "a" / "evaluations.jsonl")
    assert spread_seen(spec, tmp_path, "retain.es", 0.9) is None
    means = np.array([1.0, 1.0, 0.9, 0.8, 0.9, 0.84, 0.9, 0.9])

    def row(trial: str, kept: Any, metric: float) -> Evaluation:
        sums, rows = {"retain.es": tuple(0.8 * 5 * kept)}, {"retain": (5,) * 8}
        return Evaluation(trial, 5, metrics={"retain.es": metric}, group_sums=sums, group_rows=rows)

    journal.append(row(BASELINE, np.ones(8), 0.8), row("0000", means, 0.8 * means.mean()), row("0001", means / 3, 0.2))
    seen = spread_seen(spec, tmp_path, "retain.es", 0.9)
    assert seen == (pytest.approx(means.std(ddof=1)), pytest.approx(means.mean()))
    said = " ".join(certificate_lines(spec, TWENTY, {}, lambda metric, share: seen))
    assert "as seen in earlier sweeps" in said
    assert f"aim for {100 * needed_share(0.9, 20, 0.02, seen):.3g}%" in said
    assert needed_share(0.9, 20, 0.02, seen) < needed_share(0.9, 20, 0.02, PRIOR)
    assert certificate_told(spec, local_sets(spec))[0].startswith("20 groups")
