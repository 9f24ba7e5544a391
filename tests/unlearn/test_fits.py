"""Rows that do not fit into a model are refused before anything is trained or measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rayul.errors import InputError
from rayul.unlearn.data import Row
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.task import Task, load_task


def gpt2(vocabulary: int, positions: int) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocabulary, n_positions=positions, n_embd=8, n_layer=1, n_head=2)
    return GPT2LMHeadModel(config).eval()


def sets_with(row: Row, key: str) -> dict[str, tuple[Row, ...]]:
    plain = {name: (Row(f"{name}?", "It is."),) for name in ("forget", "retain_train", "retain")}
    return {**plain, key: (*plain.get(key, ()), row)}


LONG = Row("What?", "yes " * 90)


@pytest.mark.parametrize(
    ("key", "row", "said"),
    [
        ("forget", LONG, "1 of 2 forget rows are too long"),
        ("retain_train", LONG, "retain_train rows are too long"),
        ("retain_report", LONG, "retain_report rows are too long"),
        ("retain", replace(LONG, answer="yes", perturbed_answer=("no " * 90,)), "reworded retain rows are too long"),
        ("forget", replace(LONG, answer="yes", paraphrased_question="what " * 90), "reworded forget rows are too long"),
    ],
)
def test_a_row_longer_than_the_positions(task: Task, key: str, row: Row, said: str) -> None:
    model, sets = gpt2(len(task.tokenizer), 64), sets_with(row, key)
    with pytest.raises(InputError, match=said) as caught:
        Task(model, task.tokenizer, sets, None, None, {}, rewords=True)
    assert "64 positions" in str(caught.value)
    if key != "retain_train":
        with pytest.raises(InputError, match=said):
            evaluate_model(model, task.tokenizer, sets, metrics=["es"])
    Task(gpt2(len(task.tokenizer), 4096), task.tokenizer, sets, None, None, {})


def test_the_longest_row_that_fits_is_trained_on_and_scored(task: Task) -> None:
    sets = sets_with(LONG, "forget")
    tokens = max(
        len(e.ids)
        for e in Task(gpt2(len(task.tokenizer), 512), task.tokenizer, sets, None, None, {}).examples["forget"]
    )
    model = gpt2(len(task.tokenizer), tokens)
    assert evaluate_model(model, task.tokenizer, sets, metrics=["prob"]).measured["forget.prob"].rows == 2
    with pytest.raises(InputError, match=f"{tokens} tokens, and the model has {tokens - 1} positions"):
        Task(gpt2(len(task.tokenizer), tokens - 1), task.tokenizer, sets, None, None, {})


def test_a_tokenizer_larger_than_the_embedding(task: Task) -> None:
    sets = sets_with(Row("What?", "yes"), "forget")
    with pytest.raises(InputError, match="the model embeds only 20 tokens: the tokenizer is larger than the model"):
        Task(gpt2(20, 512), task.tokenizer, sets, None, None, {})


@pytest.mark.parametrize(("final", "refused"), [(["truth_ratio"], True), (["em"], False), ([], False)])
def test_wrong_answers_are_encoded_where_a_metric_at_the_end_scores_them(
    make_spec: Callable[..., Any], sets: dict[str, tuple[Row, ...]], final: list[str], refused: bool
) -> None:
    """Otherwise each process of a sweep would spend its first minutes on texts that nobody reads."""
    longer = sets | {"retain": (replace(sets["retain"][0], perturbed_answer=("no " * 3000,)), *sets["retain"][1:])}
    spec = make_spec(method="gd", evaluate={"final": final})
    with pytest.raises(InputError, match="reworded retain rows are too long") if refused else nullcontext():
        assert load_task(spec, longer).examples["retain"]
