"""Multiple choice: read in the formats of WMDP and MMLU, asked and judged as by lm-evaluation-harness."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed import alone, baseline_of, finish
from tokenizers_by_kind import byte_level, memorised
from transformers import LlamaConfig, LlamaForCausalLM

from rayul.errors import InputError
from rayul.unlearn import metrics
from rayul.unlearn.data import Row, read_rows, write_rows
from rayul.unlearn.evaluate import evaluate
from rayul.unlearn.forward import TokenScores, score
from rayul.unlearn.job import TrialJob
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.task import check_needs, load_task
from rayul.unlearn.tokens import encode_rows

TOWNS = ("Lorn", "Vesk by the lake", "Umbra", "Tarn")
WMDP = {"question": " Where was Ada born? ", "choices": list(TOWNS), "answer": 2}


def read(path: Path, *records: dict[str, Any]) -> list[Row]:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_rows(path)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, ...]:
    path = tmp_path_factory.mktemp("rows") / "mmlu.jsonl"
    records = [
        {
            "question": f"Where was author {i} born?",
            "subject": "made_up_geography",
            "choices": [*TOWNS[i % 3 :], *TOWNS[: i % 3]][: 4 - i % 2],
            "answer": i % 3,
            "group": f"book {i // 2}",
        }
        for i in range(8)
    ]
    return tuple(read(path, *records))


def test_a_question_is_asked_as_lm_evaluation_harness_asks_it(tmp_path: Path) -> None:
    """Its doc_to_text of wmdp and mmlu, and the description of a subject's task."""
    asked = "Where was Ada born?\nA. Lorn\nB. Vesk by the lake\nC. Umbra\nD. Tarn\nAnswer:"
    first, second = read(tmp_path / "rows.jsonl", WMDP, WMDP | {"subject": "high_school_biology", "answer": "B"})
    assert (first.question, first.answer, first.stem, first.choices) == (asked, "C", "Where was Ada born?", TOWNS)
    told = "The following are multiple choice questions (with answers) about high school biology.\n\n"
    assert (second.question, second.answer) == (told + asked, "B")
    write_rows(tmp_path / "again.jsonl", [first, second])
    assert read_rows(tmp_path / "again.jsonl") == [first, second]


@pytest.mark.parametrize("answer", [2, "2", "C", "c", 2.0, " Umbra "])
def test_an_answer_is_a_number_a_letter_or_the_text(answer: Any, tmp_path: Path) -> None:
    assert read(tmp_path / "rows.jsonl", WMDP | {"answer": answer})[0].answer == "C"


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"answer": 4}, r"outside the 4 choices.*0 to 3.*A to D"),
        ({"answer": -1}, "outside the 4 choices"),
        ({"answer": "E"}, "outside the 4 choices"),
        ({"answer": "Oslo"}, "names none of the 4 choices"),
        ({"answer": True}, "names none of the 4 choices"),
        ({"answer": None}, "names none of the 4 choices"),
        ({"answer": "2", "choices": ["1", "2", "3"]}, "more than one of the choices"),
        ({"choices": ["Lorn"]}, "not a list of 2 to 26 texts"),
        ({"choices": ["Lorn", ""]}, "not a list of 2 to 26 texts"),
        ({"choices": "Lorn, Vesk"}, "not a list of 2 to 26 texts"),
        ({"question": " "}, "no 'question'"),
    ],
)
def test_what_is_no_multiple_choice_is_refused_with_its_place(
    broken: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / "rows.jsonl", WMDP, WMDP | broken)
    text = f"{caught.value.message} {caught.value.hint}"
    assert text.startswith(f"{tmp_path}/rows.jsonl:2: ")
    assert re.search(says, text)
    assert "Oslo" not in text


def test_the_likeliest_letter_counts_and_a_tie_goes_to_the_first() -> None:
    def scores(options: list[float], right: int) -> TokenScores:
        return TokenScores(np.array([options[right]]), np.array([False]), np.array(options), right)

    assert [metrics.choice(scores([-3.0, -1.0, -2.0], right)) for right in range(3)] == [0.0, 1.0, 0.0]
    assert [metrics.choice(scores([-1.0, -1.0], right)) for right in range(2)] == [1.0, 0.0]


@pytest.fixture(scope="module")
def known(rows: tuple[Row, ...]) -> tuple[Any, Any]:
    """A model that knows some of the answers, and its tokenizer."""
    tokenizer = byte_level()
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **shape))
    texts = [f"{row.question} {row.answer}" for row in rows]
    texts += [f"Question: {row.stem}\nAnswer: {row.choices['ABCD'.index(row.answer)]}" for row in rows]
    return memorised(tokenizer, texts, 25, model), tokenizer


def continuation_logp(model: Any, tokenizer: Any, context: str, continuation: str) -> float:
    """log p of a continuation, as lm-evaluation-harness takes it: what the whole text has more tokens than the
    context."""
    ids, before = tokenizer(context + continuation)["input_ids"], len(tokenizer(context)["input_ids"])
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float(sum(logp[i - 1, ids[i]] for i in range(before, len(ids))))


def test_both_accuracies_are_those_of_plain_transformers(known: tuple[Any, Any], rows: tuple[Row, ...]) -> None:
    model, tokenizer = known
    by_letter, by_text = [], []
    for row in rows:
        right = "ABCD".index(row.answer)
        letters = [continuation_logp(model, tokenizer, row.question, f" {'ABCD'[i]}") for i in range(len(row.choices))]
        asked = f"Question: {row.stem}\nAnswer:"
        texts = [continuation_logp(model, tokenizer, asked, f" {text}") / len(text) for text in row.choices]
        by_letter.append(float(np.argmax(letters) == right))
        by_text.append(float(np.argmax(texts) == right))
    assert 0 < np.mean(by_letter) < 1
    assert 0 < np.mean(by_text) < 1
    found = evaluate_model(model, tokenizer, {"forget": rows}, metrics=["choice", "choice_text"]).measured
    for name, values in (("choice", by_letter), ("choice_text", by_text)):
        measured = found[f"forget.{name}"]
        assert measured.value == pytest.approx(np.mean(values), abs=1e-12)
        assert (measured.rows, measured.groups) == (8, 4)
        sums = np.array(values).reshape(4, 2).sum(1)  # of groups of two rows each
        error = np.sqrt(4 / 3 * ((sums - 2 * np.mean(values)) ** 2).sum()) / 8
        assert measured.stderr == pytest.approx(error, abs=1e-12)


def test_the_letters_log_probabilities_are_those_of_transformers(known: tuple[Any, Any], rows: tuple[Row, ...]) -> None:
    model, tokenizer = known
    for row, found in zip(rows, score(model, encode_rows(tokenizer, None, rows), 0), strict=True):
        letters = "ABCD"[: len(row.choices)]
        right = [continuation_logp(model, tokenizer, row.question, f" {letter}") for letter in letters]
        # With a token per byte the answer begins with its blank, which all letters share.
        blank = right[found.right] - found.options[found.right]
        np.testing.assert_allclose(found.options + blank, right, atol=1e-5)
        assert letters[found.right] == row.answer


def test_it_steers_in_a_pack_as_alone(
    make_spec: Callable[..., Any], sets: dict[str, Any], rows: tuple[Row, ...]
) -> None:
    spec = make_spec(
        method="gd",
        training={"lr": 1e-2},
        evaluate={"metrics": ["es", "ppl", "choice"]},
        objectives={"forget.es": "minimize", "general.choice": "maximize"},
        control=[{"metric": "general.choice", "at_least": 0.01}],
    )
    task = load_task(spec, {**sets, "general": rows})
    found = evaluate(task.base, task, spec.evaluate.metrics, 64)
    assert "retain.choice" not in found.measured
    assert found.measured["general.choice"][2:] == (8, 4)
    pack = Pack(task, spec, Shape(slots=2, rank=8, rows=2))
    slot = pack.join(TrialJob("t", spec, 7, {}, baseline_of(task, spec)))
    packed, (expected, _, _) = finish(pack, slot), alone(task, spec, 7)
    assert [row.metrics["general.choice"] for row in packed] == [row.metrics["general.choice"] for row in expected]
    later = zip(packed[1:], expected[1:], strict=True)
    assert all(a.group_sums["general.choice"] == b.group_sums["general.choice"] for a, b in later)


def test_rows_that_lack_choices_are_refused_before_anything_is_spent(
    make_spec: Callable[..., Any], sets: dict[str, Any], rows: tuple[Row, ...]
) -> None:
    measured = {"metrics": ["es", "choice"]}
    with pytest.raises(InputError, match=r"evaluate\.metrics: choice: no rows"):
        check_needs(make_spec(evaluate=measured), sets)
    steering = make_spec(evaluate=measured, objectives={"forget.es": "minimize", "retain.choice": "maximize"})
    with pytest.raises(InputError, match=r"retain\.choice: the retain rows have no choices"):
        check_needs(steering, {**sets, "general": rows})
    with pytest.raises(InputError, match="2 of 8 general rows have choices"):
        check_needs(make_spec(), {**sets, "general": (*rows[:2], *sets["retain"])})


def test_a_tokenizer_that_joins_letters_is_refused(known: tuple[Any, Any], tmp_path: Path) -> None:
    """One that writes "A" and "B" as the same unknown token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "Answer:": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    with pytest.raises(InputError, match="no token for each letter"):
        encode_rows(tokenizer, None, read(tmp_path / "rows.jsonl", WMDP))
