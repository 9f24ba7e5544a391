"""Template, masks and the one-forward metrics, against transformers' own generation and loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rayul.errors import InputError
from rayul.unlearn import metrics
from rayul.unlearn.evaluate import measure
from rayul.unlearn.forward import TokenScores, forward, score, token_logp
from rayul.unlearn.template import DEFAULT_TEMPLATE, rendered
from rayul.unlearn.tokens import collate, encode

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def prompt_text(tokenizer: Any, template: str | None, question: str) -> str:
    text = rendered(tokenizer, template, question, "Ada")
    return text.whole[: text.begin]


def test_answer_span_is_the_answer_and_the_rest_is_not(task: Any) -> None:
    tokenizer = task.tokenizer
    e = encode(tokenizer, None, "Where was Ada born?", "In Lorn.")
    assert tokenizer.decode(e.ids[e.start : e.stop]) == " In Lorn."
    assert tokenizer.decode(e.ids[: e.start]) == "Question: Where was Ada born?\nAnswer:"
    assert e.ids[e.stop :] == (tokenizer.eos_token_id,)


def test_text_after_the_answer_closes_the_turn(task: Any) -> None:
    e = encode(task.tokenizer, "Q: {question} A: {answer}\n###", "Who?", "Ada")
    assert task.tokenizer.decode(e.ids[e.start : e.stop]) == " Ada"
    assert task.tokenizer.decode(e.ids[e.stop : -1]) == "\n###"


def test_the_boundary_does_not_depend_on_the_answer(task: Any) -> None:
    starts = {encode(task.tokenizer, None, "Who?", answer).start for answer in ("Ada", "x", "123", "\tword")}
    assert len(starts) == 1


def test_a_chat_template_is_used_where_the_tokenizer_has_one(task: Any) -> None:
    import copy

    tokenizer = copy.deepcopy(task.tokenizer)
    with pytest.raises(InputError, match="no chat template"):
        rendered(tokenizer, "chat", "Who?", "Ada")
    tokenizer.chat_template = CHAT_TEMPLATE
    e = encode(tokenizer, None, "Who?", "Ada")
    assert tokenizer.decode(e.ids[: e.start]) == "<user>Who?<end><assistant>"
    assert tokenizer.decode(e.ids[e.start : e.stop]) == "Ada"
    assert prompt_text(tokenizer, DEFAULT_TEMPLATE, "Who?") == "Question: Who?\nAnswer: "


def test_braces_in_a_question_are_text(task: Any) -> None:
    assert "{answer}" in prompt_text(task.tokenizer, None, "what is {answer}?")
    e = encode(task.tokenizer, None, "{question}", "{question}")
    assert task.tokenizer.decode(e.ids[e.start : e.stop]) == " {question}"


def test_scores_equal_transformers_loss_and_ignore_batching_and_padding(task: Any) -> None:
    examples = task.examples["forget"]
    together = score(task.base, examples, task.pad, batch_size=4)
    for e, s in zip(examples, together, strict=True):
        labels = torch.tensor([[-100] * e.start + list(e.ids[e.start : e.stop]) + [-100] * (len(e.ids) - e.stop)])
        loss = task.base(input_ids=torch.tensor([e.ids]), labels=labels).loss
        assert len(s.logp) == e.stop - e.start
        assert -s.logp.mean() == pytest.approx(loss.item(), rel=1e-5)
        alone = score(task.base, [e], task.pad)[0]
        assert alone.logp == pytest.approx(s.logp, abs=1e-5)
        assert (alone.match == s.match).all()


def test_one_forward_equals_greedy_generation_of_every_suffix(task: Any) -> None:
    """Extraction strength by its definition: the shortest prefix of the answer from which `generate` gives the rest."""
    # Answers of which the model would say a part itself: its own continuation after a few foreign tokens.
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for i in range(12):
        prompt = torch.randint(2, 250, (1, 8), generator=generator)
        head = torch.randint(2, 250, (1, 1 + i % 4), generator=generator)
        start = torch.cat([prompt, head], 1)
        ids = task.base.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=6,
            do_sample=False,
            suppress_tokens=[1],
        )
        if i % 3 == 0:
            ids[0, -3] = (ids[0, -3] + 1) % 250 + 2
        answer = ids[0, 8:].tolist()
        from rayul.unlearn.tokens import Example

        example = Example((*ids[0].tolist(), 1), 8, ids.shape[1])
        ours = metrics.es(score(task.base, [example], task.pad)[0])
        length, wanted = len(answer), 0.0
        for k in range(length):
            prefix = ids[:, : 8 + k]
            out = task.base.generate(
                input_ids=prefix,
                attention_mask=torch.ones_like(prefix),
                max_new_tokens=length - k,
                do_sample=False,
            )
            if out[0, 8 + k :].tolist() == answer[k:]:
                wanted = (length - k) / length
                break
        assert ours == pytest.approx(wanted)
        seen.add(ours)
    assert len(seen) > 3, "the cases must differ"


@pytest.mark.parametrize(
    ("match", "expected"),
    [([1, 1, 1, 1], 1.0), ([0, 1, 1, 1], 0.75), ([1, 1, 1, 0], 0.0), ([0, 0], 0.0), ([1], 1.0), ([0], 0.0)],
)
def test_extraction_strength_has_its_floor_at_zero(match: list[int], expected: float) -> None:
    assert metrics.es(TokenScores(np.zeros(len(match)), np.array(match, dtype=bool))) == expected


def test_means_and_standard_errors() -> None:
    logp = [np.log([0.5, 0.5]), np.log([0.2]), np.log([0.9, 0.4, 0.3])]
    scores = [TokenScores(x, np.array([i % 2 == 0] * len(x))) for i, x in enumerate(logp)]
    prob = measure("prob", scores)
    values = [0.5, 0.2, (0.9 * 0.4 * 0.3) ** (1 / 3)]
    assert prob.value == pytest.approx(np.mean(values))
    assert prob.stderr == pytest.approx(np.std(values, ddof=1) / 3**0.5)
    assert prob.rows == 3
    assert measure("em", scores).value == pytest.approx(2 / 3)
    assert measure("ppl", scores).value == pytest.approx(np.exp(-np.concatenate(logp).mean()))
    assert np.isnan(measure("es", scores[:1]).stderr)


def test_perplexitys_standard_error_is_that_of_resampling_rows() -> None:
    rng = np.random.default_rng(0)
    scores = [TokenScores(np.log(rng.uniform(0.2, 1, rng.integers(3, 9))), np.array([True])) for _ in range(200)]
    draws = [measure("ppl", [scores[i] for i in rng.integers(0, 200, 200)]).value for _ in range(800)]
    assert measure("ppl", scores).stderr == pytest.approx(np.std(draws), rel=0.12)


def test_hidden_states_are_those_that_predict_each_label(task: Any) -> None:
    batch = collate(task.examples["forget"][:3], task.pad)
    answers = forward(task.base, batch, layer=2)
    assert answers.hidden is not None
    # Two blocks: after the last one, norm and head give the logits.
    logits = task.base.lm_head(answers.hidden)
    assert torch.allclose(logits, answers.logits, atol=1e-5)
    assert token_logp(answers).shape == answers.labels.shape
