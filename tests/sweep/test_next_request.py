"""Requests to forget, one after another: what the next spec has of the last export, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_certify import GROUPS, Sweep, made  # noqa: F401 (a fixture)
from typer.testing import CliRunner

from rayul.cli import app
from rayul.errors import InputError
from rayul.plan.next_request import next_request
from rayul.records.certificate import read_certificates
from rayul.records.folder import load_records
from rayul.records.request import REQUEST, read_request
from rayul.report.certified import best_certified, certified_lines
from rayul.report.keep_rows import keep_line, to_keep
from rayul.report.write import summarise
from rayul.spec import FolderData, Model, SourceData, TofuData, load_spec
from rayul.sweep.export import export
from rayul.unlearn.data import load_sets, read_rows, reserved, write_rows
from rayul.unlearn.model import load_model
from rayul.unlearn.suite import evaluate_model
from tests.conftest import NAMES, rows_of

UNREAD = tuple(f"Reserve {first}{last}" for first in "ABCDEFG" for last in "xy")


def exported(sweep: Sweep, out: Path) -> Path:
    sweep.certify()
    summarise(sweep.folder)
    results = load_records(sweep.folder)
    export(results, best_certified(results), out, merge=True)
    return out


@pytest.fixture
def first(made: Callable[..., Sweep], tmp_path: Path) -> Path:  # noqa: F811
    """The certified export of a request that forgot the first two authors, with 14 groups in reserve."""
    sweep = made()
    write_rows(tmp_path / "data" / "reserve.jsonl", rows_of(UNREAD))
    return exported(sweep, tmp_path / "first")


@pytest.fixture
def dara(tmp_path: Path) -> Path:
    """Rows of an author who was kept until now."""
    write_rows(tmp_path / "new.jsonl", rows_of(NAMES[3:4]))
    return tmp_path / "new.jsonl"


def groups(rows: Any) -> set[str]:
    return {row.group for row in rows}


def test_the_next_request_starts_from_the_export_and_names_it(first: Path, dara: Path, tmp_path: Path) -> None:
    out = tmp_path / "second.yaml"
    done = CliRunner().invoke(app, ["init", "--after", str(first), "--forget", str(dara), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "6 rows of earlier requests" in done.output
    assert "12 unread groups are kept for the certificate, 2 for later requests" in done.output
    assert "3 rows to keep were left out" in done.output
    spec = load_spec(out)
    sets = load_sets(spec.data, spec.probes)
    assert groups(sets["forget"]) == {NAMES[3]}
    assert groups(sets["before_forget"]) == set(NAMES[:2])
    assert groups(sets["retain_train"]) == {NAMES[2]}
    assert groups(sets["retain"]) == {*NAMES[4:6], *GROUPS}  # the certify rows of before have been read
    assert groups(sets["retain_certify"]) == set(UNREAD[:12])
    assert groups(read_rows(tmp_path / "second-data" / "reserve.jsonl")) == set(UNREAD[12:])

    loaded, tokenizer = load_model(Model(path=str(first / "merged")))
    forgotten = evaluate_model(loaded, tokenizer, {"forget": sets["before_forget"]}, metrics=["es"]).measured
    assert spec.model.path == str(first / "merged")
    (limit,) = [c.limit for c in spec.control.criteria if c.metric == "before_forget.es"]
    assert (limit.at_least, limit.value) == (False, pytest.approx(forgotten["forget.es"].value + 0.05, abs=1e-5))
    reading = read_certificates(tmp_path / "sweep").latest
    assert reading is not None
    assert (spec.earlier[0].date, spec.earlier[0].rows) == (reading.date, 6)
    assert spec.earlier[0].certificate.startswith("certified: keeps at least 90% of retain.prob")

    (tmp_path / "sweep-2").mkdir()
    sweep = Sweep(tmp_path / "sweep-2", spec)
    assert load_records(sweep.folder).baseline.metrics["before_forget.es"] == pytest.approx(
        limit.value - 0.05, abs=1e-5
    )
    second = exported(sweep, tmp_path / "export-2")
    assert read_certificates(sweep.folder).readings[0].earlier == (str(spec.earlier[0]),)
    assert any("follows on 1 certified request" in line for line in certified_lines(load_records(sweep.folder)))
    card = (second / "README.md").read_text()
    assert f"1. {spec.name.replace('second', 'tiny')} (6 rows forgotten" in card

    third = tmp_path / "third.jsonl"
    write_rows(third, rows_of(NAMES[4:5]))
    with pytest.raises(InputError, match="2 groups of rows to keep are left that no sweep has read") as caught:
        next_request(second, third, tmp_path / "third.yaml")
    assert "--retain" in caught.value.hint
    more = tmp_path / "more.jsonl"
    write_rows(more, rows_of(GROUPS[:3]))
    with pytest.raises(InputError) as caught:
        next_request(second, third, tmp_path / "third.yaml", more)
    assert "of the 3 groups in" in caught.value.hint
    assert "3 stood in a file of an earlier request" in caught.value.hint
    fresh = ("New Ax", "New Bx", "New Cx")
    write_rows(more, rows_of((*fresh, GROUPS[0])))  # one of them has been read
    made_next = next_request(second, third, tmp_path / "third.yaml", more)
    made_next.write()
    spec = load_spec_of(made_next.text, tmp_path / "third.yaml")
    sets = load_sets(spec.data, spec.probes)
    assert groups(sets["retain_certify"]) == {*UNREAD[12:], *fresh}
    assert groups(sets["before_forget"]) == {*NAMES[:2], NAMES[3]}
    assert [one.rows for one in spec.earlier] == [6, 3]


def load_spec_of(text: str, path: Path) -> Any:
    path.write_text(text)
    return load_spec(path)


def test_what_cannot_be_followed_is_refused(first: Path, dara: Path, tmp_path: Path) -> None:
    out = tmp_path / "second.yaml"
    again = tmp_path / "again.jsonl"
    write_rows(again, rows_of(NAMES[1:2]))
    with pytest.raises(InputError, match=r"3 of 3 rows .* an earlier request has forgotten already"):
        next_request(first, again, out)
    with pytest.raises(InputError, match=f"has no {REQUEST}"):
        next_request(tmp_path, dara, out)
    write_rows(again, rows_of(NAMES[2:4]))
    with pytest.raises(InputError, match="no retain_train rows are left"):
        next_request(first, again, out)
    write_rows(tmp_path / "data" / "forget.jsonl", rows_of(NAMES[:1]))
    with pytest.raises(InputError, match="have changed since it was exported"):
        next_request(first, dara, out)
    (first / REQUEST).write_text(json.dumps({"spec": 1}))
    with pytest.raises(InputError, match="cannot be read"):
        read_request(first)
    assert not out.exists()
    assert not (tmp_path / "second-data").exists()


def test_the_export_says_which_rows_the_next_request_needs(
    made: Callable[..., Sweep],  # noqa: F811
    dara: Path,
    tmp_path: Path,
) -> None:
    sweep, out = made(), tmp_path / "first"
    sweep.certify()
    done = CliRunner().invoke(app, ["export", str(sweep.folder), "--certified", "--no-merge", "--out", str(out)])
    assert done.exit_code == 0, done.output
    rows = tmp_path / "data" / "forget.jsonl"
    assert f"keep them, unchanged: {rows} (data.folder in the spec)" in done.output
    card = " ".join((out / "README.md").read_text().split())
    assert "their owner has to keep them, unchanged: they are what `data.folder` names in the sweep's spec." in card
    assert str(tmp_path) not in card
    next_request(out, dara, tmp_path / "second.yaml", _fresh(tmp_path))
    rows.unlink()
    with pytest.raises(InputError, match=r"has no forget\.jsonl"):
        next_request(out, dara, tmp_path / "second.yaml", _fresh(tmp_path))


def _fresh(folder: Path) -> Path:
    """Rows to keep of groups that no sweep has had."""
    write_rows(folder / "fresh.jsonl", rows_of(UNREAD))
    return folder / "fresh.jsonl"


def test_no_name_of_a_group_is_in_the_record(first: Path) -> None:
    text = (first / REQUEST).read_text()
    assert not [name for name in (*NAMES, *GROUPS, *UNREAD) if name in text]


@pytest.mark.parametrize(
    ("data", "key", "by"),
    [
        ({"forget": "rows.jsonl", "retain": "org/rows"}, "data.forget", "`rayul init --after`"),
        ({"forget": {"path": "rows.jsonl", "chunk": 64}, "retain": "org/rows"}, "data.forget", "A probe in the next"),
        ({"tofu": "rows.jsonl"}, "data.tofu", "`rayul init --after`"),
    ],
)
def test_what_is_to_be_kept_is_named_by_its_key(
    data: dict[str, Any], key: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}")
    kept = to_keep((TofuData if "tofu" in data else SourceData).model_validate(data))
    assert kept is not None
    assert (kept.key, kept.places) == (key, (str(tmp_path / "rows.jsonl"),))
    assert keep_line(kept).partition("in the spec). ")[2].startswith(by)


def test_what_can_be_had_again_need_not_be_kept() -> None:
    assert to_keep(FolderData(folder="testbed")) is None
    assert to_keep(TofuData(tofu="locuslab/TOFU")) is None


def test_a_reserve_is_in_no_set(tmp_path: Path) -> None:
    for name, people in (("forget", NAMES), ("retain", UNREAD)):
        write_rows(tmp_path / f"{name}.jsonl", rows_of(people))
    shares = {"train": 0.3, "select": 0.2, "certify": 0.1, "report": 0.1, "reserve": 0.3}
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain")}
    data = SourceData.model_validate({**files, "split": shares})
    sets = load_sets(data)
    in_sets = {row.group for rows in sets.values() for row in rows}
    kept = {row.group for row in reserved(data)}
    assert kept
    assert not kept & in_sets
    assert kept | in_sets == {*NAMES, *UNREAD}
