"""Log-probabilities of labels and their gradient against log_softmax in float64."""

from __future__ import annotations

import pytest
import torch

from rayul.unlearn import label_logp as module
from rayul.unlearn.label_logp import label_logp

B, S, V = 3, 5, 11


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels, and the gradient of the result."""
    g = torch.Generator().manual_seed(0)
    return (
        5 * torch.randn(B, S, V, generator=g),
        torch.randint(0, V, (B, S), generator=g),
        torch.randn(B, S, generator=g),
    )


def exact(logits: torch.Tensor, labels: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.double().requires_grad_()
    logp = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    (found,) = torch.autograd.grad(logp, logits, gradient.double())
    return logp.detach(), found


@pytest.mark.parametrize(
    ("chunk", "compiled"), [(2**25, False), (2 * V, False), pytest.param(2**25, True, marks=pytest.mark.slow)]
)
def test_values_and_gradient(
    given: tuple[torch.Tensor, ...], chunk: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    logits, labels, gradient = given
    logits = logits.clone().requires_grad_()
    logp = label_logp(logits, labels, compiled)
    (found,) = torch.autograd.grad(logp, logits, gradient)
    expected, expected_gradient = exact(*given)
    assert torch.allclose(logp.double(), expected, rtol=0, atol=1e-5)
    assert torch.allclose(found.double(), expected_gradient, rtol=0, atol=1e-5)


def test_bfloat16_logits_are_read_in_float32_and_get_a_gradient_of_their_own_kind(
    given: tuple[torch.Tensor, ...],
) -> None:
    logits, labels, gradient = given
    rounded = logits.bfloat16().requires_grad_()
    logp = label_logp(rounded, labels)
    (found,) = torch.autograd.grad(logp, rounded, gradient)
    expected, expected_gradient = exact(rounded.detach(), labels, gradient)
    assert logp.dtype == torch.float32
    assert torch.allclose(logp.double(), expected, rtol=0, atol=1e-5), "rounded only once"
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.double(), expected_gradient, rtol=2**-8, atol=1e-6)
