"""YAML text: what may stand in a file that is not a spec at all, and the round trip of awkward texts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from rayul.spec import SpecError, dump_yaml, load_spec, parse_spec
from rayul.spec.yaml_text import read_yaml

GA = Path(__file__).parents[2] / "search_spaces" / "ga.yaml"


def first_problem(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, source="x.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml:1: is empty\n  hint: copy a spec to start from"),
        ("# nothing\n", "x.yaml:1: is empty"),
        ("- a\n- b", "x.yaml:1: expected a mapping of keys"),
        ("just text", "x.yaml:1: expected a mapping of keys"),
        ("name: a\n\tmodel: b", "x.yaml:2: not YAML"),
        ("name: a\nlora:\n\tr: 8", "hint: YAML indents with spaces"),
        ("name: [a", "not YAML"),
        ("name: 'a", "not YAML"),
        ("name: a\n---\nname: b", "x.yaml:2: not YAML"),
        ("name: a\nname: b", "x.yaml:2: name: stands twice, first at x.yaml:1"),
        ("lora:\n  r: 8\n  r: 4", "x.yaml:3: lora.r: stands twice"),
        ("1: a", "x.yaml:1: a key must be text, got 1"),
        ("null: a", "a key must be text, got null"),
        ("? [a]\n: b", "a key must be text, got a list or mapping"),
        ("name: a\x00b", "not text"),
        ("a: 1\nb: \x1b[31m", "x.yaml:2: not text"),
        ('name: "\\ud800"', "is not a valid str"),
        ("name: *a", "x.yaml:1: not YAML: found undefined alias"),
        ("name: &a [*a]", "nested more than"),
        ("name: !!python/object:os.system x", "the tag !!python/object:os.system is not supported"),
        ("name: !!binary aGk=", "the tag !!binary is not supported"),
        ("name: !mine {a: 1}", "the tag !mine is not supported"),
        ("name: !!int x", "is not a valid int"),
        ("name: !!bool x", "is not a valid bool"),
        ("a: &m {b: 1}\nlora: {<<: *m}", "merge keys are not YAML 1.2"),
        ("name: " + "[" * 5000, "x.yaml:1"),
        ("name: " + "[" * 200 + "]" * 200, "nested"),
        ("name: " + "9" * 5000, "is not a valid int"),
        ("%YAML 9.9\n---\na: 1", "x.yaml:1"),
        ("name: {[a]: b}", "a key must be text"),
        ("@: a", "not YAML"),
    ],
)
def test_not_a_spec(text: str, expected: str) -> None:
    assert expected in first_problem(text)


def test_aliases_cannot_explode() -> None:
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    assert "more than 20000 values" in first_problem(f"a0: &a0 [x]\n{levels}")


def test_anchors_share_a_value() -> None:
    text = "name: ga\nmodel: &m {path: testbed}\noracle: *m\ndata: testbed\nmethod: ga\ntraining: {lr: 1e-3}"
    spec = parse_spec(text)
    assert spec.model == spec.oracle


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1.", 1.0),
        ("-.5e3", -500.0),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("yes", "yes"),
        ("off", "off"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("TRUE", True),
        ("~", None),
        ("", None),
        ("1e", "1e"),
        ("+", "+"),
        (".", "."),
    ],
)
def test_yaml_1_2_scalars(text: str, value: Any) -> None:
    read = read_yaml(f"a: {text}", "x").data["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["1e5", "12e4", "null", "True", "~", "", "0o17", "-", "a: b", "# c", "é\n\nü", "..."])
def test_texts_survive_dump_and_read(text: str) -> None:
    assert read_yaml(dump_yaml({"a": text, "b": [text]}), "x").data == {"a": text, "b": [text]}


def outcome(file: Path) -> list[str]:
    """The problems of a file as text, none for a valid spec; anything else that is raised fails the test."""
    try:
        load_spec(file).resolved()
    except SpecError as error:
        return [str(problem).encode().decode() for problem in error.problems] or ["an error without a problem"]
    return []


TOKENS = [
    "{",
    "}",
    "[",
    "]",
    ":",
    "-",
    ",",
    "&a ",
    "*a",
    "!!int ",
    "'",
    '"',
    "\t",
    "\n",
    "null",
    ".nan",
    "1e999",
    "|",
    ">",
]
TOKENS += [
    "%",
    "\x00",
    "é",
    "choice",
    "float",
    "[]",
    "{}",
    "true",
    "-1",
    "? ",
    "<<",
    "---\n",
    "~",
    "@",
    "ga",
    "0x",
    "\\ud8",
]


@pytest.mark.parametrize("seed", range(8))
def test_no_mutation_of_a_spec_makes_a_traceback(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    lines = [line for line in GA.read_text().splitlines() if not line.lstrip().startswith("#") and line]
    file = tmp_path / "x.yaml"
    for _ in range(50):
        mutated = "\n".join(lines)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(mutated))
            cut = draw.choice([0, 0, 1, 3, 10])
            mutated = mutated[:at] + draw.choice([*TOKENS, draw.choice(lines), ""]) + mutated[at + cut :]
        file.write_text(mutated, encoding="utf-8")
        assert all(line.startswith(f"{file}:") for line in outcome(file))


@pytest.mark.parametrize("seed", range(3))
def test_no_value_in_any_place_makes_a_traceback(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    values: list[Any] = [None, True, -1, 0, 1e308, float("nan"), "", "x", [], {}, [1, "a", None], {"a": {"b": []}}]
    values += [{"choice": []}, {"choice": [[], {}]}, {"float": None}, {"int": [1, 2], "step": 0}, 10**400]
    values += [
        {"float": [1, 2], "log": "x"},
        {"choice": [1, True, 1.0]},
        {"float": [1, 10**400]},
        {"name": {"choice": ["ga"]}},
    ]
    plain = load_spec(GA).resolved()
    file = tmp_path / "x.yaml"

    def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [path] * bool(path) + [p for key, child in children for p in paths(child, (*path, key))]

    for path in paths(plain):
        changed = read_yaml(dump_yaml(plain), "x").data
        target = changed
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = draw.choice(values)
        file.write_text(dump_yaml(changed))
        assert all(line.startswith(f"{file}:") for line in outcome(file))


def test_underscores_in_a_number_are_named_with_the_way_to_write_it() -> None:
    said = first_problem(GA.read_text().replace("trials: 48", "trials: 1_000"))
    assert 'search.trials: expected a whole number, got "1_000"' in said
    assert "write 1000" in said
    assert "quotes" not in said
