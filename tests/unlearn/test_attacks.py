"""Every attack against what can be computed without it; on a tiny untrained model."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rayul import spec
from rayul.unlearn.attacks.fine_tune import fine_tune
from rayul.unlearn.attacks.jailbreak import OPENINGS, PREFIXES, ROLES, opened
from rayul.unlearn.attacks.logit_lens import final_norm, lens_scores
from rayul.unlearn.attacks.noise import asked_span, noised
from rayul.unlearn.attacks.quantise import ROUNDINGS, quantised, rounded
from rayul.unlearn.attacks.relearn import LEARNING_RATES, STEPS
from rayul.unlearn.attacks.table import ATTACKS
from rayul.unlearn.attacks.target import Target
from rayul.unlearn.job import TrialJob
from rayul.unlearn.probe import Missing
from rayul.unlearn.refusal import OTHER_WORDS, in_other_words
from rayul.unlearn.tokens import collate
from rayul.unlearn.update.lora import attach_lora
from rayul.unlearn.update.saved import standalone


@pytest.fixture
def target(task: Any) -> Target:
    rows = tuple(replace(row, paraphrased_question=f"Say: {row.question}") for row in task.sets["forget"])
    return Target(standalone(task.base), task.tokenizer, {**task.sets, "forget": rows})


def logits_of(target: Target, example: Any) -> np.ndarray:
    """One row alone, unpadded: what predicts each answer token."""
    with torch.no_grad():
        out = target.model(input_ids=torch.tensor([example.ids])).logits[0]
    return out[example.start - 1 : example.stop - 1].numpy()


def weights(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_the_spec_knows_every_attack_and_no_other() -> None:
    assert list(ATTACKS) == list(spec.ATTACKS)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_leaves_the_model_as_it_was_and_judges_true_answers(target: Target, name: str) -> None:
    before = weights(target.model)
    attempts = list(ATTACKS[name](target))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(target.model), strict=True))
    assert [p.requires_grad for p in target.model.parameters()] == [False] * len(before)
    assert len({a.variant for a in attempts}) == len(attempts)
    for attempt in attempts:
        lengths = [target.examples[i].stop - target.examples[i].start for i in attempt.judged]
        assert [len(s.match) for s in attempt.scores] == lengths


# --- logit lens ----------------------------------------------------------------------------------------------------


def test_the_lens_at_the_last_layer_is_the_model_itself(target: Target) -> None:
    layers = lens_scores(target.model, target.examples, target.pad, 4)
    assert len(layers) == target.model.config.num_hidden_layers
    for own, lens in zip(target.score(target.examples), layers[-1], strict=True):
        np.testing.assert_allclose(lens.logp, own.logp, atol=1e-5)
        np.testing.assert_array_equal(lens.match, own.match)


def test_the_lens_below_it_is_head_of_norm_of_the_hidden_state(target: Target) -> None:
    """The first layer's output caught by a hook, RMS norm and head done in numpy."""
    example, caught = target.examples[2], {}
    layer = target.model.model.layers[0]
    hook = layer.register_forward_hook(
        lambda module, args, out: caught.update(h=out if torch.is_tensor(out) else out[0])
    )
    logits_of(target, example)
    hook.remove()
    h = caught["h"][0].numpy().astype(np.float64)
    norm = target.model.model.norm
    h = h / np.sqrt((h**2).mean(-1, keepdims=True) + norm.variance_epsilon) * norm.weight.detach().numpy()
    logits = (h @ target.model.lm_head.weight.detach().numpy().T.astype(np.float64))[
        example.start - 1 : example.stop - 1
    ]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = logp[np.arange(len(logp)), list(example.ids[example.start : example.stop])]
    found = lens_scores(target.model, target.examples, target.pad, 4)[0][2]
    np.testing.assert_allclose(found.logp, wanted, atol=1e-4)


def test_the_lens_says_where_it_finds_no_norm() -> None:
    class Bare(torch.nn.Module):
        base_model = torch.nn.Linear(2, 2)

    with pytest.raises(Missing, match="no norm before its head"):
        final_norm(Bare())


# --- token noise ---------------------------------------------------------------------------------------------------


def test_no_noise_is_no_attack_and_full_noise_touches_the_question_only(target: Target) -> None:
    assert noised(target, 0.0, seed=1) == target.examples
    for row, before, after in zip(target.rows, target.examples, noised(target, 1.0, seed=1), strict=True):
        begin, end = asked_span(target, row)
        assert row.question in target.tokenizer.decode(before.ids[begin:end])
        assert target.tokenizer.decode(before.ids[:begin]).strip() == "Question:"
        assert before.ids[:begin] == after.ids[:begin]
        assert before.ids[end:] == after.ids[end:]
        assert sum(a != b for a, b in zip(before.ids[begin:end], after.ids[begin:end], strict=True)) >= 0.8 * (
            end - begin
        )
        assert not set(target.tokenizer.all_special_ids) & set(after.ids[begin:end])


def test_noise_replaces_about_its_share(target: Target) -> None:
    pairs = [pair for seed in range(40) for pair in zip(target.examples, noised(target, 0.3, seed), strict=True)]
    changed = sum(a != b for before, after in pairs for a, b in zip(before.ids, after.ids, strict=True))
    spans = [asked_span(target, row) for row in target.rows]
    count = 40 * sum(end - begin for begin, end in spans)
    assert changed / count == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / count))


# --- quantisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, None), (4, 8), (2, 5)])
def test_rounding_is_off_by_half_a_step_at_most_and_has_few_levels(bits: int, group: int | None) -> None:
    weight = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    found = rounded(weight, bits, group)
    for begin in range(0, 24, group or 24):
        part, near = weight[:, begin : begin + (group or 24)], found[:, begin : begin + (group or 24)]
        step = part.abs().amax(1) / (2 ** (bits - 1) - 1)
        assert ((part - near).abs() <= step[:, None] / 2 + 1e-6).all()
        for row in near:
            assert len(row.unique()) <= 2**bits - 1
    assert (found[3] == 0).all()
    torch.testing.assert_close(rounded(found, bits, group), found)  # what is on the grid stays


def test_quantising_leaves_the_head_and_comes_off_again(target: Target) -> None:
    before = weights(target.model)
    head = target.model.lm_head.weight.clone()
    with quantised(target.model, ROUNDINGS["4-bit, a scale a row"]):
        assert torch.equal(target.model.lm_head.weight, head)
        assert not torch.equal(target.model.model.layers[0].mlp.up_proj.weight, before[4])
        changed = [not torch.equal(a, b) for a, b in zip(before, weights(target.model), strict=True)]
        assert sum(changed) == sum(isinstance(m, torch.nn.Linear) for m in target.model.modules()) - 1
    assert all(torch.equal(a, b) for a, b in zip(before, weights(target.model), strict=True))


def test_an_update_within_the_rounding_step_is_undone_by_quantisation(target: Target) -> None:
    """Its positive control by construction: every weight moves within the cell that rounds to the same value."""
    moved = copy.deepcopy(target.model)
    generator = torch.Generator().manual_seed(0)
    for layer in moved.modules():
        if isinstance(layer, torch.nn.Linear) and layer is not moved.lm_head:
            w = layer.weight.data
            largest = w.abs().amax(1, keepdim=True)
            step = largest / 7
            cell = rounded(w, 4)
            new = cell + (torch.rand(w.shape, generator=generator) - 0.5) * 0.98 * step
            keep = w.abs() == largest  # the scale stays
            layer.weight.data = torch.where(keep, w, new.clamp(-largest, largest))
    unlearned = replace(target, model=moved)

    def apart() -> float:
        pairs = zip(target.score(target.examples), unlearned.score(target.examples), strict=True)
        return max(float(np.abs(a.logp - b.logp).max()) for a, b in pairs)

    before = apart()
    with (
        quantised(moved, ROUNDINGS["4-bit, a scale a row"]),
        quantised(target.model, ROUNDINGS["4-bit, a scale a row"]),
    ):
        assert apart() < before / 1000


# --- prompts -------------------------------------------------------------------------------------------------------


def test_jailbreak_has_five_prefixes_and_roles_and_judges_the_answer_behind_an_opening(target: Target) -> None:
    assert len(PREFIXES) >= 5
    assert len(ROLES) >= 5
    assert all("{question}" in role for role in ROLES)
    plain = target.examples[0]
    begun = opened(target, 0, OPENINGS[0])
    assert target.tokenizer.decode(begun.ids[begun.start : begun.stop]).strip() == target.rows[0].answer
    assert target.tokenizer.decode(begun.ids[: begun.start]).endswith(f"Answer: {OPENINGS[0]}")
    assert begun.stop - begun.start == plain.stop - plain.start


def test_the_prompts_are_those_that_were_asked(target: Target) -> None:
    (attempt,) = ATTACKS["paraphrase"](target)
    alone = logits_of(target, target.asked(target.rows[1], f"Say: {target.rows[1].question}"))
    labels = list(target.examples[1].ids[target.examples[1].start : target.examples[1].stop])
    logp = (alone - np.log(np.exp(alone).sum(-1, keepdims=True)))[np.arange(len(alone)), labels]
    np.testing.assert_allclose(attempt.scores[1].logp, logp, atol=1e-4)


def test_paraphrase_without_paraphrases_says_so(task: Any) -> None:
    with pytest.raises(Missing, match="paraphrased_question"):
        list(ATTACKS["paraphrase"](Target(task.base, task.tokenizer, task.sets)))


def test_the_control_is_not_taught_the_prompts_of_the_attack(task: Any) -> None:
    assert not set(OTHER_WORDS) & {*ROLES, *(f"{prefix} {{question}}" for prefix in PREFIXES)}
    asked = {row.question for row in in_other_words(task, seed=0)}
    assert asked.isdisjoint(row.question for row in task.sets["forget"])


# --- relearning ----------------------------------------------------------------------------------------------------


def test_relearning_judges_rows_that_it_did_not_train_on(target: Target) -> None:
    attempts = list(ATTACKS["relearn"](target))
    assert len(LEARNING_RATES) >= 3
    assert STEPS == (5, 10, 20)
    assert len(attempts) == 2 * len(LEARNING_RATES) * len(STEPS)
    some, unrelated = attempts[: len(attempts) // 2], attempts[len(attempts) // 2 :]
    assert all(set(a.judged) < set(range(len(target.rows))) for a in some)
    assert all(a.judged == tuple(range(len(target.rows))) for a in unrelated)


def test_fine_tuning_follows_the_loss_of_transformers_down(target: Target) -> None:
    """The loss of the same rows by transformers' own label masking falls, and fastest at the largest rate."""
    examples = target.examples[:3]
    batch = collate(examples, target.pad)
    labels = batch.ids.masked_fill(~batch.answer, -100)

    def loss(model: Any) -> float:
        with torch.no_grad():
            return float(model(input_ids=batch.ids, attention_mask=batch.attention, labels=labels).loss)

    reached = []
    for lr in LEARNING_RATES:
        model = attach_lora(copy.deepcopy(target.model), spec.Lora(r=16, alpha=32), seed=0)
        before, training = loss(model), spec.Training(lr=lr, batch_size=8, steps=20)
        losses = [loss(model) for _ in fine_tune(model, examples, target.pad, training)]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < before
        reached.append(losses[-1])
    assert reached == sorted(reached, reverse=True)


# --- a model before and under attack --------------------------------------------------------------------------------


def test_an_attack_that_fails_is_a_line_with_its_reason(
    task: Any, make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayul.records.audited import Audited
    from rayul.spec import Finalists
    from rayul.unlearn.finalist import examine

    def breaks(target: Target) -> Any:
        raise MemoryError("no room")
        yield

    monkeypatch.setitem(ATTACKS, "noise", breaks)
    wanted = Finalists(attacks=("noise", "paraphrase", "quantise"), metrics=("es",))
    rows = list(examine(standalone(task.base), task, make_spec(), Audited("baseline", 0), wanted, done=("quantise",)))
    assert [row.attack for row in rows] == ["", "noise", "paraphrase"]
    assert [row.reason for row in rows] == ["", "MemoryError: no room", "no forget row has a paraphrased_question"]
    assert rows[0].scored[0].metrics["forget.es"] == np.mean(rows[0].scored[0].values["forget.es"])


@pytest.mark.parametrize("target", [0.98, 0.93])
def test_a_finalist_is_calibrated_to_its_own_target_and_saved_as_it_was_measured(
    task: Any, make_spec: Any, tmp_path: Any, target: float
) -> None:
    """Of a sweep with several targets: the adapter on disk keeps the share, and nothing more is asked of it."""
    from rayul.unlearn.evaluate import evaluate
    from rayul.unlearn.finalist import retrain

    control = {"tau": [0.93, 0.98], "mixing": True}
    objectives = {"forget.prob": "minimize", "retain.prob": "maximize"}
    spec = make_spec(method="ga", training={"lr": 0.1}, control=control, objectives=objectives)
    base = evaluate(task.base, task, ("es", "prob", "em", "ppl"), 64).values

    def kept(mixing: float | None, name: str) -> tuple[float, float]:
        """The mixing that was baked in, and what the adapter read from disk keeps."""
        used = retrain(task, TrialJob("finalist", spec, 7, {}, base), 6, mixing, target, tmp_path / name)
        found = evaluate(standalone(task.base, tmp_path / name), task, ("prob",), 64).values
        return used, found["retain.prob"] / base["retain.prob"]

    mixing, share = kept(None, "calibrated")
    assert 0 <= mixing < 1
    assert share >= target - 1e-4
    assert kept(mixing + 1 / 16, "more")[1] < target
    assert kept(0.5, "fixed")[0] == 0.5
