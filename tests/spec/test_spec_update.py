"""What a trial trains: `update: lora`, with its section, or `update: full`, without."""

from __future__ import annotations

import pytest

from rayul.spec import UPDATES, Lora, SpecError, difference, dump_yaml, parse_spec

BASE = "name: x\nmodel: {path: testbed}\ndata: testbed\nmethod: ga\ntraining: {lr: {float: [1e-5, 1e-3]}}\n"


def test_lora_is_what_is_not_said_otherwise() -> None:
    plain = parse_spec(BASE)
    assert plain.update == "lora"
    assert plain == parse_spec(BASE + "update: lora\n")
    assert list(plain.resolved())[5:8] == ["method", "update", "lora"]
    assert parse_spec(dump_yaml(plain.resolved())) == plain


def test_a_full_update_has_no_section_of_lora() -> None:
    spec = parse_spec(BASE + "update: full\n")
    assert "lora" not in spec.resolved()
    assert parse_spec(dump_yaml(spec.resolved())) == spec
    trial = spec.at({"training.lr": 1e-4})
    assert (trial.update, trial.lora, trial.training.lr) == ("full", Lora(), 1e-4)
    assert difference(parse_spec(BASE), spec) == ["update: lora -> full"]


@pytest.mark.parametrize(
    ("text", "place", "problem", "hint"),
    [
        ("update: full\nlora: {r: 4}", 7, "lora: has no meaning with update: full", "set update: lora"),
        ("update: fill", 6, 'update: unknown update "fill"', "did you mean full?"),
        ("update: 4", 6, "update: expected lora or full, got 4", ""),
        ("update: {choice: [lora, full]}", 6, "update: cannot be searched", "rayul compare"),
        (
            "update: full\nresources: {compile: true}",
            7,
            "resources.compile: only packs are compiled, and update: full is for trials alone",
            "set resources.compile: false",
        ),
        ("update: full\nresources: {gpu: 2}", 7, "resources.gpu: weights that update: full trains", "set 1"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(text: str, place: int, problem: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(f"{BASE}{text}\n")
    assert f"<text>:{place}: {problem}" in str(caught.value)
    assert hint in str(caught.value)


def test_weights_in_4_bits_are_not_trained() -> None:
    text = BASE.replace("{path: testbed}", "{path: testbed, quantize: 4bit}")
    parse_spec(text)
    with pytest.raises(SpecError, match=r"<text>:2: model\.quantize: weights in 4bit cannot be trained"):
        parse_spec(text + "update: full\n")


@pytest.mark.parametrize("name", UPDATES)
def test_every_kind_is_a_module_that_attaches(name: str, task: object, make_spec: object) -> None:
    """And trains nothing that is not in float32, on a model that answers as the base does."""
    import torch

    from rayul.unlearn.update import attach

    update = attach(task, make_spec(update=name), 0)  # type: ignore[operator,arg-type]
    assert {p.dtype for p in update.parameters} == {torch.float32}
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        said = update.model(ids).logits
        with update.reference() as before:
            assert torch.equal(before(ids).logits, said)
    update.detach()
    with torch.no_grad():
        assert torch.equal(task.base(ids).logits, said)  # type: ignore[attr-defined]


def test_an_override_of_the_update_takes_the_other_kinds_section_with_it() -> None:
    text = BASE + "lora: {r: 4}\n"
    assert parse_spec(text, ["update=full"]).update == "full"
    assert parse_spec(text, ["update=lora"]).lora.r == 4
    for overrides in (["update=full", "lora.r=8"], ["lora.r=8", "update=full"]):
        with pytest.raises(SpecError, match="has no meaning with update: full"):
            parse_spec(text, overrides)
    with pytest.raises(SpecError, match="update: expected"):
        parse_spec(text, ["update=[full]"])
