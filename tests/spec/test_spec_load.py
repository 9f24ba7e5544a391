"""Loading: types, shorthand, overrides, and one precise message for each thing that can be wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from rayul.errors import InputError
from rayul.spec import SourceData, SpecError, load_spec, parse_spec

MINIMAL = """\
name: ga
model: testbed
data: testbed
method: ga
training:
  lr: 1e-4
"""


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, overrides, source="x.yaml")
    return [str(problem) for problem in caught.value.problems]


def problem(text: str, *overrides: str) -> str:
    found = problems(text, *overrides)
    assert len(found) == 1, found
    return found[0]


def with_lines(lines: str) -> str:
    """The minimal spec and, from line 7, more lines."""
    return MINIMAL + lines


def test_minimal_spec_has_defaults() -> None:
    spec = parse_spec(MINIMAL)
    assert spec.training.lr == 0.0001
    assert spec.training.evaluate_every == 5
    assert spec.lora.r == 8
    assert spec.model.path == spec.data.folder == "testbed"  # type: ignore[union-attr]
    assert spec.objectives == {"forget.es": "minimize", "retain.es": "maximize"}
    assert spec.space == {}


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-04", ".0001", "+1e-4"])
def test_every_way_to_write_a_float(text: str) -> None:
    assert parse_spec(MINIMAL.replace("1e-4", text)).training.lr == 1e-4


def test_whole_number_for_a_float_becomes_a_float() -> None:
    resources = parse_spec(with_lines("resources: {gpu: 1}")).resources
    assert isinstance(resources.gpu, float)
    assert resources.gpu == 1


def test_shorthand_means_its_mapping() -> None:
    short = parse_spec(with_lines("control: [{metric: retain.es, at_least: 0.9}]"))
    long = parse_spec("""
name: ga
model: {path: testbed}
data: {folder: testbed}
method: {name: ga}
training: {lr: 1e-4}
control: {criteria: [{metric: retain.es, at_least: 0.9}]}
""")
    assert short == long


def test_files_are_read_with_and_without_byte_order_mark(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x.yaml").write_text(MINIMAL, encoding=encoding)
        assert load_spec(tmp_path / "x.yaml").name == "ga"
        assert load_spec(str(tmp_path / "x.yaml")).name == "ga"


def test_all_problems_of_a_file_at_once_in_the_order_of_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("""\
nmae: ga
model: testbed
data: testbed
method: {name: {choice: [ga, gdd]}}
lora:
  r: {int: [0, 4]}
  alpha: "8"
training: {lr: {float: [0, 5e-3], log: true}}
control:
  - metric: retain.ess
    at_least: 90% of baseline
search: {sampler: tpee}
""")
    with pytest.raises(InputError) as caught:
        load_spec(file)
    lines = [line for line in str(caught.value).splitlines() if not line.startswith("  hint: ")]
    assert [line.removeprefix(f"{file}:").split(": ")[:2] for line in lines] == [
        ["1", "name"],
        ["1", "nmae"],
        ["4", "method.name"],
        ["6", "lora.r"],
        ["7", "lora.alpha"],
        ["8", "training.lr"],
        ["10", "control.criteria.0.metric"],
        ["12", "search.sampler"],
    ]
    assert caught.value.exit_code == 2


def test_error_survives_a_process_boundary() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec("name: 3")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.problems == caught.value.problems


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("lara: {}", "x.yaml:7: lara: unknown key\n  hint: did you mean lora?"),
        ("lora:\n  rank: 8\n  alhpa: 8", "did you mean alpha?"),
        ("lora:", "x.yaml:7: lora: expected a mapping, got nothing"),
        ("lora: 8", "x.yaml:7: lora: expected a mapping, got 8"),
        ("lora: {r: 8.5}", "lora.r: expected a whole number, got 8.5"),
        ("lora: {r: true}", "lora.r: expected a whole number, got true"),
        ("lora: {r: '8'}", 'lora.r: expected a whole number, got "8"\n  hint: remove the quotes: 8'),
        ("lora: {r: 0}", "lora.r: must be at least 1, got 0"),
        ("lora: {dropout: 1}", "lora.dropout: must be less than 1, got 1"),
        ("lora: {target_modules: q_proj}", "hint: write [q_proj]"),
        ("lora: {target_modules: []}", "lora.target_modules"),
        ("lora: {target_modules: [1]}", "expected all-linear or a list of module names, got [1]"),
        ("control: [{metric: retain.es}]", "control.criteria.0: neither at_least nor at_most is given"),
        ("control: [{metric: retain.es, at_least: 0.1, at_most: 1}]", "both at_least and at_most"),
        (
            "control: [{metric: retain.se, at_least: 0.1}]",
            'unknown metric "retain.se"\n  hint: did you mean retain.es?',
        ),
        ("control: [{metric: retain_report.es, at_least: 0.1}]", "kept for the final report"),
        ("control: [{metric: holdout.es, at_least: 0.1}]", "no model was trained on these rows"),
        ("control: [{metric: retain.es, at_least: 90%}]", "a percentage above zero such as 90% of baseline"),
        ("control: [{metric: retain.es, at_least: -5% of baseline}]", "is not a limit"),
        ("control: [{metric: retain.es, at_least: .nan}]", "must be finite"),
        ("control: {mixing: yes}", 'expected true or false, got "yes"\n  hint: write true'),
        ("control: {confidence: 0.5}", "control.confidence: must be more than 0.5, got 0.5"),
        ("objectives: {}", "objectives: is empty"),
        ("objectives: {forget.es: minimise}", "objectives.forget.es: unknown value"),
        ("objectives: {forget.se: minimize}", "did you mean forget.es?"),
        ("evaluate: {metrics: [es, rogue]}", 'evaluate.metrics.1: unknown metric "rogue"'),
        ("evaluate: {metrics: [prob]}", "objectives.forget.es: forget.es is not measured\n  hint: add es to"),
        (
            "evaluate: {sets: [generel]}",
            'evaluate.sets.0: "generel" is no set to evaluate\n  hint: did you mean general',
        ),
        ("search: {sampler: TPE}", "did you mean tpe?"),
        ("search: {trials: {int: [1, 9]}}", "search.trials: cannot be searched"),
        ("search: {seed: -1}", "search.seed: must be at least 0, got -1"),
        ("resources: {gpu: .inf}", "resources.gpu: must be finite"),
        ("oracle: {path: testbed, template: '{question}'}", "oracle.template: a template has {question} and"),
        ("oracle: {path: testbed, dtype: bf16}", "did you mean bfloat16?"),
        ("oracle: {choice: [a, b]}", "x.yaml:7: oracle: cannot be searched"),
    ],
)
def test_messages(lines: str, expected: str) -> None:
    assert any(expected in found for found in problems(with_lines(lines)))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: ga\nm", "m", "x.yaml:1: name: is missing\n  hint: for example `name: ga`"),
        ("name: ga", "name: a/b", 'x.yaml:1: name: "a/b" cannot name a folder'),
        ("name: ga", "name: ..", "cannot name a folder"),
        ("name: ga", "name: 2024", 'expected text, got 2024\n  hint: put it in quotes: "2024"'),
        ("name: ga", "name: {choice: [a, b]}", "x.yaml:1: name: cannot be searched"),
        ("  lr: 1e-4", "  steps: 3", "x.yaml:5: training.lr: is missing"),
        ("lr: 1e-4", "lr: '1e-4'", "hint: remove the quotes: 1e-4"),
        ("lr: 1e-4", "lr: 1_000", 'x.yaml:6: training.lr: expected a number, got "1_000"'),
        ("lr: 1e-4", "lr: {uniform: [1, 2]}", "only float, int and choice make a search distribution"),
        ("model: testbed", "model: 3", "x.yaml:2: model.path: expected text, got 3"),
        ("model: testbed", "model: ''", "model.path: is empty"),
        ("data: testbed", "data: tesbed", "did you mean testbed?"),
        ("data: testbed", "data: [a]", "data.folder: expected text"),
        ("data: testbed", "data:", "data: expected testbed, a folder or a mapping, got nothing"),
    ],
)
def test_messages_of_required_keys(old: str, new: str, expected: str) -> None:
    assert expected in problem(MINIMAL.replace(old, new))


def test_digits_of_other_scripts_are_no_numbers_to_take_out_of_quotes() -> None:
    assert problem(MINIMAL.replace("lr: 1e-4", "lr: １")).endswith('expected a number, got "\\uff11"')


def test_missing_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    found = problems(
        MINIMAL.replace("model: testbed", "model: ./model").replace(
            "data: testbed", "data: {forget: empty.jsonl, retain: gone.jsonl}"
        )
        + "oracle: ~nobody-here/model"
    )
    assert [line.split("\n")[0] for line in found] == [
        'x.yaml:2: model.path: "./model" does not exist',
        'x.yaml:3: data.forget.path: "empty.jsonl" is an empty file',
        'x.yaml:3: data.retain.path: "gone.jsonl" does not exist',
        'x.yaml:7: oracle.path: "~nobody-here/model" does not exist',
    ]
    assert f"paths start at the current folder, {tmp_path}" in found[0]


def test_a_model_folder_is_a_model_with_a_tokenizer(tmp_path: Path) -> None:
    text = MINIMAL.replace("model: testbed", f"model: {tmp_path}")
    assert "has no config.json" in problem(text)
    (tmp_path / "config.json").write_text("{}")
    assert "has no tokenizer" in problem(text)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert parse_spec(text).model.path == str(tmp_path)


def test_hub_ids_need_no_file() -> None:
    text = MINIMAL.replace("model: testbed", "model: someone/model").replace("data: testbed", "data: {tofu: a/b}")
    assert parse_spec(text).model.path == "someone/model"


def test_spec_of_results_made_elsewhere_is_readable() -> None:
    text = MINIMAL.replace("model: testbed", "model: ./elsewhere")
    assert parse_spec(text, check_files=False).model.path == "./elsewhere"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gone\.yaml: cannot be read: No such file"):
        load_spec(tmp_path / "gone.yaml")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_spec(tmp_path)
    (tmp_path / "big.yaml").write_bytes(b"#" * 2_000_000)
    with pytest.raises(SpecError, match="larger than"):
        load_spec(tmp_path / "big.yaml")
    (tmp_path / "junk.yaml").write_bytes(b"name: ga\n\x80\xff\x00")
    with pytest.raises(SpecError, match=r"junk\.yaml:2: not UTF-8"):
        load_spec(tmp_path / "junk.yaml")


def test_overrides_replace_values_mappings_and_list_entries() -> None:
    text = with_lines("control: [{metric: retain.es, at_least: 0.9}]\nlora: {r: {choice: [4, 8]}}")
    overrides = [
        "training.lr=1e-3",
        "lora.r=16",
        "control.criteria.0.at_least=80% of baseline",
        "model.dtype=bfloat16",
        "search.trials=3",
        "objectives.retain.es=minimize",
        "method=gd",
    ]
    spec = parse_spec(text, overrides)
    assert (spec.training.lr, spec.lora.r, spec.search.trials, spec.method.name) == (1e-3, 16, 3, "gd")
    assert spec.control.criteria[0].limit.on({"retain.es": 0.5}) == pytest.approx(0.4)
    assert (spec.model.path, spec.model.dtype) == ("testbed", "bfloat16")
    assert spec.objectives == {"retain.es": "minimize"}


def test_an_override_of_a_path_keeps_what_else_is_said_of_the_rows() -> None:
    text = MINIMAL.replace("testbed\nmethod", "{forget: {path: f.csv, columns: {question: q}}, retain: r.csv}\nmethod")
    keeping = ["data.forget.path=new.csv", "data.retain.path=kept.csv", "data.retain.shuffle=3"]
    data = parse_spec(text, keeping, check_files=False).data
    assert isinstance(data, SourceData)
    assert data.forget.path == "new.csv"
    assert data.forget.columns == {"question": "q"}
    assert data.retain is not None
    assert (data.retain.path, data.retain.shuffle) == ("kept.csv", 3)
    data = parse_spec(text, ["data.forget=new.csv"], check_files=False).data
    assert isinstance(data, SourceData)
    assert data.forget.columns == {}, "a plain text is an entry of its own"


def test_override_may_put_a_distribution() -> None:
    assert list(parse_spec(MINIMAL, ["training.lr={float: [1e-4, 1e-2], log: true}"]).space) == ["training.lr"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.lr=x", '--set training.lr=x: training.lr: expected a number, got "x"'),
        ("trianing.lr=1", "--set trianing.lr=1: trianing: unknown key\n  hint: did you mean training?"),
        ("training.lr", "--set training.lr: expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("training..lr=3", "expected key.path=value"),
        ("training.lr.x=3", "--set training.lr.x=3: training.lr: has no key x: it is 0.0001"),
        ("control.0.x=3", "--set control.0.x=3: control.0"),
        ("training.lr=[", "--set training.lr=[: training.lr: not YAML"),
        ("training.lr={a: 1, a: 2}", "stands twice"),
        ("objectives=", "--set objectives=: objectives: expected a mapping, got nothing"),
    ],
)
def test_messages_of_overrides(override: str, expected: str) -> None:
    assert any(expected in found for found in problems(MINIMAL, override))


@pytest.mark.parametrize(
    ("method", "gamma"),
    [
        ("{name: ga, gru: true, gru_smoothing: 0.8}", 0.2),  # the weight of the past, before
        ("{name: ga, gru: true, gru_smoothing: 0}", 1.0),
        ("{name: ga, gru: false, gru_smoothing: 0.8}", None),  # written out as a default, without effect
        ("{name: ga, gru_smoothing: 0.8}", None),
        ("{name: ga, gradient: gru}", 0.8),
        ("ga", None),
    ],
)
def test_what_weighed_the_past_in_gru_is_read_as_what_weighs_the_newest(method: str, gamma: float | None) -> None:
    spec = parse_spec(f"{{name: a, model: m, data: testbed, method: {method}, training: {{lr: 1e-3}}}}")
    assert spec.method.parameters.get("gru_gamma") == gamma
    assert spec.method.gradients == ("plain" if gamma is None else "gru",)
    assert "gru_smoothing" not in spec.resolved()["method"]


def test_a_searched_weight_of_the_past_is_refused_with_its_new_name() -> None:
    method = "{name: ga, gru: true, gru_smoothing: {float: [0.1, 0.9]}}"
    with pytest.raises(SpecError, match="gru_smoothing: is now gru_gamma"):
        parse_spec(f"{{name: a, model: m, data: testbed, method: {method}, training: {{lr: 1e-3}}}}")
