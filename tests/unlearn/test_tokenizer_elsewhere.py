"""`model.tokenizer`: a model without a tokenizer of its own, with that of another folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rayul.errors import InputError
from rayul.spec import Model, SpecError, parse_spec
from rayul.unlearn.model import load_model, load_tokenizer

TEXT = "Where was Ada Korb born?"


@pytest.fixture
def apart(tiny_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The tiny model in two folders: weights, tokenizer."""
    weights, tokenizer = tmp_path / "weights", tmp_path / "tokenizer"
    weights.mkdir()
    tokenizer.mkdir()
    for file in tiny_folder.iterdir():
        shutil.copy(file, tokenizer if "token" in file.name else weights)
    return weights, tokenizer


def spec_text(model: str) -> str:
    return f"name: a\nmodel: {model}\ndata: testbed\nmethod: ga\ntraining: {{lr: 1e-3}}\n"


def test_it_is_loaded_beside_the_weights_and_kept_in_the_record(apart: tuple[Path, Path], tiny_folder: Path) -> None:
    weights, place = apart
    spec = parse_spec(spec_text(f"{{path: {weights}, tokenizer: {place}}}"), source="spec.yaml")
    base, tokenizer = load_model(spec.model)
    whole = AutoTokenizer.from_pretrained(tiny_folder)
    assert tokenizer(TEXT).input_ids == whole(TEXT).input_ids == load_tokenizer(spec.model)(TEXT).input_ids
    assert base.get_input_embeddings().num_embeddings >= len(whole)
    assert spec.resolved()["model"]["tokenizer"] == str(place)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{weights}", "has no tokenizer.*model.tokenizer"),
        ("{{path: {weights}, tokenizer: {weights}}}", r"model\.tokenizer: .*has no tokenizer"),
        ("{{path: {weights}, tokenizer: ./nowhere}}", r"model\.tokenizer: .*does not exist"),
        ("{{path: {weights}, tokenizer: testbed}}", r"model\.tokenizer: testbed is no folder"),
    ],
)
def test_a_place_without_one_is_refused_with_the_spec(apart: tuple[Path, Path], model: str, said: str) -> None:
    with pytest.raises(SpecError, match=f"(?s){said}"):
        parse_spec(spec_text(model.format(weights=apart[0])), source="spec.yaml")


def test_tokens_that_the_model_does_not_know_are_refused(apart: tuple[Path, Path]) -> None:
    weights, place = apart
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.add_tokens([f"<{i}>" for i in range(4000)])
    tokenizer.save_pretrained(place)
    with pytest.raises(InputError, match=r"model\.tokenizer .* has tokens up to number \d+, and the model knows \d+"):
        load_model(Model(path=str(weights), tokenizer=str(place)))
