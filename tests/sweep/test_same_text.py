"""A folder whose numbers were measured on other tokens than its rows become now is not gone on with."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from chat_templates import DATED, THINKING, chat
from driver import write_spec
from tokenizers_by_kind import KINDS

from rayul.errors import InputError
from rayul.records.manifest import Manifest, RowSet
from rayul.spec import Model
from rayul.sweep.same_text import checked_tokens
from rayul.unlearn.data import Row

SETS = {
    "forget": (Row("Where was Ada Korb born?", "Ada Korb was born in Lorn."),),
    "retain": (Row("Where was Bela Quint born?", "In Vesk."), Row("When was Cai Rowe born?", "In 1927.")),
}
MODEL = Model(path="some/model")
OLD = Manifest(data={name: RowSet(rows=len(rows), sha256="a") for name, rows in SETS.items()})
"""Of a sweep by a version that encoded prompt and answer apart, and recorded no tokens."""


SAME = {  # apart, an answer had the tokens that it has in the whole text
    "Question: {question}\nAnswer: {answer}": (
        "byte-level",
        "byte-level, BOS added",
        "Unigram",
        "Metaspace always",
        "Metaspace first",
        "Metaspace never",
    ),
    "{question}\n{answer}": ("byte-level", "byte-level, BOS added", "no fast tokenizer"),
}


@pytest.mark.parametrize("template", SAME)
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_apart_encodings_is_refused_where_they_were_other_tokens(kind: str, template: str) -> None:
    model = MODEL.model_copy(update={"template": template})
    if kind in SAME[template]:
        assert checked_tokens(KINDS[kind](), model, SETS, OLD).keys() == SETS.keys()
    else:
        with pytest.raises(InputError, match=r"encoded prompt and answer apart: [123] of 3 rows"):
            checked_tokens(KINDS[kind](), model, SETS, OLD)


def test_a_chat_template_whose_prompt_is_not_what_stands_before_an_answer_was_other_tokens() -> None:
    with pytest.raises(InputError, match="apart: 3 of 3 rows"):
        checked_tokens(chat(THINKING), MODEL, SETS, OLD)
    told = MODEL.model_copy(update={"chat_template_args": {"enable_thinking": False}})
    assert checked_tokens(chat(THINKING), told, SETS, OLD)


def test_recorded_tokens_are_those_of_the_day_that_the_sweep_began() -> None:
    began = Manifest(date=datetime(2024, 7, 26, tzinfo=UTC))
    tokens = checked_tokens(chat(DATED), MODEL, SETS, began)
    assert checked_tokens(chat(DATED), MODEL, SETS, began.model_copy(update={"tokens": tokens})) == tokens
    other = Manifest(date=datetime(2024, 7, 27, tzinfo=UTC), tokens=tokens)
    with pytest.raises(InputError, match="the rows of forget, retain become other tokens"):
        checked_tokens(chat(DATED), MODEL, SETS, other)


def test_a_resume_with_another_tokenizer_is_refused_before_anything_runs(
    tiny_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    from rayul.records.manifest import read_manifest
    from rayul.spec import load_spec
    from rayul.sweep.folder import begin, checked_rows, made_here
    from rayul.sweep.run import run_sweep
    from rayul.unlearn.data import load_sets
    from rayul.unlearn.model import load_tokenizer

    model, folder = tmp_path / "model", tmp_path / "results"
    shutil.copytree(tiny_folder, model)
    spec = load_spec(write_spec(tmp_path / "x.yaml", model, data_folder))
    sets = load_sets(spec.data)
    manifest = made_here(spec)
    manifest = manifest.model_copy(update={"data": checked_rows(sets, manifest)})
    tokenizer = load_tokenizer(spec.model)

    def resumed(**update: Any) -> str:
        begin(folder, spec, manifest.model_copy(update=update))
        before = read_manifest(folder)
        with pytest.raises(InputError) as refused:
            run_sweep(spec, folder, resume=True)
        assert read_manifest(folder) == before
        return refused.value.message

    tokens = checked_tokens(tokenizer, spec.model, sets, manifest)
    tokenizer.bos_token = tokenizer.eos_token  # named, and not added
    tokenizer.save_pretrained(model)
    assert "encoded prompt and answer apart" in resumed()
    assert "become other tokens" in resumed(tokens={name: digest[::-1] for name, digest in tokens.items()})
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(model)
    assert "become other tokens" in resumed(tokens=tokens)
