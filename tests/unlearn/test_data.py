"""Reading rows: every form of the data section, and every way in which rows can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayul.errors import InputError
from rayul.spec import FolderData, SourceData, TofuData
from rayul.unlearn.data import Row, load_sets, read_rows, split_by_author, write_rows

TOFU = Path(__file__).resolve().parents[3] / "shared" / "tofu"
needs_tofu = pytest.mark.skipif(not TOFU.exists(), reason=f"TOFU's files are not beside the project ({TOFU.name})")


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def rows(prefix: str, count: int, authors: int = 1) -> list[dict[str, str]]:
    return [
        {"question": f"{prefix} {i}?", "answer": f"It is {i}.", "author": f"{prefix}{i % authors}"}
        for i in range(count)
    ]


def test_rows_survive_writing_and_reading(tmp_path: Path) -> None:
    before = [Row("q?", "a", "p?", "b", ("x", "y"), "someone"), Row("ü\n?", '"', author="")]
    write_rows(tmp_path / "rows.jsonl", before)
    assert read_rows(tmp_path / "rows.jsonl") == before


def test_parquet_and_a_column_map(tmp_path: Path) -> None:
    pq.write_table(pa.table({"ask": ["q?"], "reply": ["a"], "wrong": [["x"]]}), tmp_path / "rows.parquet")
    columns = {"question": "ask", "answer": "reply", "perturbed_answer": "wrong"}
    assert read_rows(tmp_path / "rows.parquet", columns) == [Row("q?", "a", perturbed_answer=("x",))]


def test_a_text_is_a_passage_to_continue_verbatim(tmp_path: Path, task: Any) -> None:
    from rayul.unlearn.tokens import encode_rows

    path = write(tmp_path / "f.jsonl", [{"text": "It was a dark and stormy night; the rain fell."}, {"text": "one"}])
    with pytest.raises(InputError, match=r"f\.jsonl:2: a text of one word"):
        read_rows(path)
    path = write(path, [{"body": "It was a dark and stormy night; the rain fell."}])
    (row,) = read_rows(path, {"text": "body"})
    assert row.question + row.answer == "It was a dark and stormy night; the rain fell."
    assert row.answer == " night; the rain fell."
    (example,) = encode_rows(task.tokenizer, "Q: {question} A: {answer}", [row])
    assert task.tokenizer.decode(example.ids[:-1]) == row.text
    assert task.tokenizer.decode(example.ids[example.start : example.stop]) == row.answer
    write_rows(path, [row])
    assert read_rows(path) == [row]


def test_a_single_retain_file_is_split_by_author(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", rows("f", 3))
    retain = write(tmp_path / "r.jsonl", sorted(rows("r", 50, authors=10), key=lambda r: r["author"]))
    sets = load_sets(SourceData(forget={"path": str(forget)}, retain={"path": str(retain)}))
    assert {k: len(v) for k, v in sets.items()} == {"forget": 3, "retain_train": 30, "retain": 10, "retain_report": 10}
    authors = [{r.author for r in sets[k]} for k in ("retain_train", "retain", "retain_report")]
    assert len(set.union(*authors)) == sum(map(len, authors)), "no author stands in two parts"


def test_split_keeps_order_and_every_row_and_copes_with_one_large_author() -> None:
    some = [Row(f"{i}", "a", author=("big" if i < 8 else str(i))) for i in range(12)]
    parts = split_by_author(some, (0.6, 0.2, 0.2))
    assert [r for part in parts for r in part] == some
    assert [len(p) for p in parts] == [8, 2, 2]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"question": "q?"}', "no 'answer'"),
        ('{"question": "q?", "answer": "  "}', "no 'answer'"),
        ('{"question": "q?", "answer": 3}', "no 'answer'"),
        ('{"question": "q?", "answer": ', "not JSON"),
        ("[1, 2]", "a list, not an object"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line_and_never_quoted(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "secret", "answer": "a"}\n\n' + line + "\n")
    with pytest.raises(InputError) as caught:
        read_rows(path)
    assert f"{path}:3: " in str(caught.value)
    assert problem in str(caught.value)
    assert caught.value.hint
    assert "q?" not in str(caught.value)


def test_an_empty_forget_file_is_refused(tmp_path: Path) -> None:
    forget, retain = write(tmp_path / "f.jsonl", []), write(tmp_path / "r.jsonl", rows("r", 9, authors=9))
    forget.write_text("\n")
    with pytest.raises(InputError, match="forget set has no rows"):
        load_sets(SourceData(forget={"path": str(forget)}, retain={"path": str(retain)}))


def test_rows_both_to_forget_and_to_retain_are_refused_and_three_are_listed(tmp_path: Path) -> None:
    both = rows("b", 5, authors=5)
    forget, retain = write(tmp_path / "f.jsonl", both), write(tmp_path / "r.jsonl", [*rows("r", 20, authors=20), *both])
    with pytest.raises(InputError) as caught:
        load_sets(SourceData(forget={"path": str(forget)}, retain={"path": str(retain)}))
    assert "5 rows to forget also stand in a set to retain" in str(caught.value)
    assert str(caught.value).count("forget row") == 3


def test_retain_rows_of_one_author_cannot_be_split(tmp_path: Path) -> None:
    forget, retain = write(tmp_path / "f.jsonl", rows("f", 3)), write(tmp_path / "r.jsonl", rows("r", 20))
    with pytest.raises(InputError, match="20 rows of 1 author cannot be split"):
        load_sets(SourceData(forget={"path": str(forget)}, retain={"path": str(retain)}))


def test_a_folder_without_its_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "forget.jsonl", rows("f", 3))
    with pytest.raises(InputError, match=r"retain_train\.jsonl, retain_control\.jsonl"):
        load_sets(FolderData(folder=str(tmp_path)))


def test_a_hub_data_set_that_is_not_to_be_had_is_bad_input(tmp_path: Path) -> None:
    retain = write(tmp_path / "r.jsonl", rows("r", 9))
    with pytest.raises(InputError, match="cannot load data set 'nobody/nothing'"):
        load_sets(SourceData(forget={"path": "nobody/nothing"}, retain={"path": str(retain)}))


@needs_tofu
@pytest.mark.parametrize(("split", "authors"), [("forget01", 2), ("forget05", 10), ("forget10", 20)])
def test_tofu_forgets_the_last_authors_as_its_own_splits_do(split: str, authors: int) -> None:
    sets = load_sets(TofuData(tofu=str(TOFU), forget=split))
    assert len(sets["forget"]) == 20 * authors
    published = TOFU / f"{split}.json"
    if published.exists():
        assert [r.question for r in sets["forget"]] == [r.question for r in read_rows(published)]
    assert [r.question for r in (*sets["retain"], *sets["retain_report"])] == [
        r.question for r in read_rows(TOFU / "retain_perturbed.json")
    ]
    assert len(sets["retain_train"]) == 20 * (200 - 20 - authors)
    assert all(r.perturbed_answer and r.paraphrased_answer for r in (*sets["forget"], *sets["retain"]))
    assert len(sets["holdout"]) == 400
    assert len(sets["general"]) == 217


@needs_tofu
def test_tofu_cut_to_some_authors_keeps_the_first_and_the_last() -> None:
    sets = load_sets(TofuData(tofu=str(TOFU), forget="forget01", authors=60))
    assert {k: len(v) for k, v in sets.items()} == {
        "forget": 40,
        "retain_train": 38 * 20,
        "retain": 200,
        "retain_report": 200,
        "general": 217,
        "holdout": 400,
        "real_authors": 100,
        "world_facts": 117,
    }
    full = read_rows(TOFU / "full.json")
    assert [r.question for r in sets["retain_train"]] == [r.question for r in full[400 : 400 + 38 * 20]]
