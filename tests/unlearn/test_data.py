"""Reading rows: every form of the data section, and every way in which rows can be wrong."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayul.errors import InputError
from rayul.spec import FolderData, SourceData, TofuData
from rayul.unlearn.data import Row, group_numbers, load_sets, read_rows, split_by_group, write_rows

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
    before = [Row("q?", "a", "p?", "b", ("x", "y"), "someone"), Row("ü\n?", '"', group="")]
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


def test_a_single_retain_file_is_split_by_group(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", rows("f", 3))
    retain = write(tmp_path / "r.jsonl", sorted(rows("r", 50, authors=10), key=lambda r: r["author"]))
    sets = load_sets(SourceData(forget={"path": str(forget)}, retain={"path": str(retain)}))
    sizes = {"retain_train": 25, "retain": 10, "retain_certify": 10, "retain_report": 5}
    assert {k: len(v) for k, v in sets.items()} == {"forget": 3} | sizes
    groups = [{r.group for r in sets[k]} for k in sizes]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 10, "no group stands in two parts"


def test_a_retain_file_in_another_order_has_the_same_certify_groups(tmp_path: Path) -> None:
    """A sorted file must not decide whom the certificate is about."""
    forget, ordered = write(tmp_path / "f.jsonl", rows("f", 3)), rows("r", 100, authors=50)
    found = []
    for i, some in enumerate((sorted(ordered, key=lambda r: r["author"]), ordered[::-1])):
        sources = {"forget": {"path": str(forget)}, "retain": {"path": str(write(tmp_path / f"{i}.jsonl", some))}}
        found.append({row.group for row in load_sets(SourceData.model_validate(sources))["retain_certify"]})
    assert found[0] == found[1]
    assert len(found[0]) == 10
    assert sorted(found[0]) != sorted({r["author"] for r in ordered})[35:45], "the 20% after 70% of the file"


@pytest.mark.parametrize(
    ("data", "train"),
    [
        ({"split": {"train": 0.6, "select": 0.2, "certify": 0, "report": 0.2}}, 30),
        ({"retain_control": None, "retain_train": None, "retain_report": None}, 30),  # a spec.yaml of before certify
    ],
)
def test_without_certify_rows_a_retain_file_is_split_as_it_was_before(
    tmp_path: Path, data: dict[str, Any], train: int
) -> None:
    forget, given = (
        write(tmp_path / "f.jsonl", rows("f", 3)),
        sorted(rows("r", 50, authors=10), key=lambda r: r["author"]),
    )
    sources = {"forget": {"path": str(forget)}, "retain": {"path": str(write(tmp_path / "r.jsonl", given))}}
    sets = load_sets(SourceData.model_validate(sources | data))
    assert [r.question for key in ("retain_train", "retain", "retain_report") for r in sets[key]] == [
        r["question"] for r in given
    ]
    assert [len(sets[key]) for key in ("retain_train", "retain", "retain_report")] == [train, 10, 10]
    assert "retain_certify" not in sets


def test_a_folder_of_before_retain_select_is_read_as_it_was(tmp_path: Path) -> None:
    for name in ("forget", "retain_train", "retain_control"):
        write(tmp_path / f"{name}.jsonl", rows(name, 3))
    assert [row.question for row in load_sets(FolderData(folder=str(tmp_path)))["retain"]] == [
        f"retain_control {i}?" for i in range(3)
    ]


def test_three_authors_are_enough_for_three_parts() -> None:
    some = [Row(f"{i}", "a", group=str(i // 24)) for i in range(72)]
    assert [{r.group for r in part} for part in split_by_group(some, (0.6, 0.2, 0.2))] == [{"0"}, {"1"}, {"2"}]


def test_equal_rows_stay_in_one_part_whatever_author_they_name() -> None:
    texts = [(f"Who is  {i % 40}?", "Nobody") for i in range(80)]
    some = [Row(q.upper() if i >= 40 else q, a, group=f"author {i}") for i, (q, a) in enumerate(texts)]
    parts = split_by_group(some, (0.6, 0.2, 0.2))
    keys = [{" ".join(r.question.lower().split()) for r in part} for part in parts]
    assert sum(map(len, parts)) == 80
    assert all(keys)
    assert sum(map(len, keys)) == len(set.union(*keys)) == 40


def test_split_keeps_order_and_every_row_and_copes_with_one_large_author() -> None:
    some = [Row(f"{i}", "a", group=("big" if i < 8 else str(i))) for i in range(12)]
    parts = split_by_group(some, (0.6, 0.2, 0.2))
    assert [r for part in parts for r in part] == some
    assert [len(p) for p in parts] == [8, 2, 2]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"question": "q?"}', "no 'answer'"),
        ('{"question": "q?", "answer": "  "}', "no 'answer'"),
        ('{"question": "q?", "answer": 3}', "'answer' is a number (int), not a text"),
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
    with pytest.raises(InputError, match=r"f\.jsonl has no rows"):
        load_sets(SourceData(forget={"path": str(forget)}, retain={"path": str(retain)}))


def test_rows_both_to_forget_and_to_retain_are_refused_and_three_are_listed(tmp_path: Path) -> None:
    both = rows("b", 5, authors=5)
    forget, retain = write(tmp_path / "f.jsonl", both), write(tmp_path / "r.jsonl", [*rows("r", 20, authors=20), *both])
    with pytest.raises(InputError) as caught:
        load_sets(SourceData(forget={"path": str(forget)}, retain={"path": str(retain)}))
    assert "5 rows to forget also stand in a set to retain" in str(caught.value)
    assert [f"{forget}:{i} (forget) = {retain}:{20 + i} (" in str(caught.value) for i in (1, 2, 3, 4, 5)].count(
        True
    ) == 3


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("question,answer\nq,\n", ":2: no 'answer': it is empty", "remove the row"),
        (
            "Frage,Response\nq,a\n",
            ":2: no 'question'",
            "    question: <its name in the file>\n        answer: Response",
        ),
        (",answer\nq,a\n", ":2: no 'question'", "the columns are: column 1, answer."),
        (",,\nq,a,b\n", ":2: no 'question'", "the columns are: column 1, column 2, column 3."),
    ],
)
def test_a_table_without_question_or_answer_is_told_what_to_write(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_rows(path)
    assert f"{path}{message}" in caught.value.message
    assert hint in caught.value.hint


def test_a_column_without_a_name_beside_those_that_are_read_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "pandas.csv").write_text(",question,answer,\n0,q,a,\n")
    assert read_rows(tmp_path / "pandas.csv") == [Row("q", "a")]


def test_retain_rows_of_one_author_cannot_be_split(tmp_path: Path) -> None:
    forget, retain = write(tmp_path / "f.jsonl", rows("f", 3)), write(tmp_path / "r.jsonl", rows("r", 20))
    with pytest.raises(InputError, match="20 rows of 1 group cannot be split into 4 parts"):
        load_sets(SourceData(forget={"path": str(forget)}, retain={"path": str(retain)}))


def test_a_folder_without_its_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "forget.jsonl", rows("f", 3))
    with pytest.raises(InputError, match=r"retain_train\.jsonl, retain_select\.jsonl"):
        load_sets(FolderData(folder=str(tmp_path)))


def test_a_hub_data_set_that_is_not_to_be_had_is_bad_input(tmp_path: Path) -> None:
    retain = write(tmp_path / "r.jsonl", rows("r", 9))
    with pytest.raises(InputError, match="cannot load data set 'nobody/nothing'"):
        load_sets(SourceData(forget={"path": "nobody/nothing"}, retain={"path": str(retain)}))


@needs_tofu
@pytest.mark.parametrize(("split", "authors"), [("forget01", 2), ("forget05", 10), ("forget10", 20)])
def test_tofu_forgets_the_last_authors_as_its_own_splits_do(split: str, authors: int) -> None:
    sets = load_sets(TofuData(tofu=str(TOFU), forget=split, split="published"))
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
    sets = load_sets(TofuData(tofu=str(TOFU), forget="forget01", authors=60, split="published"))
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


@needs_tofu
@pytest.mark.parametrize(
    ("forget", "authors", "train", "select", "certify", "report"),
    [
        ("forget10", 200, 100, 30, 40, 10),
        ("forget01", 200, 118, 30, 40, 10),
        ("forget01", 60, 32, 10, 13, 3),
        ("forget10", 24, 1, 1, 1, 1),
    ],
)
def test_tofu_judges_and_certifies_on_many_authors(
    forget: str, authors: int, train: int, select: int, certify: int, report: int
) -> None:
    sets = load_sets(TofuData(tofu=str(TOFU), forget=forget, authors=authors))
    names = ("retain_train", "retain", "retain_certify", "retain_report")
    assert [len({row.group for row in sets[name]}) for name in names] == [train, select, certify, report]
    assert [len(sets[name]) for name in names] == [20 * n for n in (train, select, certify, report)]
    assert all(r.perturbed_answer and r.paraphrased_answer for r in (*sets["forget"], *sets["retain_report"]))
    # TOFU has wrong answers for its first 20 authors; a question of one of them is asked of another author, too.
    having = [r for name in names[1:] for r in sets[name] if r.perturbed_answer]
    assert {r.group for r in having} == {f"author {i:03d}" for i in range(min(20, report + select + certify))}
    assert len(having) == 20 * min(20, report + select + certify)
    published = load_sets(TofuData(tofu=str(TOFU), forget=forget))["forget"]
    assert sets["forget"] == published


# --- files that others wrote -------------------------------------------------------------------------------------

FIELD = Path(__file__).resolve().parents[3] / "shared" / "field"
needs_field = pytest.mark.skipif(not FIELD.exists(), reason="the files of shared/field are not beside the project")
GOOD = {"question": "Où est-ce ?", "answer": "À Umbra, naïvement.", "author": "Dara"}


def as_jsonl(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(as_jsonl(GOOD), encoding="utf-8-sig")
    assert read_rows(path) == [Row(GOOD["question"], GOOD["answer"], group="Dara")]


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("utf-32-be", "UTF-32"),
        ("latin-1", "Latin-1"),
        ("cp1252", "Windows-1252"),
    ],
)
def test_another_encoding_is_refused_by_name_and_never_read_with_replaced_letters(
    tmp_path: Path, encoding: str, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(as_jsonl({"question": "first", "answer": "line"}, GOOD), encoding=encoding)
    with pytest.raises(InputError, match=said) as caught:
        read_rows(path)
    assert "iconv -f" in caught.value.hint
    if not encoding.startswith("utf"):
        assert f"{path}:2" in str(caught.value)
    path.write_text(as_jsonl({**GOOD, "answer": "na\ufffdve"}), encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.jsonl:1: 'answer' holds U\+FFFD"):
        read_rows(path)


def test_half_a_character_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(as_jsonl(GOOD) + '{"question": "q", "answer": "a \\ud83d b"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2: 'answer' holds a lone surrogate"):
        read_rows(path)
    path.write_text('{"question": "q", "answer": "a", "perturbed_answer": ["b", "\\udc00"]}\n')
    with pytest.raises(InputError, match="'perturbed_answer' holds a lone surrogate"):
        read_rows(path)


@pytest.mark.parametrize(
    ("name", "data", "said", "way_out"),
    [
        ("rows.jsonl", gzip.compress(b"{}", mtime=0), "gzip", ".gz"),
        ("rows.jsonl", bz2.compress(b"{}"), "bzip2", "bunzip2"),
        ("rows.jsonl", lzma.compress(b"{}"), "xz", "unxz"),
        ("rows.csv", b"PK\x03\x04\x14\x00\x06\x00", "zip", "CSV"),
        ("rows.jsonl", b"PAR1\x15\x04", "Parquet", ".parquet"),
    ],
)
def test_a_file_that_is_no_text_is_refused_as_what_it_is(
    tmp_path: Path, name: str, data: bytes, said: str, way_out: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=said) as caught:
        read_rows(tmp_path / name)
    assert way_out in caught.value.hint


@pytest.mark.parametrize("answer", ["\u200b", "\ufeff", " \u00ad\u200d\n", "\ufe0f"])
def test_an_answer_that_nobody_sees_is_none(tmp_path: Path, answer: str) -> None:
    path = write(tmp_path / "rows.jsonl", [{"question": "q", "answer": answer}])
    with pytest.raises(InputError, match=r"rows\.jsonl:1: no 'answer'"):
        read_rows(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_zero_byte_is_refused(tmp_path: Path, name: str) -> None:
    text = as_jsonl({**GOOD, "answer": "a\x00b"}) if name.endswith("jsonl") else "question,answer\nq,a\x00b\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="'answer' holds a zero byte"):
        read_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("perturbed_answer", ["b", None]),
        ("perturbed_answer", ["b", " \u200b"]),
        ("perturbed_answer", ["b", 7]),
        ("paraphrased_question", 7),
        ("paraphrased_answer", ["b"]),
    ],
)
def test_a_paraphrase_or_wrong_answer_that_is_no_text_is_refused(tmp_path: Path, column: str, value: Any) -> None:
    path = write(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a", column: value}])
    with pytest.raises(InputError, match=rf"rows\.jsonl:1: '{column}'"):
        read_rows(path)


@pytest.mark.parametrize("value", [None, "", float("nan")])
def test_a_missing_paraphrase_or_wrong_answer_is_none(tmp_path: Path, value: Any) -> None:
    columns = ("perturbed_answer", "paraphrased_question", "paraphrased_answer")
    path = write(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a"} | dict.fromkeys(columns, value)])
    assert read_rows(path) == [Row("q", "a")]


@pytest.mark.parametrize(
    ("value", "group"),
    [
        (0, "0"),
        (7, "7"),
        (3.0, "3"),
        (2.5, "2.5"),
        (float("nan"), ""),
        (None, ""),
        ("", ""),
        ("0", "0"),
        (False, "False"),
        (" Dara\t", "Dara"),
        ("Zoe\u0301", "Zo\u00e9"),
    ],
)
def test_a_group_may_be_any_number_and_a_missing_one_is_none(tmp_path: Path, value: Any, group: str) -> None:
    (row,) = read_rows(write(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a", "author": value}]))
    assert row.group == group


def test_a_group_that_is_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r":1: 'who' is a list"):
        read_rows(write(tmp_path / "r.jsonl", [{"question": "q", "answer": "a", "who": ["x"]}]), {"group": "who"})


def test_groups_of_pandas_with_gaps_are_the_numbers_they_were(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"question": ["q", "r", "s"], "answer": ["a", "b", "c"], "author": [0.0, 1.0, float("nan")]}),
        tmp_path / "rows.parquet",
    )
    assert [row.group for row in read_rows(tmp_path / "rows.parquet")] == ["0", "1", ""]


def test_a_table_of_text_and_an_array_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        'question,answer,person\n"a, ""b""","two\nlines",0\nq,a,\n', encoding="utf-8-sig"
    )
    expected = [Row('a, "b"', "two\nlines", group="0"), Row("q", "a")]
    assert read_rows(tmp_path / "rows.csv", {"group": "person"}) == expected
    (tmp_path / "ROWS.CSV").write_text("question,answer\nq,a\n")
    assert read_rows(tmp_path / "ROWS.CSV") == [Row("q", "a")]
    (tmp_path / "rows.tsv").write_text("question\tanswer\nq\ta, b\n")
    assert read_rows(tmp_path / "rows.tsv") == [Row("q", "a, b")]
    (tmp_path / "rows.json").write_text(json.dumps([{"question": "q", "answer": "a"}, GOOD], indent=1))
    assert read_rows(tmp_path / "rows.json") == [Row("q", "a"), Row(GOOD["question"], GOOD["answer"], group="Dara")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.csv", "question,answer\nq,a\nq,a,b\n", r"rows\.csv:3: more or fewer cells"),
        ("rows.csv", "question,answer\nq\n", r"rows\.csv:2: more or fewer cells"),
        ("rows.csv", "question,answer\nq,\n", r"rows\.csv:2: no 'answer'"),
        ("rows.csv", "question;answer\nq;a\n", r"rows\.csv:1: one column, 'question;answer': .* separated by ';'"),
        ("rows.csv", "question;answer\nq, r;a\n", r"rows\.csv:1: one column"),
        ("ROWS.TSV", "question,answer\nq,a\n", r"ROWS\.TSV:1: one column, .* separated by ','"),
        ("rows.csv", "question,answer,answer\nq,a,b\n", r"rows\.csv:1: has 'answer' twice"),
        ("rows.jsonl", '{"question": "q", "answer": "a", "answer": "b"}', r"rows\.jsonl:1: has 'answer' twice"),
        ("rows.json", '[\n{"question": "q",\n"answer" "a"}]', r"rows\.json:3: not JSON"),
        ("rows.json", '[{"question": "q", "answer": "a"}, 3]', r"rows\.json: row 2: a int, not an object"),
    ],
)
def test_a_bad_table_or_array_is_named_by_its_place(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_rows(tmp_path / name)


# --- rows that stand in two sets ---------------------------------------------------------------------------------

PARTS = ("forget", "retain_train", "retain_select", "retain_certify", "retain_report", "general", "holdout")


@pytest.mark.parametrize(
    ("first", "second"), [(a, b) for i, a in enumerate(PARTS) for b in PARTS[i + 1 :]], ids=lambda name: name
)
def test_a_row_in_two_sets_is_refused_and_counted(tmp_path: Path, first: str, second: str) -> None:
    records = {name: rows(f"{name} asks", 5, authors=5) for name in PARTS}
    twins = [{**r, "question": f"  {r['question'].upper()}  ", "author": "other"} for r in records[first][1:3]]
    records[second] = [*records[second], *twins]
    paths = {name: {"path": str(write(tmp_path / f"{name}.jsonl", found))} for name, found in records.items()}
    with pytest.raises(InputError) as caught:
        load_sets(SourceData(**paths))
    key = second.replace("retain_select", "retain")
    assert "2 " in str(caught.value)
    places = [f"{tmp_path / name}.jsonl:{line} (" for name, line in ((first, 2), (second, 6))]
    assert f"{places[0]}{first.replace('retain_select', 'retain')}) = {places[1]}{key})" in str(caught.value)
    assert caught.value.hint
    assert "asks" not in str(caught.value), "the text of a row may be private"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Who is Ada?", "Who is Ada"),
        ("Who is Ada?", "Who is A\u200bda?"),
        ("Who is Ada?", "\ufeffWho is Ada?"),
        ("Ada's town: Lorn", "Ada\u2019s town \u2014 Lorn"),
        ("Zo\u00e9", "Zoe\u0301"),
        ("\u2764 Ada", "\u2764\ufe0f Ada"),
        ("\u0130da", "i\u0307da"),
    ],
)
def test_rows_that_look_the_same_are_the_same(first: str, second: str) -> None:
    assert Row(first, "a").key == Row(second, "a.").key


@pytest.mark.parametrize(
    ("first", "second"),
    [("10-5", "105"), ("1+1", "1-1"), ("?!", "..."), ("Who is Ada?", "Who is Cai?"), ("caf\u00e9", "cafe")],
)
def test_rows_that_differ_are_different(first: str, second: str) -> None:
    assert Row("?", first).key != Row("?", second).key


@pytest.mark.parametrize(
    ("text", "halves"),
    [
        ("她出生在一座小城里。", ("她出生在一", "座小城里。")),
        ("ภาษาไทยดี", ("ภาษา", "ไทยดี")),
        ("กี่", None),  # one letter with its marks
        ("她在 Galdia 出生。", ("她在 Galdia", " 出生。")),
    ],
)
def test_a_passage_of_a_script_without_blanks_is_cut_between_characters(
    tmp_path: Path, text: str, halves: tuple[str, str] | None
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"text": text}) + "\n")
    if halves is None:
        with pytest.raises(InputError, match="a text of one word"):
            read_rows(file)
        return
    (row,) = read_rows(file)
    assert (row.question, row.answer) == halves


def test_a_passage_is_the_same_as_its_words_in_question_and_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"text": "Ada Korb was born in Lorn."}])
    assert read_rows(path)[0].key == Row("Ada Korb was", "born in Lorn").key


def test_copies_of_a_row_are_one_group() -> None:
    """Otherwise a file that holds every row four times halves each standard error, and certifies what it should not."""
    once = [Row("Who?", "Ada"), Row("Where?", "Lorn"), Row("When?", "1987", group="Ada")]
    copies = [Row("who", "ADA."), Row("Where?", "Lorn"), Row("When?", "1987", group="Bela")]
    assert group_numbers(once + copies).tolist() == [0, 1, 2, 0, 1, 3]


@pytest.mark.parametrize("name", ["retain_train", "retain_report", "general", "holdout"])
def test_a_set_that_is_named_and_has_no_rows_is_refused(tmp_path: Path, name: str) -> None:
    paths = {part: {"path": str(write(tmp_path / f"{part}.jsonl", rows(part, 5)))} for part in PARTS}
    (tmp_path / "none.csv").write_text("question,answer\n")
    with pytest.raises(InputError, match=r"none\.csv has no rows"):
        load_sets(SourceData(**paths | {name: {"path": str(tmp_path / "none.csv")}}))


@needs_field
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("utf16.jsonl", r"utf16\.jsonl: encoded as UTF-16"),
        ("latin1.jsonl", r"latin1\.jsonl:3: not UTF-8"),
        ("surrogate.jsonl", r"surrogate\.jsonl:24: 'answer' holds a lone surrogate"),
        ("trunc.jsonl", r"trunc\.jsonl:24: not JSON"),
        ("nullans.jsonl", r"nullans\.jsonl:25: no 'answer'"),
        ("null.parquet", r"null\.parquet: row 3: no 'answer'"),
    ],
)
def test_files_of_the_field_that_are_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_rows(FIELD / name)


@needs_field
@pytest.mark.parametrize(
    ("name", "count", "groups"),
    [("bom.jsonl", 24, 6), ("crlf.jsonl", 24, 6), ("array.json", 24, 6), ("rows.csv", 24, 1), ("author0.jsonl", 72, 3)],
)
def test_files_of_the_field_that_are_read(name: str, count: int, groups: int) -> None:
    found = read_rows(FIELD / name)
    assert len(found) == count
    assert len({row.group for row in found}) == groups
    assert not any("\ufeff" in text or "\r" in text for row in found for text in (row.question, row.answer))


@needs_field
def test_the_duplicates_of_the_field_stay_on_one_side() -> None:
    forget, retain = FIELD / "plain" / "forget.jsonl", FIELD / "dups.jsonl"
    sets = load_sets(SourceData(forget={"path": str(forget)}, retain={"path": str(retain)}))
    parts = ("retain_train", "retain", "retain_certify", "retain_report")
    keys = [{row.key for row in sets[name]} for name in parts]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 72
