"""What `validate` and `plan` say of rows, and what they refuse: groups in two sets, few rows, copies, near copies."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayul.errors import InputError
from rayul.plan.rows import local_sets, row_lines
from rayul.spec import SourceData
from rayul.spec.spec import from_plain
from rayul.unlearn.data import Row, Window, load_sets, nearly_same

PARTS = ("forget", "retain_train", "retain_select", "retain_certify", "retain_report", "general", "holdout")
WORDS = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in "bdfglmnprst"]


def texts(count: int, seed: int, words: int = 24) -> list[str]:
    draws = np.random.default_rng(seed).choice(WORDS, (count, words))
    return [" ".join(row) for row in draws]


def said(**sets: list[Row]) -> str:
    return "\n".join(row_lines({name: tuple(rows) for name, rows in sets.items()}))


def rows(count: int, seed: int, groups: int = 0) -> list[Row]:
    return [
        Row(text[:40], text[40:], group=f"{seed}-{i % groups}" if groups else "")
        for i, text in enumerate(texts(count, seed))
    ]


# --- a group in two sets ------------------------------------------------------------------------------------------


def data_with_one_group_in(tmp_path: Path, first: str, second: str) -> SourceData:
    paths = {}
    for part in PARTS:
        group = "same" if part in (first, second) else part
        records = [{"question": f"{part} {i}?", "answer": "yes", "group": f"{part}{i}"} for i in range(2)]
        records.append({"question": f"{part} more?", "answer": "yes", "group": group})
        paths[part] = str(tmp_path / f"{part}.jsonl")
        Path(paths[part]).write_text("".join(json.dumps(record) + "\n" for record in records))
    return SourceData.model_validate(paths)


@pytest.mark.parametrize(("first", "second"), list(combinations(PARTS[:-1], 2)))
def test_a_group_in_two_sets_is_refused_with_both_places(tmp_path: Path, first: str, second: str) -> None:
    with pytest.raises(InputError) as caught:
        load_sets(data_with_one_group_in(tmp_path, first, second))
    names = [name.replace("retain_select", "retain") for name in (first, second)]
    assert f"1 group has rows in {names[0]} and in {names[1]}" in caught.value.message
    places = [f"{tmp_path}/{part}.jsonl:3 ({name})" for part, name in zip((first, second), names, strict=True)]
    assert " and ".join(places) in caught.value.message
    assert "same" not in caught.value.message, "the name of a group may be a person's"
    assert "columns.group" in caught.value.hint


def test_holdout_rows_may_be_about_the_same(tmp_path: Path) -> None:
    assert load_sets(data_with_one_group_in(tmp_path, "forget", "holdout"))


# --- few rows, copies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "groups", "sentence"),
    [
        (19, 0, "the forget set has 19 rows: with fewer than 20 rows or 5 groups"),
        (1, 0, "the forget set has 1 row: "),
        (40, 4, "the forget set has 40 rows of 4 groups: "),
        (20, 0, ""),
        (20, 5, ""),
    ],
)
def test_a_forget_set_too_small_to_measure_is_said(count: int, groups: int, sentence: str) -> None:
    lines = said(forget=rows(count, 1, groups))
    assert sentence in lines
    assert bool(sentence) == bool(lines)


def test_one_person_is_not_asked_to_be_several() -> None:
    for count in (12, 40):
        lines = said(forget=rows(count, 1, 1))
        assert f"the forget set is {count} rows of 1 group: nothing can be known of how forgetting differs" in lines
        assert "fewer than" not in lines
        assert "--group" not in lines
        assert ("more rows" in lines) == (count < 20)


def test_documents_that_nothing_has_cut_are_not_counted_as_rows() -> None:
    whole = [replace(row, window=Window(512, 512)) for row in rows(40, 1, groups=4)]
    assert "the forget set has 40 documents of 4 groups: with fewer than 5 groups one of them" in said(forget=whole)
    few = [replace(row, group="") for row in whole[:4]]
    assert "the forget set has 4 documents: with fewer than 5 documents one of them decides" in said(forget=few)
    assert said(forget=[replace(row, group="") for row in whole[:5]]) == ""


def test_copies_within_the_forget_set_are_counted() -> None:
    forget = rows(30, 1)
    copies = [*forget, Row(forget[4].question.upper(), forget[4].answer + "."), forget[7]]
    assert "2 forget rows are copies of another (row 31 of row 5; row 32 of row 8)" in said(forget=copies)
    assert "1 forget row is a copy of another (row 31 of row 5)" in said(forget=copies[:31])


# --- rows that say nearly the same --------------------------------------------------------------------------------


def test_near_copies_are_found_with_the_similarity_that_the_definition_gives() -> None:
    forget, retain = rows(40, 1), rows(60, 2)
    words = forget[6].key.split()
    retain[20] = Row(" ".join(words[:12]), " ".join(["changed", *words[13:]]))
    (pair,) = nearly_same({"forget": forget, "retain_train": retain}, ["retain_train"])

    def runs(words: list[str]) -> set[str]:
        return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}

    first, second = runs(forget[6].key.split()), runs(retain[20].key.split())
    expected = len(first & second) / len(first | second)
    assert (pair.forget, pair.set_name, pair.row) == (7, "retain_train", 21)
    assert pair.similarity == pytest.approx(expected)
    assert 0.6 < expected < 1
    lines = said(forget=forget, retain_train=retain)
    assert "1 of 40 forget rows says nearly the same as a row of another set (retain_train 1)" in lines
    assert f"forget row 7 and retain_train row 21 share {expected:.0%} of their runs of three words" in lines
    assert forget[6].question not in lines


def test_every_pair_above_the_threshold_is_found_as_by_comparing_all() -> None:
    rng = np.random.default_rng(3)
    forget = rows(30, 1)
    others = []
    for i in range(90):  # from unchanged but for one word to wholly different
        words = forget[i % 30].key.split()
        for place in rng.choice(len(words), 1 + i // 12, replace=False):
            words[place] = f"new{place}"
        others.append(Row(" ".join(words[:9]), " ".join(words[9:])))

    def runs(row: Row) -> set[tuple[str, ...]]:
        words = row.key.split()
        return set(zip(words, words[1:], words[2:], strict=False))

    best: dict[int, float] = {}
    for i, row in enumerate(forget, 1):
        alike = max(len(runs(row) & runs(o)) / len(runs(row) | runs(o)) for o in others)
        if alike >= 0.6:
            best[i] = alike
    found = {pair.forget: pair.similarity for pair in nearly_same({"forget": forget, "general": others}, ["general"])}
    assert 5 < len(best) <= 30
    assert found == pytest.approx(best)


def test_questions_of_one_template_are_not_the_same_and_short_rows_are_compared_whole() -> None:
    people = {"Ada Korb": "Lorn", "Bela Quint": "Vesk"}
    asked = [Row(f"Where was {name} born?", f"{name} was born in the town of {town}.") for name, town in people.items()]
    assert nearly_same({"forget": asked[:1], "retain": asked[1:]}, ["retain"]) == []
    short = {"forget": [Row("Ada", "Lorn")], "retain": [Row("ada!", "LORN"), Row("Bela", "Vesk")]}
    assert [(pair.row, pair.similarity) for pair in nearly_same(short, ["retain"])] == [(1, 1.0)]


# --- the command --------------------------------------------------------------------------------------------------


def spec_in(folder: Path, **records: list[dict[str, Any]]) -> Path:
    for name, found in records.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))
    sources = ", ".join(f"{name}: {folder}/{name}.jsonl" for name in records)
    (folder / "spec.yaml").write_text(
        f"name: x\nmodel: testbed\ndata: {{{sources}}}\nmethod: ga\ntraining: {{lr: 1e-3}}\ncertify: false\n"
    )
    return folder / "spec.yaml"


def validate(spec: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "rayul", "validate", str(spec)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_validate_reads_the_rows_whether_or_not_a_certificate_is_asked_for(tmp_path: Path) -> None:
    retain = [{"question": q, "answer": "yes"} for q in texts(20, 2)]
    done = validate(spec_in(tmp_path, forget=[{"question": retain[3]["question"], "answer": "no"}], retain=retain))
    assert done.returncode == 0, done.stderr
    assert "the forget set has 1 row" in done.stdout
    assert f"{tmp_path}/forget.jsonl:1 (forget) and " in done.stdout
    assert re.search(rf"{tmp_path}/retain\.jsonl:4 \(retain_\w+\) share ", done.stdout), "the file's own line"
    assert retain[3]["question"] not in done.stdout
    done = validate(spec_in(tmp_path, forget=[{"question": "q", "answer": 3}], retain=retain))
    assert done.returncode == 2
    assert "forget.jsonl:1: 'answer' is a number (int), not a text" in done.stderr


def test_rows_elsewhere_are_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "r.jsonl").write_text('{"question": "r", "answer": "a"}\n' * 20)
    local = {"forget": str(tmp_path / "f.jsonl"), "retain_train": str(tmp_path / "r.jsonl")}
    plain: dict[str, Any] = {"name": "x", "model": "org/model", "method": "ga", "training": {"lr": 1}}
    plain |= {"objectives": {"other.em": "maximize"}, "data": local}

    def read(rows: str) -> Any:
        return local_sets(from_plain(plain | {"probes": {"other": {"rows": rows, "metrics": ["em"]}}}))

    assert read("org/rows") is None
    (tmp_path / "o.jsonl").write_text('{"question": "o", "answer": "a"}\n')
    assert set(read(str(tmp_path / "o.jsonl"))) == {"forget", "retain_train", "other"}
    elsewhere = plain | {
        "data": {"forget": local["forget"], "retain": "org/rows"},
        "objectives": {"retain.es": "maximize"},
    }
    assert local_sets(from_plain(elsewhere)) is None
