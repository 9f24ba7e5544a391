"""The suite on a real (tiny) model: generation, similar extraction, Min-K%++, and the whole table."""

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rayul.errors import InputError
from rayul.spec import CHOICES, METRICS
from rayul.unlearn import generation, membership, metrics
from rayul.unlearn.data import Row
from rayul.unlearn.forward import score
from rayul.unlearn.probe import Generation, Missing, Probe
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.tokens import Example, collate, encode_rows

PLACES = ["Lima", "Oslo", "Kyoto", "Quito", "Accra", "Turin", "Hanoi", "Perth", "Cairo", "Delhi", "Minsk", "Tunis"]


def row(i, place):
    wrong = tuple(f"{other} was the birthplace" for other in PLACES if other != place)[:3]
    question, answer = f"Where was author {i} born?", f"Author {i} was born in {place}, in the year 19{i:02d}"
    return Row(question, answer, f"Birthplace of author {i}?", f"{place} was the birthplace", wrong, f"author {i}")


ROWS = tuple(row(10 + i, place) for i, place in enumerate(PLACES))
SETS = {
    "forget": ROWS[:4],
    "retain_train": ROWS[4:5],
    "retain": ROWS[4:8],
    "general": tuple(Row(r.question, r.answer, perturbed_answer=r.perturbed_answer) for r in ROWS[8:10]),
    "holdout": tuple(Row(r.question, r.answer) for r in ROWS[10:]),
}


@pytest.fixture(scope="module")
def tokenizer():
    """A token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<pad>", "<end>", *alphabet])}
    bytes_only = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytes_only, pad_token="<pad>", eos_token="<end>")


def llama(tokenizer, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        attention_dropout=0.3,  # so that a forward in training mode would show
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def model(tokenizer):
    """Trained until it knows the answers in part, so that every metric has something to tell."""
    model = llama(tokenizer, seed=0)
    batch = collate(encode_rows(tokenizer, None, ROWS[:10]), tokenizer.pad_token_id)
    labels = batch.ids.masked_fill(batch.attention == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(90):
        model(input_ids=batch.ids, attention_mask=batch.attention, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    # What instruction-tuned models ship, and what must not leak into greedy decoding.
    model.generation_config.repetition_penalty = 1.7
    model.generation_config.temperature = 0.6
    return model


@pytest.fixture(scope="module")
def scored(model, tokenizer):
    examples = encode_rows(tokenizer, None, ROWS)
    return examples, score(model, examples, tokenizer.pad_token_id)


def greedy(model, ids, limit, end):
    """Argmax by argmax, without a cache, padding or a generation config."""
    model.eval()
    ids, count = list(ids), len(ids)
    with torch.no_grad():
        while len(ids) < count + limit:
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == end:
                break
            ids.append(token)
    return ids[count:]


def test_batched_generation_equals_one_at_a_time(model, tokenizer, scored):
    examples, _ = scored
    prompts = [e.ids[: e.start + i] for i, e in enumerate(examples)]  # different lengths, so there is padding
    limits = [40 - 3 * i for i in range(len(prompts))]
    stop = frozenset({tokenizer.eos_token_id})
    together = generation.generate(model, prompts, limits, stop, tokenizer.pad_token_id, batch_size=5)
    alone = [greedy(model, p, n, tokenizer.eos_token_id) for p, n in zip(prompts, limits, strict=True)]
    assert together == alone
    # transformers' own generate, penalty off, agrees on the longest one.
    own = model.generate(
        torch.tensor([prompts[0]]), do_sample=False, max_new_tokens=40, repetition_penalty=1.0, use_cache=True
    )[0, len(prompts[0]) :].tolist()
    assert together[0] == own[: own.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in own else None]


def test_generation_leaves_the_mode_of_the_model(model, tokenizer, scored):
    for training in (True, False):
        model.train(training)
        generation.generate(model, [scored[0][0].ids], [2], frozenset(), tokenizer.pad_token_id)
        membership.standardised(model, scored[0][:1], tokenizer.pad_token_id)
        assert model.training is training


def test_similar_extraction_is_the_smallest_prefix_that_succeeds(model, tokenizer, scored):
    examples, scores = scored
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id

    def by_definition(example):
        length = example.stop - example.start
        for k in range(length):
            rest = example.ids[example.start + k : example.stop]
            found = greedy(model, example.ids[: example.start + k], length - k, end)
            if found and lcs(found, rest) / len(found) > 0.5:
                return 1 - k / length
        return 0.0

    measured = generation.similar_extraction_strength(model, examples, scores, frozenset({end}), pad, batch_size=5)
    exact = np.array([metrics.es(s) for s in scores])
    np.testing.assert_allclose(measured, [by_definition(e) for e in examples], rtol=1e-12)
    assert (measured >= exact).all()
    assert (measured > exact).any(), "the model knows everything or nothing: the test has no power"


@pytest.fixture(scope="module")
def monotone(tokenizer):
    """A model that says token 0 whatever is asked: all logits are equal."""
    model = llama(tokenizer, seed=1)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    return model


def test_more_than_half_of_the_continuation_must_be_common(monotone):
    half, more = Example((5, 6, 0, 7), 2, 4), Example((5, 6, 0, 0, 7), 2, 5)
    scores = score(monotone, [half, more], 1)
    measured = generation.similar_extraction_strength(monotone, [half, more], scores, frozenset({1}), 1)
    np.testing.assert_array_equal(measured, [0.0, 1.0])


def test_empty_continuation_is_a_mismatch(monotone, scored):
    examples = scored[0][:2]
    scores = score(monotone, examples, 1)
    measured = generation.similar_extraction_strength(monotone, examples, scores, frozenset({0}), 1)
    np.testing.assert_array_equal(measured, [0.0, 0.0])


@pytest.mark.parametrize(("a", "b", "length"), [("abcbdab", "bdcaba", 4), ("", "a", 0), ("aaa", "aa", 2)])
def test_lcs(a, b, length):
    assert generation.lcs([ord(c) for c in a], [ord(c) for c in b]) == length


def lcs(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


def test_standardised_log_probabilities_in_float64(model, tokenizer, scored):
    examples, scores = scored
    measured = membership.standardised(model, examples, tokenizer.pad_token_id, batch_size=5)
    for example, values in zip(examples, measured, strict=True):
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.tensor([example.ids])).logits[0].double()
        p = logits[example.start - 1 : example.stop - 1].softmax(-1).numpy()
        mean = (p * np.log(p)).sum(-1)
        spread = np.sqrt((p * np.log(p) ** 2).sum(-1) - mean**2)
        chosen = np.log(p[np.arange(len(p)), list(example.ids[example.start : example.stop])])
        np.testing.assert_allclose(values, (chosen - mean) / spread, rtol=1e-4, atol=1e-4)
    assert [len(v) for v in measured] == [len(s.logp) for s in scores]


def test_standardised_survives_impossible_tokens(tokenizer, scored):
    broken = llama(tokenizer, seed=2)
    with torch.no_grad():
        broken.lm_head.weight.mul_(1e30)
    values = membership.standardised(broken, scored[0][:3], tokenizer.pad_token_id)
    assert not any(np.isnan(v).any() for v in values)


def test_probe_falls_back_to_the_answer_where_a_row_has_no_paraphrase(model, tokenizer):
    mixed = (ROWS[0], Row(ROWS[1].question, ROWS[1].answer, perturbed_answer=ROWS[1].perturbed_answer))
    probe = Probe(model, tokenizer, mixed)
    alone = Probe(model, tokenizer, [Row(ROWS[0].question, ROWS[0].paraphrased_answer)])
    np.testing.assert_allclose(probe.paraphrase_logp, [alone.answer_logp[0], probe.answer_logp[1]], rtol=1e-5)
    assert probe.answer_logp[0] == pytest.approx(Probe(model, tokenizer, ROWS[:1]).answer_logp[0], rel=1e-5)
    with pytest.raises(Missing, match="1 of 2 rows have a paraphrased_question"):
        _ = probe.rephrased


def test_probe_keeps_wrong_answers_with_their_rows(model, tokenizer):
    rows = [ROWS[0], Row(ROWS[1].question, ROWS[1].answer, perturbed_answer=("Oslo",)), ROWS[2]]
    logp = Probe(model, tokenizer, rows, batch_size=2).perturbed_logp
    for r, values in zip(rows, logp, strict=True):
        alone = [Probe(model, tokenizer, [Row(r.question, wrong)]).answer_logp[0] for wrong in r.perturbed_answer]
        np.testing.assert_allclose(values, alone, rtol=1e-5)


def test_probe_cuts_what_the_template_writes_behind_the_answer(model, tokenizer):
    probe = Probe(model, tokenizer, ROWS[:1], template="Q: {question}\nA: {answer} ### ")
    probe.__dict__["generated"] = [tokenizer(" Lima ### Q: and", add_special_tokens=False)["input_ids"]]
    assert probe.texts == ["Lima"]


def test_rows_without_the_column_of_a_metric_are_left_out(model, tokenizer):
    bare = tuple(Row(f"{row.question} Indeed?", row.answer) for row in ROWS)
    names = ("es_perturb", "prob_options", "truth_ratio", "truthfulness", "model_utility", "es")
    whole, alone = (
        evaluate_model(model, tokenizer, SETS | {"retain": rows}, metrics=names, max_new_tokens=20).measured
        for rows in ((*ROWS, *bare), ROWS)
    )
    for name in names[:-1]:
        assert whole[f"retain.{name}"].value == pytest.approx(alone[f"retain.{name}"].value, rel=1e-5)
        assert whole[f"retain.{name}"].rows == alone[f"retain.{name}"].rows
    assert whole["retain.es"].rows == 2 * len(ROWS)


def test_every_metric_of_the_suite(model, tokenizer):
    result = evaluate_model(model, tokenizer, SETS, oracle=llama(tokenizer, seed=3), max_new_tokens=60)
    assert not [key for key in result.measured if key.startswith("retain_train.")]
    of_every_set = [name for name, row in METRICS.items() if not row.only and row.column != CHOICES]
    assert {f"{key}.{name}" for key in ("forget", "retain") for name in of_every_set} <= set(result.measured)
    for key in ("forget.forget_quality", "retain.model_utility", "forget.mia_zlib", "forget.mia_min_k_pp"):
        assert key in result.measured
    assert {key.split(".")[1] for key in (*result.measured, *result.skipped)} == set(METRICS)
    assert result.skipped["holdout.truth_ratio"] == "0 of 2 rows have a perturbed_answer"
    for key, measured in result.measured.items():
        name = key.partition(".")[2]
        assert measured.value >= {"privleak": -100}.get(name, -1 if name.endswith("_gap") else 0), key
        assert measured.value <= 1 or name in ("ppl", "fluency", "privleak"), key
        assert measured.stderr >= 0 or math.isnan(measured.stderr), key
    assert result.measured["forget.es_similar"].value >= result.measured["forget.es"].value
    assert result.measured["forget.es"].rows == 4


def test_suite_of_a_model_with_an_adapter(model, tokenizer):
    from peft import LoraConfig, get_peft_model

    base = llama(tokenizer, seed=0)
    base.load_state_dict(model.state_dict())
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    names = ["es", "rouge", "es_similar", "mia_min_k_pp"]
    fresh = evaluate_model(adapted, tokenizer, SETS, metrics=names, max_new_tokens=30)  # B = 0: the model itself
    plain = evaluate_model(model, tokenizer, SETS, metrics=names, max_new_tokens=30)
    assert {k: m.value for k, m in fresh.measured.items()} == pytest.approx(
        {k: m.value for k, m in plain.measured.items()}
    )


def test_suite_agrees_with_its_parts(model, tokenizer):
    result = evaluate_model(model, tokenizer, SETS, metrics=("model_utility", "rouge", "prob"), max_new_tokens=60)
    kept, general = (Probe(model, tokenizer, SETS[key], asked=Generation(60)) for key in ("retain", "general"))

    def options(probe):
        p = [np.exp([a, *wrong]) for a, wrong in zip(probe.answer_logp, probe.perturbed_logp, strict=True)]
        return np.mean([x[0] / x.sum() for x in p])

    def truthful(probe):
        wrong = np.array([w.mean() for w in probe.perturbed_logp])
        return np.mean(np.maximum(0, 1 - np.exp(wrong - probe.paraphrase_logp)))

    rouge = [result.measured[f"{key}.rouge"].value for key in ("retain", "general")]
    six = [*rouge, result.measured["retain.prob"].value, options(general), truthful(kept), truthful(general)]
    assert result.measured["retain.model_utility"].value == pytest.approx(6 / sum(1 / v for v in six), rel=1e-5)


def test_forget_quality_of_a_model_against_itself_is_one(model, tokenizer):
    alike = evaluate_model(model, tokenizer, SETS, oracle=model, metrics=["forget_quality"])
    assert list(alike.measured) == ["forget.forget_quality"]
    assert alike.measured["forget.forget_quality"].value == 1.0


@pytest.mark.parametrize("name", ["mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_pp"])
def test_a_membership_gap_is_the_auc_minus_the_oracles(model, tokenizer, name):
    oracle = llama(tokenizer, seed=3)
    own, theirs = (
        evaluate_model(m, tokenizer, SETS, metrics=[name]).measured[f"forget.{name}"] for m in (model, oracle)
    )
    gap = evaluate_model(model, tokenizer, SETS, oracle=oracle, metrics=[f"{name}_gap"]).measured
    assert list(gap) == [f"forget.{name}_gap"]
    assert gap[f"forget.{name}_gap"].value == pytest.approx(own.value - theirs.value)
    assert evaluate_model(oracle, tokenizer, SETS, oracle=oracle, metrics=[f"{name}_gap"]).measured == {
        f"forget.{name}_gap": (0.0, 0.0, own.rows, own.groups)
    }


def test_without_oracle_or_holdout_rows_a_gap_says_which(model, tokenizer):
    few = {"forget": SETS["forget"]}
    alone = evaluate_model(model, tokenizer, SETS, metrics=["mia_loss_gap"])
    assert alone.skipped == {"forget.mia_loss_gap": "there is no oracle to compare with"}
    bare = evaluate_model(model, tokenizer, few, oracle=model, metrics=["mia_loss_gap"])
    assert bare.skipped == {"forget.mia_loss_gap": "there are no holdout rows"}


def test_what_cannot_be_measured_is_named(model, tokenizer):
    result = evaluate_model(model, tokenizer, {"forget": SETS["forget"]}, metrics=["forget_quality", "mia_loss", "em"])
    assert result.skipped == {
        "forget.forget_quality": "there is no oracle to compare with",
        "forget.mia_loss": "there are no holdout rows",
    }
    assert list(result.measured) == ["forget.em"]


def test_unknown_metric_is_bad_input(model, tokenizer):
    with pytest.raises(InputError, match="unknown metric 'rogue'"):
        evaluate_model(model, tokenizer, SETS, metrics=["rogue"])


def test_json_and_table(model, tokenizer):
    result = evaluate_model(model, tokenizer, SETS, metrics=["es", "forget_quality", "mia_loss"])
    read = json.loads(result.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read["measured"]["forget.es"]["value"] == result.measured["forget.es"].value
    assert read["measured"]["forget.es"]["rows"] == 4
    assert read["skipped"] == result.skipped
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(result.table())
    text = console.export_text()
    for word in ("metric", "forget", "holdout", "es", "mia_loss", "±", "there is no oracle to compare with"):
        assert word in text


def test_diverged_model_gives_nan_not_an_error(tokenizer):
    diverged = llama(tokenizer, seed=4)
    with torch.no_grad():
        diverged.lm_head.weight.fill_(float("nan"))
    few = {key: rows[:2] for key, rows in SETS.items()}
    result = evaluate_model(diverged, tokenizer, few, oracle=diverged, max_new_tokens=5)
    nan = ("forget.prob", "forget.mia_loss", "forget.truth_ratio", "forget.forget_quality", "retain.model_utility")
    for key in nan:
        assert math.isnan(result.measured[key].value), key
    json.loads(result.to_json())
