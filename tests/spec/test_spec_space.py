"""Search distributions, conditional parameters, the spec of one trial, and the round trip."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml

from rayul.spec import (
    METHODS,
    Choice,
    Float,
    Int,
    Prior,
    Spec,
    SpecError,
    difference,
    dump_yaml,
    load_spec,
    parse_spec,
    without_priors,
)
from rayul.spec.gradients import OWNER

TEMPLATE = "name: x\nmodel: testbed\ndata: testbed\nmethod: {method}\ntraining: {training}\n{more}"


def spec(method: str = "ga", training: str = "{lr: 1e-3}", more: str = "") -> Spec:
    text = TEMPLATE
    for key, value in {"method": method, "training": training, "more": more}.items():
        text = text.replace("{" + key + "}", value)
    return parse_spec(text, source="x.yaml")


def problem(**sections: str) -> str:
    with pytest.raises(SpecError) as caught:
        spec(**sections)
    assert len(caught.value.problems) == 1, str(caught.value)
    return str(caught.value)


SEARCHED = {
    "method": "{name: {choice: [ga, gd, npo]}, retain_weight: {float: [0, 4]}, retain_loss: {choice: [nll, kl]}}",
    "training": "{lr: {float: [1e-4, 5e-3], log: true}, batch_size: {choice: [4, 8]},"
    " steps: {int: [10, 60], step: 10}}",
    "more": "lora: {r: {choice: [4, 8]}}\n"
    "control: [{metric: retain.es, at_least: {choice: [90% of baseline, 95% of baseline, 0.5]}}]\n",
}


def test_space_has_every_distribution_in_order() -> None:
    assert spec(**SEARCHED).space == {
        "method.name": Choice(("ga", "gd", "npo")),
        "method.retain_weight": Float(0.0, 4.0),
        "method.retain_loss": Choice(("nll", "kl")),
        "lora.r": Choice((4, 8)),
        "training.lr": Float(1e-4, 5e-3, log=True),
        "training.batch_size": Choice((4, 8)),
        "training.steps": Int(10, 60, step=10),
        "control.criteria.0.at_least": Choice(("90% of baseline", "95% of baseline", 0.5)),
    }
    assert next(iter(spec(**SEARCHED).space)) == "method.name"


@pytest.mark.parametrize(
    ("lr", "expected"),
    [
        ("{float: [1, 0.5]}", "empty range: 1 is above 0.5\n  hint: write [0.5, 1]"),
        ("{float: [1, 1]}", "empty range: both ends are 1\n  hint: write the value alone: 1"),
        ("{float: [0, 1], log: true}", "a log range cannot reach 0"),
        ("{float: [-1, 1], log: true}", "a log range cannot reach -1"),
        ("{float: [0, 1]}", "must be more than 0, got 0"),
        ("{float: [true, 2]}", "an end of the range: expected a number, got true"),
        ("{float: ['1', 2]}", "remove the quotes: 1"),
        ("{float: [1, .inf]}", "must be finite"),
        ("{float: [1]}", "a range has two ends, got [1]"),
        ("{float: 3}", "a range has two ends, got 3"),
        ("{float: [1, 2], lgo: true}", "unknown key lgo in a float distribution\n  hint: did you mean log?"),
        ("{float: [1, 2], log: 1}", "log must be true or false, got 1"),
        ("{float: [1, 2], step: 2}", "step must be in (0, 1], got 2"),
        ("{float: [1, 2], step: 0}", "step must be in (0, 1], got 0"),
        ("{float: [1, 2], log: true, step: 0.1}", "log and step exclude each other"),
        ("{float: [1, 2], prior: 1.5}", "a prior has a center and a spread, got 1.5\n  hint: write prior: {center"),
        ("{float: [1, 2], prior: {center: 1}}", "a prior has a center and a spread"),
        ("{float: [1, 2], prior: {center: 3, spread: 1}}", "center of the prior: 3 is outside of [1, 2]"),
        ("{float: [1, 2], prior: {center: 1, spread: 0}}", "spread of the prior must be more than 0, got 0"),
        ("{float: [1, 2], prior: {center: x, spread: 1}}", "center of the prior: expected a number"),
        ("{float: [1, 2], log: true, prior: {center: 1, spread: 0.5}}", "must be a factor above 1 on a log range"),
        ("{choice: [1, 2], prior: {center: 1, spread: 1}}", "unknown key prior in a choice distribution"),
        ("{float: [1, 2], int: [1, 2]}", "both float and int"),
        ("{int: [0.5, 2]}", "expected a whole number, got 0.5"),
        ("{choice: []}", "a choice without options"),
        ("{choice: 3}", "choice takes a list"),
        ("{choice: [1, 1.0]}", "stands twice"),
        ("{choice: [1, [2]]}", "an option must be"),
        ("{choice: [1, two]}", 'expected a number, got "two"'),
        ("{choice: [1, 0]}", "must be more than 0, got 0"),
        ("{choice: [1, true]}", "expected a number, got true"),
        ("{choice: [1, 2], log: true}", "unknown key log in a choice distribution"),
        ("{choice: [1, .nan]}", "an option must be finite"),
    ],
)
def test_a_bad_distribution_is_one_problem_at_its_line(lr: str, expected: str) -> None:
    found = problem(training=f"\n  steps: 5\n  lr: {lr}")
    assert found.startswith("x.yaml:7: training.lr: ")
    assert expected in found


def test_a_prior_is_written_back_and_can_be_left_out() -> None:
    more = "lora: {r: {int: [2, 64], log: true, prior: {center: 8, spread: 2}}}"
    primed = spec(training="{lr: {float: [1, 2], prior: {center: 1.5, spread: 0.2}}}", more=more)
    assert primed.priors == {
        "lora.r": Int(2, 64, log=True, prior=Prior(8.0, 2.0)),
        "training.lr": Float(1.0, 2.0, prior=Prior(1.5, 0.2)),
    }
    assert parse_spec(dump_yaml(primed.resolved()), source="x.yaml") == primed
    even = without_priors(primed)
    assert even == spec(training="{lr: {float: [1, 2]}}", more="lora: {r: {int: [2, 64], log: true}}")
    assert even.priors == {}


def test_ends_and_options_obey_the_field() -> None:
    assert "lora.r: must be at least 1, got 0" in problem(more="lora: {r: {int: [0, 4]}}")
    assert "lora.r: expected a whole number, got 1.0" in problem(more="lora: {r: {float: [1, 4]}}")
    assert "lora.dropout: must be less than 1" in problem(more="lora: {dropout: {float: [0, 1]}}")
    assert "training.steps: expected a whole number" in problem(training="{lr: 1, steps: {choice: [8, '8']}}")
    assert "is not a limit" in problem(more="control: [{metric: retain.es, at_least: {choice: [90%, 0.5]}}]")


def test_sections_and_metrics_cannot_be_searched() -> None:
    assert "training: cannot be searched" in problem(training="{choice: [1, 2]}")
    more = "control: [{metric: {choice: [retain.es, retain.em]}, at_least: 0.5}]"
    assert "control.criteria.0.metric: cannot be searched" in problem(more=more)


def test_a_grid_needs_single_values() -> None:
    more = "search: {sampler: grid}"
    assert "x.yaml:5: training.lr: a grid needs" in problem(training="{lr: {float: [1e-4, 1e-3]}}", more=more)
    assert spec(training="{lr: {float: [1, 2], step: 0.5}, steps: {int: [1, 4]}}", more=more).space


def test_compiled_is_refused_for_what_a_trial_would_hang_on_its_neighbours_for() -> None:
    compiled = "resources: {compile: true}"
    assert spec(more=compiled).resources.compile
    hidden = problem(method="{name: {choice: [ga, rmu]}}", more=compiled)
    assert "method.name: rmu reads hidden states" in hidden
    dropout = problem(more="lora: {dropout: {choice: [0, 0.1]}}\n" + compiled)
    assert "lora.dropout: dropout draws from a generator of each trial" in dropout
    assert "resources.compile: false" in hidden
    assert "resources.compile: false" in dropout


def test_a_parameter_is_active_where_its_method_was_drawn() -> None:
    searched = spec(**SEARCHED)
    assert searched.is_active("method.name", {})
    assert searched.is_active("training.lr", {})
    assert not searched.is_active("method.retain_weight", {"method.name": "ga"})
    assert searched.is_active("method.retain_weight", {"method.name": "gd"})
    assert not searched.is_active("method.retain_loss", {"method.name": "gd"})
    assert searched.is_active("method.retain_loss", {"method.name": "npo"})
    assert spec("{name: gd, retain_weight: {float: [0, 1]}}").is_active("method.retain_weight", {})


PARAMS = {
    "method.name": "gd",
    "method.retain_weight": 2.0,
    "lora.r": 4,
    "training.lr": 1e-3,
    "training.batch_size": 8,
    "training.steps": 20,
    "control.criteria.0.at_least": "95% of baseline",
}


def test_at_puts_the_drawn_values() -> None:
    trial = spec(**SEARCHED).at(PARAMS)
    assert trial.space == {}
    assert (trial.method.name, trial.lora.r, trial.training.lr, trial.training.steps) == ("gd", 4, 1e-3, 20)
    assert trial.method.parameters == {"retain_weight": 2.0, "gradient": "plain"}
    assert trial.control.criteria[0].limit.on({"retain.es": 0.8}) == pytest.approx(0.76)
    assert trial.at({}) == trial


def test_at_leaves_out_what_the_drawn_method_does_not_have() -> None:
    params = {**PARAMS, "method.name": "ga"}
    assert spec(**SEARCHED).at(params).method.parameters == {"gradient": "plain"}
    del params["method.retain_weight"]
    assert spec(**SEARCHED).at(params).method.name == "ga"
    parameters = spec(**SEARCHED).at({**PARAMS, "method.name": "npo", "method.retain_loss": "kl"}).method.parameters
    assert parameters["beta"] == 0.1
    assert parameters["retain_loss"] == "kl"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"training.lr": 1.0}, "training.lr: 1.0 is outside of {float: [0.0001, 0.005], log: true}"),
        ({"training.lr": float("nan")}, "training.lr: NaN is outside"),
        ({"training.lr": "fast"}, 'training.lr: "fast" is outside'),
        ({"training.steps": 15}, "training.steps: 15 is outside of {int: [10, 60], step: 10}"),
        ({"training.steps": 20.0}, "training.steps: 20.0 is outside"),
        ({"lora.r": 5}, "lora.r: 5 is outside of {choice: [4, 8]}"),
        ({"method.name": "rmu"}, 'method.name: "rmu" is outside'),
        ({"lora.alpha": 5}, "lora.alpha: is not searched"),
        ({"lora.rr": 5}, "did you mean lora.r?"),
    ],
)
def test_at_refuses_what_the_space_does_not_hold(change: dict[str, object], expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(**SEARCHED).at(PARAMS | change)
    assert expected in str(caught.value)


def test_at_refuses_a_missing_value() -> None:
    with pytest.raises(SpecError, match=r"training\.lr: has no value"):
        spec(**SEARCHED).at({k: v for k, v in PARAMS.items() if k != "training.lr"})
    with pytest.raises(SpecError, match=r"method\.name: has no value"):
        spec(**SEARCHED).at({})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_defaults(name: str) -> None:
    parameters = spec(name).method.parameters
    own = {key: p for key, p in METHODS[name].parameters.items() if key not in OWNER}
    assert parameters == {key: parameter.default for key, parameter in own.items()}
    for parameter in METHODS[name].parameters.values():
        assert parameter.check(parameter.default) == parameter.default
        assert parameter.summary


def test_a_default_on_which_methods_differ_is_left_to_the_method() -> None:
    searched = spec("{name: {choice: [npo, simnpo]}}")
    assert "beta" not in searched.method.parameters
    assert searched.at({"method.name": "npo"}).method.parameters["beta"] == 0.1
    assert searched.at({"method.name": "simnpo"}).method.parameters["beta"] == 2.5
    assert spec("{name: {choice: [npo, simnpo]}, beta: 1}").at({"method.name": "npo"}).method.parameters["beta"] == 1.0


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("{name: gda}", 'method.name: unknown method "gda"\n  hint: did you mean gd?'),
        ("{name: {choice: [ga, gda]}}", 'method.name: unknown method "gda"'),
        ("{name: {int: [1, 2]}}", "method.name: expected the name of a method"),
        ("{name: }", "method.name: expected the name of a method, got nothing"),
        ("{retain_weight: 1}", "method.name: is missing"),
        (
            "{name: ga, retain_weight: 1}",
            "method.retain_weight: ga has no parameter retain_weight\n  hint: it belongs to gd,",
        ),
        (
            "{name: gd, retain_wieght: 1}",
            "method.retain_wieght: gd has no parameter retain_wieght\n  hint: did you mean",
        ),
        ("{name: {choice: [ga, gd]}, beta: 1}", "method.beta: ga and gd have no parameter beta"),
        ("{name: gd, retain_weight: -1}", "method.retain_weight: must be finite and at least 0, got -1"),
        ("{name: gd, retain_weight: .inf}", "must be finite"),
        ("{name: gd, retain_weight: {float: [-1, 1]}}", "must be finite and at least 0, got -1"),
        ("{name: gd, retain_weight: '1'}", "remove the quotes: 1"),
        ("{name: gd, retain_weight: true}", "expected a number, got true"),
        ("{name: gd, gru: 1}", "method.gru: expected true or false, got 1"),
        ("{name: npo, beta: 0}", "method.beta: must be"),
        ("{name: npo, retain_loss: kll}", "did you mean kl?"),
        ("{name: rmu, layer: 1.5}", "method.layer: expected a whole number, got 1.5"),
        ("{choice: [ga, gd]}", "method: expected a mapping, got a distribution"),
        ("[ga]", "method.name: expected the name of a method"),
    ],
)
def test_messages_of_the_method(method: str, expected: str) -> None:
    assert expected in problem(method=method)


def test_all_problems_of_the_method_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        spec("{name: npo, beta: x, retain_loss: y, gama: 1}")
    assert [p.key for p in caught.value.problems] == ["method.beta", "method.retain_loss", "method.gama"]


@pytest.mark.parametrize("method", ["ga", "{name: {choice: [npo, simnpo, rmu]}, layer: {choice: [null, 1]}}", None])
def test_resolved_yaml_loads_as_the_same_spec(method: str | None, tmp_path: Path) -> None:
    original = spec(**(SEARCHED if method is None else {"method": method}))
    for number, text in enumerate([yaml.safe_dump(original.resolved()), dump_yaml(original.resolved())]):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        again = load_spec(file)
        assert again == original
        assert difference(again, original) == []
        assert list(again.space) == list(original.space)


@pytest.mark.parametrize(
    "data", ["{tofu: a/b, forget: forget05, authors: 60}", "{forget: a/b, retain: {path: a/c, split: x}}"]
)
def test_every_form_of_data_survives_the_round_trip(data: str) -> None:
    text = TEMPLATE.replace("data: testbed", f"data: {data}").replace("{method}", "ga").replace("{training}", "{lr: 1}")
    original = parse_spec(text.replace("{more}", ""))
    assert parse_spec(dump_yaml(original.resolved())) == original


def test_resolved_writes_every_default_out() -> None:
    plain = spec().resolved()
    assert plain["training"]["weight_decay"] == 0.0
    assert plain["control"]["criteria"] == []
    assert plain["method"] == {"name": "ga", "gradient": "plain"}
    assert "provenance" not in plain


def test_specs_are_frozen_and_cross_processes() -> None:
    searched = spec(**SEARCHED)
    with pytest.raises(ValueError, match="frozen"):
        searched.name = "y"
    assert pickle.loads(pickle.dumps(searched)) == searched


def test_difference_names_what_changed() -> None:
    more = "control: [{metric: retain.es, at_least: 0.9}]\nprovenance: {commit: abc}"
    assert difference(spec(), spec(training="{lr: 2e-3}")) == ["training.lr: 0.001 -> 0.002"]
    assert difference(spec(), spec("gd")) == ["method.name: ga -> gd", "method.retain_weight: absent -> 1.0"]
    assert "control.criteria.0.at_least: absent -> 0.9" in difference(spec(), spec(more=more))
    assert not any("provenance" in line for line in difference(spec(), spec(more=more)))
    lora = "lora: {r: {choice: [4, 8]}}"
    assert difference(spec(), spec(more=lora)) == ["lora.r: 8 -> {choice: [4, 8]}"]
