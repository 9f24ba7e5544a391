"""`rayul init`: a spec that is valid, says what each key does, and fits the rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from yaml_comments import bare_keys

from rayul.errors import InputError
from rayul.plan.spec_warnings import spec_warnings
from rayul.plan.starter import grouping_columns, starter_spec
from rayul.spec import load_spec
from rayul.unlearn.cadence import evaluation_steps
from rayul.unlearn.data import load_sets


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """write(name, rows, question=..., answer=...) -> a JSONL file of that many rows in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, rows: int, question: str = "question", answer: str = "answer", **more: Any) -> Path:
        lines = [json.dumps({question: f"{name} {i}?", answer: f"{name} {i}."} | more) for i in range(rows)]
        Path(name).write_text("\n".join(lines) + "\n")
        return Path(name)

    return write


def spec_of(forget: Path, retain: Path, **more: Any) -> Any:
    Path("spec.yaml").write_text(starter_spec("mine", forget, retain, **more))
    return load_spec("spec.yaml")


@pytest.mark.parametrize("rows", [1, 2, 6, 30, 80, 400, 5000])
def test_it_is_valid_and_fits_the_rows(write: Callable[..., Path], rows: int) -> None:
    spec = spec_of(write("f.jsonl", rows), write("r.jsonl", 3 * rows + 20), model="some/model")
    assert (spec.name, spec.model.path) == ("mine", "some/model")
    assert len(load_sets(spec.data)["forget"]) == rows
    training = spec.training
    assert 1 <= training.batch_size <= min(16, rows)
    assert training.steps * training.batch_size >= rows or training.steps == 200
    assert evaluation_steps(spec)[1] == round(training.steps / 4)
    assert (spec.evaluate.max_rows is None) == (rows <= 400)
    assert spec.method.names == ("ga", "gd", "npo")
    assert spec.control.mixing is True
    assert [line for line in spec_warnings(spec) if "no effect" in line] == []


@pytest.mark.parametrize("mapped", [False, True])
def test_every_key_has_a_comment_above_it(write: Callable[..., Path], mapped: bool) -> None:
    names = {"question": "prompt", "answer": "response"} if mapped else {}
    spec_of(write("f.jsonl", 10, **names), write("r.jsonl", 10, **names))
    bare, count = bare_keys(Path("spec.yaml").read_text())
    assert count > 30
    assert bare == []


@pytest.mark.parametrize(
    ("question", "answer"),
    [("prompt", "response"), ("Question", "Answer"), ("instruction", "output"), ("input", "target"), ("yes", "null")],
)
def test_columns_are_mapped(write: Callable[..., Path], question: str, answer: str) -> None:
    names = {"question": question, "answer": answer}
    files = write("f.jsonl", 5, **names), write("r.jsonl", 10, **names)
    if question == "yes":
        with pytest.raises(InputError, match="no column for question and answer; the columns are yes, null"):
            starter_spec("x", *files)
        return
    spec = spec_of(*files)
    assert spec.data.columns == {"question": question, "answer": answer}
    assert load_sets(spec.data)["forget"][0].question == "f.jsonl 0?"


def test_columns_that_have_our_names_need_no_map(write: Callable[..., Path]) -> None:
    spec = spec_of(write("f.jsonl", 5, author="x", prompt="p"), write("r.jsonl", 10, prompt="p"))
    assert spec.data.columns == {}
    spec = spec_of(write("f.jsonl", 5, person="x"), write("r.jsonl", 10))
    assert spec.data.forget.columns == {"group": "person"}


def test_each_file_may_have_columns_of_its_own(write: Callable[..., Path]) -> None:
    spec = spec_of(write("f.jsonl", 3, "prompt", "response"), write("r.jsonl", 20))
    assert spec.data.forget.columns == {"question": "prompt", "answer": "response"}
    assert (spec.data.columns, spec.data.retain.columns) == ({}, {})
    assert len(load_sets(spec.data)["forget"]) == 3
    assert bare_keys(Path("spec.yaml").read_text())[0] == []


def test_a_group_column_keeps_its_rows_together(write: Callable[..., Path]) -> None:
    """Without it customers of many rows would stand in training and judging sets at once."""
    retain = "".join(json.dumps({"q": f"q {i}?", "a": "yes", "customer_id": i % 12}) + "\n" for i in range(60))
    Path("r.jsonl").write_text(retain)
    forget = write("f.jsonl", 6, "q", "a", customer_id=99)
    spec = spec_of(forget, Path("r.jsonl"), group="customer_id")
    sets = load_sets(spec.data)
    groups = [
        {row.group for row in sets[name]} for name in ("retain_train", "retain", "retain_certify", "retain_report")
    ]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 12
    with pytest.raises(InputError, match="no column 'customer' for --group") as caught:
        spec_of(forget, Path("r.jsonl"), group="customer")
    assert "q, a, customer_id" in caught.value.hint
    with pytest.raises(InputError, match=r"1 group has rows in forget and in retain"):
        spec_of(write("f.jsonl", 6, "q", "a", customer_id=3), Path("r.jsonl"), group="customer_id")


def test_a_column_that_may_group_rows_is_pointed_out(write: Callable[..., Path]) -> None:
    def columns(**more: Any) -> list[str]:
        asked = [
            {"q": f"q {i}?", "a": "yes", "id": i, "customer_id": i // 3, "one": 1, "of": [i % 2]} for i in range(12)
        ]
        lines = [line | more for line in asked]
        Path("r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return grouping_columns(write("f.jsonl", 6, "q", "a", id=3, customer_id=99, one=1, of=[1]), Path("r.jsonl"))

    assert columns() == ["customer_id"]
    assert columns(author="x") == [], "there is a group"
    argv = [sys.executable, "-m", "rayul", "init", "--forget", "f.jsonl", "--retain", "r.jsonl", "--model", "m"]
    columns()
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    assert "repeat this with --group customer_id" in said.replace("\n", " ")


@pytest.mark.parametrize("name", ["ga", "gd"])
def test_one_of_the_methods_can_be_chosen_on_the_command_line(write: Callable[..., Path], name: str) -> None:
    spec_of(write("f.jsonl", 30), write("r.jsonl", 60))
    spec = load_spec("spec.yaml", [f"method.name={name}"])
    assert spec.method.names == (name,)
    assert ("method.retain_weight" in spec.space, "method.beta" in spec.space) == (name == "gd", False)
    with pytest.raises(InputError, match="ga has no parameter beta"):
        load_spec("spec.yaml", ["method.name=ga", "method.beta=0.1"])
    with pytest.raises(InputError, match="have no parameter betta"):
        load_spec("spec.yaml", ["method.betta=0.1"])


def test_tables_and_conversations_are_read(write: Callable[..., Path]) -> None:
    Path("f.csv").write_text("prompt,completion,person\n" + "".join(f"f {i}?,yes,p{i}\n" for i in range(5)))
    talk = [
        {"messages": [{"role": "user", "content": f"r {i}?"}, {"role": "assistant", "content": "no"}]}
        for i in range(20)
    ]
    Path("r.jsonl").write_text("".join(json.dumps(one) + "\n" for one in talk))
    sets = load_sets(spec_of(Path("f.csv"), Path("r.jsonl")).data)
    assert [row.group for row in sets["forget"]] == ["p0", "p1", "p2", "p3", "p4"]
    assert sum(map(len, sets.values())) == 25


def test_passages_have_a_text(write: Callable[..., Path]) -> None:
    for name, rows in (("f.jsonl", 3), ("r.jsonl", 10)):
        passages = [json.dumps({"passage": f"{name}: the {i}th of many words that go on and on"}) for i in range(rows)]
        Path(name).write_text("\n".join(passages))
    spec = spec_of(Path("f.jsonl"), Path("r.jsonl"))
    assert spec.data.columns == {"text": "passage"}
    assert load_sets(spec.data)["forget"][0].text


def test_what_cannot_be_used_is_refused(write: Callable[..., Path]) -> None:
    good = write("r.jsonl", 20)
    with pytest.raises(InputError, match=r"missing.jsonl: no such file"):
        starter_spec("x", Path("missing.jsonl"), good)
    with pytest.raises(InputError, match="the columns are prompt, label"):
        starter_spec("x", write("f.jsonl", 3, "prompt", "label"), good)
    with pytest.raises(InputError, match="no such file"):
        starter_spec("x", Path(), good)
    Path("f.jsonl").write_text("[1, 2]\n")
    with pytest.raises(InputError, match=r"f.jsonl:1: a list, not an object"):
        starter_spec("x", Path("f.jsonl"), good)
    with pytest.raises(InputError, match="also stand in a set to retain"):
        starter_spec("x", good, good)
    with pytest.raises(InputError, match="cannot be split"):
        starter_spec("x", write("f.jsonl", 3), write("one.jsonl", 1))


def test_parquet_and_names_that_yaml_would_misread(write: Callable[..., Path]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"q": ["a?", "b?"], "a": ["a.", "b."]}), "f: 1 #.parquet")
    spec = spec_of(Path("f: 1 #.parquet"), write("r.jsonl", 10, "q", "a"), model="123")
    assert spec.data.forget.path == "f: 1 #.parquet"
    assert spec.model.path == "123"


def test_the_command(write: Callable[..., Path]) -> None:
    write("f.jsonl", 5), write("r.jsonl", 10)

    def init(*flags: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "rayul", "init", "--forget", "f.jsonl", "--retain", "r.jsonl", *flags]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    done = init("--out", "my-spec.yaml")
    assert done.returncode == 0, done.stderr
    assert "rayul plan my-spec.yaml" in done.stdout
    assert "Set model.path" in done.stderr
    assert (
        "No certificate: 2 groups of rows would be kept for it (20% of those in --retain), and it takes 5: "
        in done.stderr
    )
    assert load_spec("my-spec.yaml").name == "my-spec"
    again = init("--out", "my-spec.yaml")
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    assert init("--out", "no/such/folder/x.yaml").returncode == 1
