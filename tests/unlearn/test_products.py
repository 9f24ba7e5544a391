"""Products with frozen weights: values and gradients against autograd on the formula in float64, lane by lane."""

from __future__ import annotations

import copy

import pytest
import torch

from rayul.unlearn import products

LANES, TOKENS, INPUTS, RANK, OUTPUTS = 3, 10, 24, 4, 40


@pytest.fixture(params=["by MKL", "by oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    onednn = request.param == "by oneDNN"
    if onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "by_onednn", lambda: onednn)


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).requires_grad_()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("first", [False, True], ids=["input trained", "input not trained"])
def test_adapted_is_the_formula(bias: bool, dropout: bool, first: bool) -> None:
    torch.manual_seed(0)
    x, a, b = _drawn(LANES, TOKENS, INPUTS), _drawn(LANES, INPUTS, RANK), _drawn(LANES, RANK, OUTPUTS)
    x.requires_grad_(not first)
    weight, shift = torch.randn(OUTPUTS, INPUTS), torch.randn(OUTPUTS) if bias else None
    scale, factor = torch.tensor([2.0, 0.0, 0.5]), torch.randint(0, 2, x.shape) * 2.0
    outer = torch.randn(LANES, TOKENS, OUTPUTS)

    seen = x * factor if dropout else None
    found = products.adapted(x, seen, weight, shift, a, b, scale)
    wanted_by = [t for t in (x, a, b) if t.requires_grad]
    gradients = torch.autograd.grad((found * outer).sum(), wanted_by)

    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in (x, a, b)]
    lanes = []
    for k in range(LANES):
        own = exact[0][k]
        low = (own * factor[k].double() if dropout else own) @ exact[1][k] @ exact[2][k]
        lanes.append(own @ weight.double().T + float(scale[k]) * low + (shift.double() if bias else 0))
    formula = torch.stack(lanes)
    expected = torch.autograd.grad((formula * outer.double()).sum(), [t for t in exact if t.requires_grad])

    torch.testing.assert_close(found.double(), formula, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("library")
def test_frozen_is_a_linear_module_whose_weight_has_no_gradient() -> None:
    torch.manual_seed(0)
    x, weight, outer = _drawn(2, TOKENS, INPUTS), torch.randn(OUTPUTS, INPUTS), torch.randn(2, TOKENS, OUTPUTS)
    found = products.frozen(x, weight, None)
    (gradient,) = torch.autograd.grad((found * outer).sum(), x)
    torch.testing.assert_close(found.double(), x.double() @ weight.double().T, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient.double(), outer.double() @ weight.double(), rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("library")
def test_a_model_multiplies_by_hand_for_a_block_without_gradients() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(INPUTS, OUTPUTS), torch.nn.GELU(), torch.nn.Linear(OUTPUTS, 3, False))
    other = torch.nn.Linear(3, 3)
    other.forward = lambda x: 2 * x  # type: ignore[method-assign]
    model.append(other)
    x = torch.randn(2, TOKENS, INPUTS)
    exact = copy.deepcopy(model[:3]).double()(x.double()) * 2
    with torch.no_grad(), products.by_hand(model):
        torch.testing.assert_close(model(x).double(), exact, rtol=1e-5, atol=1e-5)
    assert [name for name, m in model.named_modules() if "forward" in vars(m)] == ["3"], "and afterwards as they were"
    with products.by_hand(model):
        model(x).sum().backward()
    assert all(p.grad is not None for p in model[:3].parameters()), "who trains the weights gets their gradients"


@pytest.mark.usefixtures("library")
def test_a_row_is_the_same_whatever_is_beside_it() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4 * 240, 128), torch.randn(384, 128)
    whole = products.frozen(x, weight, None)
    for count in (8, 30, 240, 241, 480):
        for begin in (0, 17, 240):
            part = products.frozen(x[begin : begin + count].clone(), weight, None)
            assert torch.equal(part, whole[begin : begin + count]), (count, begin)
