"""Logits that are computed in parts against whole ones, and for whom they stay whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from packed import advance
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig

from rayul.spec import METHODS
from rayul.unlearn import projection
from rayul.unlearn.forward import forward, score, token_logp
from rayul.unlearn.job import TrialJob
from rayul.unlearn.membership import standardised
from rayul.unlearn.pack import Pack, Shape
from rayul.unlearn.projection import Projection, projecting_head
from rayul.unlearn.tokens import Example, collate
from rayul.unlearn.train import accumulate_gradient, steering_direction
from rayul.unlearn.update import attach

MakeSpec = Callable[..., Any]
PART = 3


@pytest.fixture
def in_parts(task: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switches between whole logits and parts of PART tokens."""
    vocabulary = task.base.lm_head.out_features

    def switch(on: bool) -> None:
        monkeypatch.setattr(projection, "LARGE", 1 if on else vocabulary + 1)
        monkeypatch.setattr(projection, "CHUNK", PART * vocabulary)

    switch(True)
    return switch


class Widest(TorchDispatchMode):
    """The most tokens of a vocabulary's size that an operation returned at once."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vocabulary, self.width, self.tokens = vocabulary, width, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            is_logits = isinstance(one, torch.Tensor) and one.ndim > 1 and one.shape[-1] == self.vocabulary
            if is_logits and one.shape[-2] != self.width:  # which the head has, transposed
                self.tokens = max(self.tokens, one.numel() // self.vocabulary)
        return found


def test_logp_and_its_gradient_against_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "CHUNK", 2 * 11)
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(7, 11).requires_grad_(False)
    hidden = 4 * torch.randn(3, 5, 7, generator=generator)
    labels = torch.randint(0, 11, (3, 5), generator=generator)
    gradient = torch.randn(3, 5, generator=generator)
    hidden.requires_grad_()
    found = Projection(hidden, head).logp(labels)
    (slope,) = torch.autograd.grad(found, hidden, gradient)
    logp, match = Projection(hidden, head).scores(labels)
    exact = hidden.detach().double().requires_grad_()
    logits = exact @ head.weight.double().T + head.bias.double()
    expected = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    (expected_slope,) = torch.autograd.grad(expected, exact, gradient.double())
    for ours in (found, logp):
        assert torch.allclose(ours.double(), expected, rtol=0, atol=1e-5)
    assert torch.allclose(slope.double(), expected_slope, rtol=0, atol=1e-5)
    assert torch.equal(match, logits.argmax(-1) == labels)


def test_the_gradient_of_a_memorised_token_is_no_noise() -> None:
    """There 1 - p is 1e-6, and the difference of two products of the head would be of that size by rounding alone."""
    head = torch.nn.Linear(8, 50, bias=False).requires_grad_(False)
    torch.manual_seed(1)
    head.weight.normal_()
    hidden = (12 / head.weight[3].norm() ** 2 * head.weight[3] * 1.4).view(1, 8).requires_grad_()
    labels = torch.tensor([3])
    (slope,) = torch.autograd.grad(Projection(hidden, head).logp(labels).sum(), hidden)
    exact = hidden.detach().double().requires_grad_()
    logp = (exact @ head.weight.double().T).log_softmax(-1)[0, 3]
    (expected,) = torch.autograd.grad(logp, exact)
    assert -1e-2 < logp.item() < -1e-9
    assert torch.allclose(slope.double(), expected, rtol=1e-3, atol=0)


CASES: list[tuple[str, dict[str, Any]]] = [(method, {}) for method in METHODS]
CASES += [("npo", {"method": {"name": "npo", "retain_loss": "kl"}}), ("gd", {"control": {"temperature": 2.0}})]


@pytest.mark.parametrize(("method", "more"), CASES)
def test_a_step_has_the_gradient_of_whole_logits(
    method: str, more: dict[str, Any], task: Any, make_spec: MakeSpec, in_parts: Callable[[bool], None]
) -> None:
    spec = make_spec(**({"method": method} | more))
    found = []
    for on in (False, True):
        in_parts(on)
        update = attach(task, spec, 0)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in update.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05, generator=generator)
        widest = Widest(task.base.lm_head.out_features, task.base.config.hidden_size)
        with widest:
            direction = steering_direction(task, spec, 0)
            terms = accumulate_gradient(update, task, spec, [0, 1, 2], [0, 1, 2], direction, 0.5)
        if on and spec.control.temperature == 1.0:  # else logits are divided whole
            assert widest.tokens <= PART
        found.append((terms, [p.grad.clone() for p in update.parameters if p.grad is not None]))
        update.detach()
    (whole, expected), (parts, ours) = found
    assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)
    size = max(float(one.abs().max()) for one in expected)
    for mine, other in zip(ours, expected, strict=True):
        assert torch.allclose(mine, other, rtol=0, atol=1e-5 * size)


def test_scores_are_those_of_whole_logits(task: Any, in_parts: Callable[[bool], None]) -> None:
    examples = task.training["forget"][:7]
    found = {}
    for on in (False, True):
        in_parts(on)
        with Widest(task.base.lm_head.out_features, task.base.config.hidden_size) as widest:
            scores = score(task.base, examples, task.pad, 4)
        found[on] = scores, standardised(task.base, examples, task.pad, 4)
        assert (widest.tokens <= PART) is on
    for mine, other in zip(found[True][0], found[False][0], strict=True):
        assert mine.logp == pytest.approx(other.logp, abs=1e-5)
        assert (mine.match == other.match).all()
    for one, another in zip(found[True][1], found[False][1], strict=True):
        assert one == pytest.approx(another, abs=1e-4)


def test_option_letters_are_scored_alike(task: Any, in_parts: Callable[[bool], None]) -> None:
    examples = [Example((5, 6, 7, 8), 2, 4, options=(8, 9, 10)), Example((5, 6, 9), 2, 3, options=(9, 8))]
    found = []
    for on in (False, True):
        in_parts(on)
        found.append(score(task.base, examples, task.pad))
    for mine, other in zip(*found, strict=True):
        assert mine.options == pytest.approx(other.options, abs=1e-5)
        assert mine.right == other.right


@pytest.mark.parametrize("group", [None, 2])
@pytest.mark.parametrize("method", ["npo", "kl", "undial"])
def test_a_packed_trial_is_the_same_to_the_bit_whoever_is_beside_it(
    method: str, group: int | None, task: Any, make_spec: MakeSpec, in_parts: Callable[[bool], None]
) -> None:
    spec = make_spec(method=method, training={"steps": 3, "evaluate_every": 3})
    found = []
    for neighbours in (0, 2):
        pack = Pack(task, spec, Shape(slots=3, rank=8, rows=2, group=group, lanes=2))
        for seed in range(neighbours):
            pack.join(TrialJob(str(seed), make_spec(method="gd"), seed, {}, {}))
        slot = pack.join(TrialJob("t", spec, 7, {}, {}))
        rows = []
        widest = Widest(task.base.lm_head.out_features, task.base.config.hidden_size)
        with widest:
            while not pack.slots[slot].ended:
                rows += [row for k, own in advance(pack) if k == slot for row in own]
        assert 0 < widest.tokens <= PART
        found.append(([row.metrics for row in rows], pack.state(slot).values))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


SHAPE = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "is_last"),
    [
        (LlamaConfig(**SHAPE), True),
        (LlamaConfig(**SHAPE, tie_word_embeddings=True), True),
        (Gemma2Config(**SHAPE, final_logit_softcapping=2.0), False),
        (Gemma2Config(**SHAPE, final_logit_softcapping=None), True),
        (CohereConfig(**SHAPE, logit_scale=0.1), False),
        (GraniteConfig(**SHAPE, logits_scaling=4.0), False),
    ],
)
def test_a_model_that_changes_its_logits_keeps_them_whole(
    config: Any, is_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
    batch = collate([Example((5, 6, 7, 8), 2, 4), Example((5, 9, 7, 8, 11), 3, 5)], 0)
    logits = model(input_ids=batch.ids, attention_mask=batch.attention).logits[:, 1:-1]
    monkeypatch.setattr(projection, "LARGE", 64)
    before = torch.random.get_rng_state()
    assert (projecting_head(model) is not None) is is_last
    assert torch.equal(torch.random.get_rng_state(), before)
    answers = forward(model, batch)
    assert isinstance(answers.predicted, Projection) is is_last
    assert torch.allclose(answers.logits, logits, atol=1e-6)
    expected = logits.log_softmax(-1).gather(-1, answers.labels.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(token_logp(answers), torch.where(answers.mask, expected, 0.0), atol=1e-5)
    model.lm_head.weight.requires_grad_()
    assert projecting_head(model) is None, "its head is trained"
