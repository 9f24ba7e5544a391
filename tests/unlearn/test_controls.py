"""Controls on hand-made batches, and the ball on a real adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rayul.spec import Control
from rayul.unlearn.controls import controlled
from rayul.unlearn.forward import Answers, token_logp
from rayul.unlearn.losses import mean_nll
from rayul.unlearn.update.lora import LoraUpdate, attach_lora, lora_layers
from rayul.unlearn.update.saved import detach_adapter

# NLL by token of two rows, the last token of the second one padding.
NLL = [[0.1, 2.0, 0.5, 3.0], [1.0, 0.2, 4.0, 9.0]]
MASK = torch.tensor([[True, True, True, True], [True, True, True, False]])


@pytest.fixture
def answers() -> Answers:
    """Two classes; the label is class 0 with exactly the NLL of the table."""
    p = torch.exp(-torch.tensor(NLL))
    logits = torch.stack([p.log(), (1 - p).log()], dim=-1)
    return Answers(logits, torch.zeros(2, 4, dtype=torch.long), MASK)


def kept(answers: Answers, **control: Any) -> list[list[int]]:
    mask = controlled(answers, Control(**control)).mask
    return [row.nonzero().flatten().tolist() for row in mask]


def test_without_controls_nothing_changes(answers: Answers) -> None:
    same = controlled(answers, Control())
    assert torch.equal(same.logits, answers.logits)
    assert torch.equal(same.mask, MASK)


def test_token_cap_drops_tokens_that_are_forgotten(answers: Answers) -> None:
    assert kept(answers, token_cap=1.5) == [[0, 2], [0, 1]]


@pytest.mark.parametrize(
    ("fraction", "by", "expected"),
    [
        (0.5, "smallest", [[0, 2], [0, 1]]),  # 2 of 4 tokens, and ceil(1.5) = 2 of 3
        (0.5, "largest", [[1, 3], [0, 2]]),
        (0.01, "smallest", [[0], [1]]),  # never less than one token
        (0.75, "largest", [[1, 2, 3], [0, 1, 2]]),
    ],
)
def test_selection(answers: Answers, fraction: float, by: str, expected: list[list[int]]) -> None:
    assert kept(answers, select_fraction=fraction, select_by=by) == expected


def test_loss_cap_takes_a_forgotten_sequence_out(answers: Answers) -> None:
    # Means: 1.4 and 5.2/3 = 1.733; sums: 5.6 and 5.2.
    assert kept(answers, loss_cap=1.5) == [[0, 1, 2, 3], []]
    assert kept(answers, loss_cap=5.4, loss_cap_of="sum") == [[], [0, 1, 2]]


@pytest.mark.parametrize(
    "control",
    [{"loss_cap": 1.5}, {"loss_cap": 5.4, "loss_cap_of": "sum"}, {"select_fraction": 0.5}, {"token_cap": 1.5}],
)
def test_leading_dimensions_pass_through(answers: Answers, control: dict[str, Any]) -> None:
    """Two batches in one tensor [2, B, S, V] are limited as each alone."""
    other = Answers(answers.logits.flip(0), answers.labels, MASK.flip(0))
    both = Answers(*(torch.stack([getattr(one, name) for one in (answers, other)]) for name in Answers._fields[:3]))
    alone = [controlled(one, Control(**control)).mask for one in (answers, other)]
    assert torch.equal(controlled(both, Control(**control)).mask, torch.stack(alone))


def test_an_answer_of_one_token_is_capped_by_that_token() -> None:
    """Of one with its own NLL and of one with none, beside a longer one."""
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    logits = torch.stack([torch.tensor([[-1.4, 0.0], [-1.0, -1.0], [0.0, 0.0]]), torch.zeros(3, 2)], dim=-1)
    answers = Answers(logits, torch.zeros(3, 2, dtype=torch.long), mask)
    nll = -token_logp(answers)
    assert nll[0, 0] == pytest.approx(1.62, abs=0.01)
    assert kept(answers, loss_cap=1.5) == [[], [0, 1], []]
    assert kept(answers, select_fraction=0.5, select_by="largest") == [[0], [0], []], "of equals the first"


def test_what_has_reached_a_cap_exactly_stops_pushing() -> None:
    answers = Answers(torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool))
    nll = -token_logp(answers)
    assert kept(answers, token_cap=float(nll[0, 0])) == [[]]
    assert kept(answers, loss_cap=float(nll.sum()), loss_cap_of="sum") == [[]]
    assert kept(answers, token_cap=float(nll[0, 0]) * 1.001) == [[0, 1, 2]]


def test_a_share_of_ten_tokens_is_not_rounded_up_by_floating_point() -> None:
    """0.7 * 10 is 7.000000000000001."""
    answers = Answers(torch.zeros(1, 10, 2), torch.zeros(1, 10, dtype=torch.long), torch.ones(1, 10, dtype=torch.bool))
    assert kept(answers, select_fraction=0.7) == [list(range(7))]
    assert kept(answers, select_fraction=0.71) == [list(range(8))]


@pytest.mark.parametrize(("fraction", "count"), [(0.064, 48), (0.504, 378), (0.0641, 49)])
def test_nor_is_one_of_a_long_answer(fraction: float, count: int) -> None:
    """In single precision 0.064 * 750 is 48.000004. Of equal tokens the first are taken."""
    mask = torch.ones(1, 750, dtype=torch.bool)
    answers = Answers(torch.zeros(1, 750, 2), torch.zeros(1, 750, dtype=torch.long), mask)
    for by in ("smallest", "largest"):
        assert kept(answers, select_fraction=fraction, select_by=by) == [list(range(count))]


def test_ties_go_by_place_in_long_answers_too() -> None:
    logits = torch.stack([torch.arange(750) * 7 % 3, torch.zeros(750)], dim=-1)[None]
    answers = Answers(logits, torch.zeros(1, 750, dtype=torch.long), torch.ones(1, 750, dtype=torch.bool))
    ranked = sorted(range(750), key=lambda i: -(i * 7 % 3))
    assert kept(answers, select_fraction=0.4) == [sorted(ranked[:300])]


def test_loss_cap_has_the_gradient_of_the_hinge(answers: Answers) -> None:
    """mean of max(0, delta - l_i) over the sequences still under delta."""
    logits = answers.logits.clone().requires_grad_()
    capped = controlled(answers._replace(logits=logits), Control(loss_cap=1.5))
    from rayul.unlearn.losses import Side

    side = Side(lambda: capped, lambda: capped, lambda mask: mask)
    (ours,) = torch.autograd.grad(-mean_nll(side), [logits])
    nll = -token_logp(answers._replace(logits=logits))
    per_sequence = nll.sum(-1) / MASK.sum(-1)
    hinge = torch.clamp(1.5 - per_sequence, min=0)
    (wanted,) = torch.autograd.grad(hinge.sum() / (hinge > 0).sum(), [logits])
    assert torch.allclose(ours, wanted, atol=1e-7)


def test_temperature_divides_the_logits_and_caps_still_read_temperature_one(answers: Answers) -> None:
    assert torch.allclose(controlled(answers, Control(temperature=1.5)).logits, answers.logits / 1.5)
    both = controlled(answers, Control(temperature=2.0, token_cap=1.5))
    assert torch.allclose(both.logits, answers.logits / 2)
    assert [row.nonzero().flatten().tolist() for row in both.mask] == [[0, 2], [0, 1]]


@pytest.mark.parametrize("norm", ["frobenius", "elementwise"])
def test_ball_bounds_every_update_and_leaves_small_ones(norm: str, task: Any, make_spec: Callable[..., Any]) -> None:
    model = attach_lora(task.base, make_spec().lora, seed=0)
    layers = lora_layers(model)
    generator = torch.Generator().manual_seed(1)
    for i, layer in enumerate(layers):
        b = layer.lora_B["default"].weight
        b.data = torch.randn(b.shape, generator=generator) * (1e-5 if i == 0 else 1.0)

    def updates() -> list[torch.Tensor]:
        return [layer.get_delta_weight("default").detach().clone() for layer in layers]

    before = updates()
    radius = 0.05
    LoraUpdate(model).project_into_ball(radius, norm)
    after = updates()
    size = (lambda w: w.norm()) if norm == "frobenius" else (lambda w: w.abs().max())
    assert torch.equal(before[0], after[0])
    for old, new in zip(before[1:], after[1:], strict=True):
        assert size(new) == pytest.approx(radius, rel=1e-4)
        assert torch.allclose(new / size(new), old / size(old), atol=1e-4)
    detach_adapter(model)
