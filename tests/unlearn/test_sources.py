"""Sources: which rows of a file, a folder or a data set are read, in every format that people have them in."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayul.errors import InputError
from rayul.spec import Source, SourceData, SpecError, parse_spec
from rayul.unlearn.data import Row, load_sets, read_rows, read_source, write_rows

RECORDS = [
    {"ask": f"Question {i}?", "reply": f"Answer {i}.", "subject": ("art", "law", "war")[i % 3], "year": 2000 + i % 2}
    for i in range(12)
]
COLUMNS = {"question": "ask", "answer": "reply"}


def write(path: Path, records: list[Any]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    match [part for part in path.suffixes if part != ".gz"][-1]:
        case ".json":
            text = json.dumps(records)
        case ".csv" | ".tsv":
            from io import StringIO

            table = StringIO(newline="")
            delimiter = "," if ".csv" in path.suffixes else "\t"
            writer = csv.DictWriter(table, list(records[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(records)
            text = table.getvalue()
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(records), path)
            return path
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def source(path: Path, **options: Any) -> Source:
    return Source.model_validate({"path": str(path), "columns": COLUMNS} | options)


def asked(rows: list[Row]) -> list[int]:
    return [int(row.question.removeprefix("Question ").removesuffix("?")) for row in rows]


FORMATS = ["jsonl", "json", "csv", "tsv", "jsonl.gz", "json.gz", "csv.gz", "tsv.gz", "parquet"]


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"rows.{ending}", RECORDS)
    expected = [Row(f"Question {i}?", f"Answer {i}.") for i in range(12)]
    assert read_source(source(path)) == expected
    law_in_2001 = source(path, where={"subject": "law", "year": 2001})
    assert asked(read_source(law_in_2001)) == [i for i in range(12) if i % 3 == 1 and i % 2]


def test_where_takes_one_value_or_one_of_several(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{**record, "known": i < 4} for i, record in enumerate(RECORDS)])
    assert asked(read_source(source(path, where={"subject": ["art", "war"]}))) == [0, 2, 3, 5, 6, 8, 9, 11]
    assert asked(read_source(source(path, where={"known": True, "subject": "art"}))) == [0, 3]
    assert asked(read_source(source(path, where={"subject": "art"}, limit=2))) == [0, 3]


def test_unless_leaves_rows_out(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", RECORDS)
    assert asked(read_source(source(path, unless={"subject": ["art", "war"]}))) == [1, 4, 7, 10]
    assert asked(read_source(source(path, unless={"subject": "art"}, where={"year": 2000}))) == [2, 4, 8, 10]
    with pytest.raises(InputError, match=r"unless\.topic: there is no column 'topic'"):
        read_source(source(path, unless={"topic": "art"}))
    with pytest.raises(InputError, match="no row has subject 'art' and has no subject 'art'"):
        read_source(source(path, where={"subject": "art"}, unless={"subject": "art"}))


def test_where_reads_numbers_and_truth_as_tables_write_them(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer,n,ok\na,b,7,True\nc,d,8,False\ne,f,,\n")
    for wanted in ({"n": 7}, {"n": "7"}, {"ok": True}, {"ok": "true"}):
        found = read_source(Source(path=str(tmp_path / "rows.csv"), where=wanted))  # type: ignore[arg-type]
        assert [row.question for row in found] == ["a"]
    gaps = pa.table({"question": ["a", "c"], "answer": ["b", "d"], "n": [7.0, None]})
    pq.write_table(gaps, tmp_path / "rows.parquet")
    assert len(read_source(Source.model_validate({"path": str(tmp_path / "rows.parquet"), "where": {"n": 7}}))) == 1
    with pytest.raises(InputError, match="no row has n 'None'"):
        read_source(Source.model_validate({"path": str(tmp_path / "rows.csv"), "where": {"n": "None"}}))


def test_a_shuffle_is_a_permutation_that_its_seed_repeats_and_limit_comes_after_it(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", RECORDS)
    first, again, other = (asked(read_source(source(path, shuffle=seed))) for seed in (1, 1, 2))
    assert first == again
    assert len({tuple(first), tuple(other), tuple(range(12))}) == 3
    assert sorted(first) == list(range(12))
    assert asked(read_source(source(path, shuffle=1, limit=5))) == first[:5]


def test_a_shuffled_retain_source_is_dealt_by_its_seed(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", [{"question": "Who?", "answer": "Ada"}])
    retain = write(tmp_path / "r.jsonl", [{"question": f"q {i}", "answer": f"a {i}"} for i in range(40)])

    def certified(seed: int | None) -> set[str]:
        data = {"forget": str(forget), "retain": {"path": str(retain), "shuffle": seed}}
        sets = load_sets(SourceData.model_validate(data))
        assert sum(map(len, sets.values())) == 41
        return {row.question for row in sets["retain_certify"]}

    assert certified(0) == certified(0)
    assert len({frozenset(certified(seed)) for seed in (None, 0, 1)}) == 3


def test_a_source_may_name_its_columns_otherwise_than_the_others_do(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", [{"q": "Who?", "a": "Ada", "author": "x"}])
    retain = write(tmp_path / "r.jsonl", [r | {"group": i} for i, r in enumerate(RECORDS)])
    data = {
        "forget": {"path": str(forget), "columns": {"question": "q", "answer": "a", "group": None}},
        "retain": str(retain),
        "columns": COLUMNS,
    }
    sets = load_sets(SourceData.model_validate(data))
    assert sets["forget"] == (Row("Who?", "Ada"),), "null reads no such column"
    assert sum(map(len, sets.values())) == 13


def test_a_group_column_that_no_file_has_is_refused(tmp_path: Path) -> None:
    """Rows of a person would count as independent, and stand in training and judging sets at once."""
    forget = write(tmp_path / "f.jsonl", [{"question": "Who?", "answer": "Ada"}])
    retain = write(tmp_path / "r.jsonl", [{"question": f"q {i}", "answer": "a", "person": i // 4} for i in range(40)])
    data = {"forget": str(forget), "retain": str(retain), "columns": {"group": "persn"}}
    with pytest.raises(InputError, match=r"data\.columns\.group: no row of any file has a value in the column 'persn'"):
        load_sets(SourceData.model_validate(data))
    sets = load_sets(SourceData.model_validate(data | {"columns": {"group": "person"}}))
    assert len({row.group for rows in sets.values() for row in rows}) == 11


def test_a_folder_of_shards_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    for i in (1, 0, 2):
        write(folder / f"part-{i}.parquet", RECORDS[4 * i : 4 * i + 4])
    assert asked(read_source(source(folder))) == list(range(12))
    with pytest.raises(InputError, match=r"no shards of the split 'test'"):
        read_source(source(folder, split="test"))
    write(folder / "part-3.parquet", [{"ask": "q", "reply": None}])
    with pytest.raises(InputError, match=r"part-3\.parquet: row 0: no 'reply'"):
        read_source(source(folder))


def test_a_folder_with_splits_in_its_names_is_read_by_split(tmp_path: Path) -> None:
    for name, rows in (("train", RECORDS[:6]), ("test", RECORDS[6:])):
        for i in (0, 1):
            write(tmp_path / f"{name}-0000{i}-of-00002.parquet", rows[3 * i : 3 * i + 3])
    assert asked(read_source(source(tmp_path))) == list(range(6))
    assert asked(read_source(source(tmp_path, split="test"))) == list(range(6, 12))
    with pytest.raises(InputError, match="no shards of the split 'dev': the names begin with test, train"):
        read_source(source(tmp_path, split="dev"))


@pytest.mark.parametrize(
    ("options", "said", "way_out"),
    [
        (
            {"columns": {"question": "qestion"}},
            "columns.question: there is no column 'qestion'",
            "ask, reply",
        ),
        ({"where": {"subjet": "art"}}, "where.subjet: there is no column 'subjet'", "the columns are: ask, reply"),
        ({"where": {"subject": ["Art", "ART"]}}, "no row has subject 'Art' or 'ART'", "letter by letter"),
        ({"columns": {"question": "ask", "answer": "year"}}, r"rows.jsonl:1: 'year' is a number (int)", '42 to "42"'),
        ({"columns": {"question": "ask"}}, "rows.jsonl:1: no 'answer'", "    answer: <its name in the file>"),
    ],
)
def test_what_a_file_does_not_have_is_named_with_what_it_has(
    tmp_path: Path, options: dict[str, Any], said: str, way_out: str
) -> None:
    path = write(tmp_path / "rows.jsonl", RECORDS)
    with pytest.raises(InputError) as caught:
        read_source(Source.model_validate({"path": str(path)} | options))
    assert said in caught.value.message
    assert way_out in caught.value.hint


@pytest.mark.parametrize("data", [gzip.compress(b'{"question": "q", "answer": "a"}' * 99, mtime=0)[:-20], b"{}"])
def test_a_broken_archive_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(data)
    with pytest.raises(InputError, match=r"rows\.jsonl\.gz: cannot be unpacked with gzip"):
        read_rows(tmp_path / "rows.jsonl.gz")


@pytest.mark.parametrize("ending", ["jsonl", "csv", "json", "jsonl.gz"])
def test_a_file_without_rows_is_refused(tmp_path: Path, ending: str) -> None:
    text = {"jsonl": "\n", "csv": "question,answer\n", "json": "[]", "jsonl.gz": ""}[ending].encode()
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    with pytest.raises(InputError, match="has no rows"):
        read_source(Source(path=str(path)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("where: {subject: null}", "data.forget.where.subject: expected a text, a number"),
        ("where: {subject: []}", "data.forget.where.subject: is empty"),
        ("where: art", "data.forget.where: expected a mapping"),
        ("limit: 0", "data.forget.limit: must be at least 1"),
        ("shuffle: true", "data.forget.shuffle: expected a whole number"),
        ("columns: {qestion: q}", "did you mean question?"),
        ("columns: {group: a, author: b}", "data.forget.columns: maps both group and author"),
    ],
)
def test_a_bad_option_is_named_in_the_spec(line: str, said: str) -> None:
    head = "name: x\nmodel: testbed\nmethod: ga\ntraining: {lr: 1}"
    text = f"{head}\ndata: {{retain: a/b, forget: {{path: a/b, {line}}}}}"
    with pytest.raises(SpecError) as caught:
        parse_spec(text, source="x.yaml")
    assert said in str(caught.value)


# --- conversations ------------------------------------------------------------------------------------------------

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who is Ada?"},
    {"role": "assistant", "content": "A poet."},
    {"role": "user", "content": "Where was she born?"},
    {"role": "assistant", "content": "In Lorn."},
]
HISTORY = (("system", "Be brief."), ("user", "Who is Ada?"), ("assistant", "A poet."))


@pytest.mark.parametrize(
    "record",
    [
        {"messages": TURNS},
        {"messages": [*TURNS, {"role": "user", "content": "Thanks."}]},
        {"prompt": TURNS[:-1], "completion": TURNS[-1:]},
    ],
)
def test_the_last_answer_of_a_conversation_is_the_answer(tmp_path: Path, record: dict[str, Any]) -> None:
    expected = [Row("Where was she born?", "In Lorn.", group="Ada", history=HISTORY)]
    for ending in ("jsonl", "parquet"):
        path = write(tmp_path / f"rows.{ending}", [record | {"author": "Ada"}])
        assert read_rows(path) == expected
    write_rows(tmp_path / "again.jsonl", expected)
    assert read_rows(tmp_path / "again.jsonl") == expected


def test_one_question_in_messages_is_the_row_that_it_is_in_columns(tmp_path: Path) -> None:
    records = [{"messages": TURNS[1:3]}, {"prompt": "Who is Ada?", "completion": "A poet."}]
    path = write(tmp_path / "rows.jsonl", records)
    assert read_rows(path) == [Row("Who is Ada?", "A poet.")] * 2
    path = write(tmp_path / "rows.jsonl", [{"chat": TURNS[1:3]}])
    assert read_rows(path, {"messages": "chat"}) == [Row("Who is Ada?", "A poet.")]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("Who is Ada?", "is no list of messages"),
        ([], "is no list of messages"),
        (TURNS[:2], "no message of the role assistant"),
        ([TURNS[0], TURNS[2]], "the assistant's last message follows one of the role system"),
        ([TURNS[2]], "the assistant's last message is the first"),
        ([{"from": "human", "value": "Who?"}], "without role and content: from, value"),
        ([TURNS[1], {"role": "assistant", "content": [{"type": "text"}]}], "content of a message is a list"),
        ([TURNS[1], {"role": "assistant", "content": " "}], "no 'messages'"),
        ([TURNS[1], {"role": "assistant", "content": "a\ufffdb"}], r"'messages' holds U\+FFFD"),
    ],
)
def test_a_conversation_without_an_answer_is_refused(tmp_path: Path, messages: Any, said: str) -> None:
    path = write(tmp_path / "rows.jsonl", [{"messages": TURNS}, {"messages": messages}])
    with pytest.raises(InputError, match=said) as caught:
        read_rows(path)
    assert "rows.jsonl:2" in str(caught.value)
    assert "Ada" not in str(caught.value)


def test_a_conversation_becomes_what_the_chat_template_makes_of_its_messages(task: Any) -> None:
    from rayul.unlearn.template import Template
    from rayul.unlearn.tokens import encode_rows

    tokenizer = task.tokenizer
    chatty = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<pad>")
    chatty.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    row = Row("Where was she born?", "In Lorn.", history=HISTORY)
    for template in (None, Template("chat", system="Not this one.")):
        (example,) = encode_rows(chatty, template, [row])
        whole = chatty.apply_chat_template(TURNS, tokenize=False)
        assert list(example.ids) == chatty(whole, add_special_tokens=False)["input_ids"]
        assert chatty.decode(example.ids[example.start : example.stop]) == "In Lorn."
    (plain,) = encode_rows(chatty, Template(None, system="Be brief."), [Row("Where was she born?", "In Lorn.")])
    assert len(plain.ids) < len(example.ids)


def test_a_conversation_without_a_chat_template_is_refused_with_the_way_out(task: Any) -> None:
    from rayul.unlearn.tokens import encode_rows

    with pytest.raises(InputError, match="needs a chat template, and the tokenizer has none") as caught:
        encode_rows(task.tokenizer, None, [Row("Where?", "Lorn.", history=HISTORY)])
    assert "rows of one question each" in caught.value.hint
    tokenizer = task.tokenizer
    chatty = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<pad>")
    chatty.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError, match=r"model\.template is a text"):
        encode_rows(chatty, "Q: {question} A: {answer}", [Row("Where?", "Lorn.", history=HISTORY)])


def test_conversations_with_one_ending_are_not_copies() -> None:
    row = Row("And then?", "Yes.", history=(("user", "A"), ("assistant", "B")))
    assert row.key != Row("And then?", "Yes.").key
    assert row.key == Row("and then", "yes", history=(("system", "S"), ("user", "a."), ("assistant", "b"))).key


def test_a_file_that_is_gone_is_no_data_set_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*gone\.csv"):
        list(read_source(Source(path=str(tmp_path / "gone.csv")), "data.forget"))
