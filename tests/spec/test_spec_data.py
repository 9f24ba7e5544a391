"""The forms of the data section."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayul.spec import FolderData, SourceData, SpecError, TofuData, difference, dump_yaml, parse_spec


def parse(data: str) -> object:
    text = f"name: x\nmodel: testbed\nmethod: ga\ntraining: {{lr: 1}}\ndata: {data}"
    return parse_spec(text, source="x.yaml").data


def message(data: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse(data)
    return str(caught.value)


def test_a_text_is_the_testbed_or_a_folder(tmp_path: Path) -> None:
    assert parse("testbed") == FolderData(folder="testbed")
    assert parse(str(tmp_path)) == FolderData(folder=str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("{}")
    assert "is a file\n  hint: name the sources" in message(str(tmp_path / "rows.jsonl"))


def test_tofu() -> None:
    assert parse("{tofu: locuslab/TOFU}") == TofuData(tofu="locuslab/TOFU", forget="forget10", authors=200)
    data = parse("{tofu: locuslab/TOFU, forget: forget01, authors: 60}")
    assert isinstance(data, TofuData)
    assert data.forgotten_authors == 2
    assert 'data.forget: unknown split "forgetten"' in message("{tofu: a/b, forget: forgetten}")
    assert "data.forget: unknown split" in message("{tofu: a/b, forget: forget00}")
    assert "data.authors: 30 leave none to train on" in message("{tofu: a/b, authors: 30, split: published}")
    assert "data.authors: 23 leave none to train on: 3 judge" in message("{tofu: a/b, authors: 23}")
    assert "at least 24" in message("{tofu: a/b, authors: 23}")
    assert 'data.split: unknown value "publshed"' in message("{tofu: a/b, split: publshed}")
    assert "data.authors: must be at most 200" in message("{tofu: a/b, authors: 201}")
    assert "data.tofu: " in message("{tofu: ./gone}")
    assert "data.froget: unknown key\n  hint: did you mean forget?" in message("{tofu: a/b, froget: forget10}")


def test_sources(tmp_path: Path) -> None:
    for name in ("forget.jsonl", "retain.parquet"):
        (tmp_path / name).write_text("{}")
    data = parse(f"{{forget: {tmp_path}/forget.jsonl, retain: {{path: a/b, name: c}}, columns: {{question: q}}}}")
    assert isinstance(data, SourceData)
    assert data.forget.path == f"{tmp_path}/forget.jsonl"
    assert data.retain is not None
    assert (data.retain.path, data.retain.name, data.retain.split) == ("a/b", "c", "train")
    assert data.columns == {"question": "q"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("{}", "data.forget: is missing"),
        ("{forget: a/b}", "retain_train, retain_select, retain_report missing"),
        ("{forget: a/b, retain_train: a/b, retain_select: a/b}", "retain_report missing"),
        ("{forget: a/b, retain: a/b, retain_train: a/b}", "together with its parts"),
        ("{forget: gone.jsonl, retain: a/b}", 'data.forget.path: "gone.jsonl" does not exist'),
        ("{forget: {split: x}, retain: a/b}", "data.forget.path: is missing"),
        ("{forget: {path: a/b, spilt: x}, retain: a/b}", "data.forget.spilt: unknown key\n  hint: did you mean split?"),
        (
            "{forget: a/b, retain: a/b, columns: {qestion: q}}",
            'unknown value "qestion"\n  hint: did you mean question?',
        ),
        ("{forget: a/b, retain: a/b, columns: {question: 3}}", "data.columns.question: expected text, got 3"),
        ("{forget: [a], retain: a/b}", "data.forget: expected a mapping"),
        ("{choice: [testbed, x]}", "data: cannot be searched"),
    ],
)
def test_messages(data: str, expected: str) -> None:
    assert expected in message(data)


def test_what_is_written_into_results_is_the_same_spec_again() -> None:
    """Or no sweep on rows of one's own could be resumed."""
    text = "name: x\nmodel: testbed\nmethod: ga\ntraining: {lr: 1}\ndata: {forget: a/b, retain: a/b}"
    spec = parse_spec(text, check_files=False)
    again = parse_spec(dump_yaml(spec.resolved()), check_files=False)
    assert difference(spec, again) == []


def test_a_criterion_on_general_needs_general_rows() -> None:
    text = "name: x\nmodel: testbed\nmethod: ga\ntraining: {lr: 1}\ncontrol: [{metric: general.es, at_least: 0.5}]\n"
    with pytest.raises(SpecError, match=r"control\.criteria\.0: general\.es has no rows"):
        parse_spec(f"{text}data: {{forget: a/b, retain: a/b}}")
    assert parse_spec(f"{text}data: {{forget: a/b, retain: a/b, general: a/b}}")
    assert parse_spec(f"{text}data: testbed")
