"""Specs and rows that nobody would write: a clean error or a valid object, never a traceback, and never long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayul.errors import InputError
from rayul.spec import Spec, parse_spec
from rayul.unlearn.data import Row, column_names, read_rows

SHIPPED = [path.read_text() for path in sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))]
QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)

HOSTILE = [
    *("", "null", "~", "-1", "0", "1e400", ".nan", ".inf", "-.inf", "1_000", "0x10", "yes", "12:30:45", "2026-11-24"),
    *("[]", "{}", "[[[[]]]]", "{choice: []}", "{float: [1, 0]}", "{int: [0, 1e9], log: true}", "{choice: [[1], 2]}"),
    *("!!python/object/apply:os.system [true]", "!!binary aGk=", "&a [*a]", "*nobody", "<<: {a: b}", "? complex"),
    *("'unclosed", '"unclosed', "{", "[", "|", ">", "%TAG", "---", "...", "- - -", "\t", "\x07", "\U0001f600"),
    *("9" * 5000, "a" * 5000, "[" * 300, "../../etc/passwd", "/dev/zero", "s3://a:b@c/d", "{a: 1, a: 2}"),
]


@st.composite
def mutated(draw: Any) -> str:
    """A shipped spec after one to five changes: values replaced, lines lost, doubled, moved or indented, text cut."""
    text: str = draw(st.sampled_from(SHIPPED))
    for _ in range(draw(st.integers(1, 5))):
        lines = text.split("\n")
        at = draw(st.integers(0, max(0, len(lines) - 1)))
        match draw(st.sampled_from(["value", "value", "value", "drop", "double", "move", "indent", "insert", "cut"])):
            case "value":
                key, colon, _ = lines[at].partition(":")
                lines[at] = key + colon + " " + draw(st.sampled_from(HOSTILE))
            case "drop":
                del lines[at]
            case "double":
                lines.insert(at, lines[at])
            case "move":
                lines.insert(draw(st.integers(0, len(lines))), lines.pop(at))
            case "indent":
                lines[at] = draw(st.sampled_from([" ", "    ", "\t"])) + lines[at]
            case "insert":
                place = draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:place] + draw(st.text(max_size=4)) + lines[at][place:]
            case "cut":
                lines = lines[: at + 1]
        text = "\n".join(lines)
    return text


def refused(error: InputError, *names: str) -> None:
    assert error.exit_code == 2
    for name in names or ("spec.yaml",):
        assert name in str(error)


def check_spec(text: str) -> None:
    began = time.process_time()
    try:
        spec = parse_spec(text, (), source="spec.yaml")
        assert isinstance(spec, Spec)
    except InputError as error:
        refused(error)
    assert time.process_time() - began < 20, "seconds of CPU: what grows when it is read takes hours"


@settings(QUIET, max_examples=150)
@given(mutated())
def test_a_mutated_spec_is_an_error_or_a_spec(text: str) -> None:
    check_spec(text)


@pytest.mark.slow
@settings(QUIET, max_examples=5000)
@given(mutated())
def test_five_thousand_mutated_specs_are_errors_or_specs(text: str) -> None:
    check_spec(text)


@settings(QUIET, max_examples=100)
@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_an_error_or_a_spec(text: str) -> None:
    check_spec(text)


def laughs(depth: int) -> str:
    """Each line ten times the one before: 10^depth once it is written out."""
    lines = ["a0: &a0 [lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "\n".join([*lines, f"name: *a{depth - 1}"])


@pytest.mark.parametrize(
    "text",
    [laughs(9), "[" * 5000, "{a: " * 3000, "a: &x {b: *x}", "x" * 10**6, "- " * 20000, "name: {choice: " * 500],
    ids=["laughs", "brackets", "mappings", "itself", "long", "lists", "choices"],
)
def test_texts_that_grow_when_they_are_read_are_clean_errors(text: str) -> None:
    check_spec(text)


@settings(QUIET, max_examples=60)
@given(
    st.sampled_from(["training.lr", "method", "search", "control", "name", "x.y.z", "data", ""]),
    st.sampled_from(HOSTILE),
)
def test_any_override_is_an_error_or_a_spec(key: str, value: str) -> None:
    try:
        parse_spec(SHIPPED[0], [f"{key}={value}"], source="spec.yaml")
    except InputError as error:
        refused(error, "")


# --- rows -----------------------------------------------------------------------------------------------------------

PLAIN = b'{"question": "Who?", "answer": "Nobody.", "perturbed_answer": ["A", "B"], "author": "a"}\n'
LINES = st.sampled_from(
    [
        PLAIN,
        b"",
        b"{",
        b"null",
        b"[]",
        b"1" * 5000,
        b"[" * 5000,
        b'{"question": 1, "answer": 2}',
        b'{"question": "a", "answer": "b", "perturbed_answer": 5}',
        b'{"question": "a", "answer": "b", "perturbed_answer": {"x": 1}, "author": ["y"]}',
        b'{"question": "a", "answer": " "}',
        b'{"text": "word"}',
        b'{"text": "two words"}',
        b'{"question": NaN}',
        b'{"question": "\\ud800", "answer": "\\ud800"}',
        b"\xff\xfe\x00\x00",
        b'{"question": "a", "answer": "' + b"x" * 100_000 + b'"}',
    ]
)


@settings(QUIET, max_examples=150)
@given(
    st.lists(LINES | st.binary(max_size=80), max_size=6).map(b"\n".join), st.sampled_from(["jsonl", "json", "parquet"])
)
def test_any_file_of_rows_is_an_error_that_names_it_or_rows(tmp_path_factory: Any, content: bytes, kind: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"rows.{kind}"
    path.write_bytes(content)
    for read in (read_rows, column_names):
        try:
            assert all(isinstance(row, (Row, str)) for row in read(path))
        except InputError as error:
            refused(error, str(path))


@settings(QUIET, max_examples=60)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_a_parquet_file_with_other_bytes_in_it_is_an_error_or_rows(
    tmp_path_factory: Any, at: int, other: bytes
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path_factory.getbasetemp() / "bytes.parquet"
    pq.write_table(pa.table({"question": ["Who?"] * 3, "answer": ["Nobody."] * 3}), path)
    content = bytearray(path.read_bytes())
    content[at : at + len(other)] = other
    path.write_bytes(bytes(content))
    try:
        assert all(isinstance(row, Row) for row in read_rows(path))
    except InputError as error:
        refused(error, str(path))
