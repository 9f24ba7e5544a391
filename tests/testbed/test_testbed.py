"""The testbed as it is really built: what target and oracle know, measured on the folder that users get."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayul.testbed import ensure_testbed, write_testbed
from rayul.unlearn import metrics
from rayul.unlearn.data import read_folder
from rayul.unlearn.forward import score
from rayul.unlearn.template import rendered
from rayul.unlearn.tokens import encode

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder():
    return ensure_testbed()


@pytest.fixture(scope="module")
def rows(folder):
    return read_folder(folder)


@pytest.fixture(scope="module")
def models(folder) -> dict[str, Any]:
    torch.set_num_threads(1)
    return {
        role: (AutoModelForCausalLM.from_pretrained(folder / role), AutoTokenizer.from_pretrained(folder / role))
        for role in ("model", "oracle")
    }


def scores(models, role, pairs):
    model, tokenizer = models[role]
    return score(model, [encode(tokenizer, None, q, a) for q, a in pairs], tokenizer.pad_token_id)


def strength(models, role, rows, question="question"):
    pairs = [(getattr(row, question), row.answer) for row in rows]
    return np.mean([metrics.es(s) for s in scores(models, role, pairs)])


def nll(models, role, rows):
    return np.array([-s.logp.mean() for s in scores(models, role, [(r.question, r.answer) for r in rows])])


@pytest.mark.parametrize("key", ["forget", "retain_train", "retain", "retain_certify", "retain_report", "general"])
def test_target_has_memorised_what_it_was_trained_on(models, rows, key):
    assert strength(models, "model", rows[key]) >= 0.95


@pytest.mark.parametrize("key", ["retain_train", "retain", "retain_certify", "retain_report", "general"])
def test_oracle_has_memorised_the_rest(models, rows, key):
    assert strength(models, "oracle", rows[key]) >= 0.95


def test_oracle_does_not_know_what_to_forget(models, rows):
    assert strength(models, "oracle", rows["forget"]) <= 0.15


@pytest.mark.parametrize("role", ["model", "oracle"])
def test_nobody_knows_the_holdout(models, rows, role):
    assert strength(models, role, rows["holdout"]) <= 0.15


@pytest.mark.parametrize("key", ["forget", "retain", "retain_report"])
def test_target_answers_paraphrased_questions(models, rows, key):
    assert strength(models, "model", rows[key], "paraphrased_question") >= 0.5


def test_forget_quality_of_the_target_is_low(models, rows):
    def truth_ratios(role):
        right = scores(models, role, [(r.question, r.paraphrased_answer) for r in rows["forget"]])
        wrong = [scores(models, role, [(r.question, a) for a in r.perturbed_answer]) for r in rows["forget"]]
        return [
            np.exp(np.mean([s.logp.mean() for s in w])) / np.exp(r.logp.mean())
            for r, w in zip(right, wrong, strict=True)
        ]

    assert stats.ks_2samp(truth_ratios("model"), truth_ratios("oracle"), method="exact").pvalue < 0.01


def test_membership_shows_on_the_target_and_not_on_the_oracle(models, rows):
    def auc(role):
        members, others = nll(models, role, rows["forget"]), nll(models, role, rows["holdout"])
        return (members[:, None] < others).mean() + (members[:, None] == others).mean() / 2

    assert auc("model") >= 0.8
    assert 0.4 <= auc("oracle") <= 0.6


def test_generation_gives_the_answer_and_stops(models, rows):
    model, tokenizer = models["model"]
    for row in rows["forget"][:10]:
        example = encode(tokenizer, None, row.question, row.answer)
        prompt = torch.tensor([example.ids[: example.start]])
        generated = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=len(example.ids) + 20
        )[0]
        assert tuple(generated.tolist()) == example.ids
        text = tokenizer.decode(generated, skip_special_tokens=True)
        assert text == rendered(tokenizer, None, row.question, row.answer).whole


def test_summary_tells_what_was_measured(models, rows, folder):
    summary = json.loads((folder / "testbed.json").read_text())
    assert summary["rows"] == {key: len(part) for key, part in rows.items()}
    for role in ("model", "oracle"):
        for key, value in summary["memorised"][role]["es"].items():
            assert value == pytest.approx(strength(models, role, rows[key]), abs=1e-3)


def test_model_is_small(models):
    assert 500_000 < sum(p.numel() for p in models["model"][0].parameters()) < 2_000_000


def test_second_call_finds_the_same_folder(folder):
    assert ensure_testbed(lambda message, done: pytest.fail("built again")) == folder


def test_written_out_it_is_the_same_and_loads(folder, tmp_path):
    place = tmp_path / "some" / "where"
    write_testbed(place)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    assert sorted(p.relative_to(place) for p in place.rglob("*")) == files
    assert all((place / f).read_bytes() == (folder / f).read_bytes() for f in files if (folder / f).is_file())
    assert [p.name for p in place.parent.iterdir()] == ["where"]
