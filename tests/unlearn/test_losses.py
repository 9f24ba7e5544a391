"""Every loss and its gradient against a formula written out row by row in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import formulas
import pytest
import torch

from rayul.spec import METHODS, MethodChoice
from rayul.unlearn.forward import Answers
from rayul.unlearn.losses import LOSSES, Side, loss_of

B, S, V, D = 3, 5, 7, 4
LENGTHS = {
    "plain": (5, 5, 5),
    "padded": (5, 2, 4),
    "an all-masked row": (5, 0, 3),
    "answers of one token": (1, 5, 1),
    "one row left": (0, 3, 0),
}


class Given:
    """Random logits with gradients for the three sides, and their reference."""

    def __init__(self, lengths: tuple[int, ...], seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.mask = torch.arange(S) < torch.tensor(lengths).unsqueeze(-1)
        self.logits = {k: torch.randn(B, S, V, generator=g, dtype=torch.float64) for k in ("f", "r", "i")}
        self.ref = {k: torch.randn(B, S, V, generator=g, dtype=torch.float64) for k in ("f", "r", "i")}
        self.hidden = {k: torch.randn(B, S, D, generator=g, dtype=torch.float64) for k in ("f", "r", "i")}
        self.ref_hidden = torch.randn(B, S, D, generator=g, dtype=torch.float64)
        self.labels = {k: torch.randint(0, V, (B, S), generator=g) for k in ("f", "r", "i")}
        self.direction = torch.rand(D, generator=g, dtype=torch.float64)
        for tensor in (*self.logits.values(), *self.hidden.values()):
            tensor.requires_grad_()

    def masks(self, key: str) -> torch.Tensor:
        # Only the forget side is ever masked by rows: retain and refusals always have answers.
        return self.mask if key == "f" else torch.arange(S) < torch.tensor([[4], [5], [2]])

    def side(self, key: str) -> Side:
        def reference_logp(mask: torch.Tensor) -> torch.Tensor:
            logp = self.ref[key].log_softmax(-1).gather(-1, self.labels[key].unsqueeze(-1)).squeeze(-1)
            return torch.where(mask, logp, 0.0)

        answers = Answers(self.logits[key], self.labels[key], self.masks(key), self.hidden[key])
        reference = Answers(self.ref[key], self.labels[key], self.masks(key), self.ref_hidden)
        return Side(lambda: answers, lambda: reference, reference_logp, self.direction)

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Per row with answer tokens: log p and log ref of its tokens, the full distributions, hidden states."""
        rows = []
        for b in range(B):
            n = int(self.masks(key)[b].sum())
            if n == 0:
                continue
            labels = self.labels[key][b, :n]
            full, ref = self.logits[key][b, :n].log_softmax(-1), self.ref[key][b, :n].log_softmax(-1)
            rows.append(
                {
                    "logp": full[range(n), labels],
                    "ref": ref[range(n), labels],
                    "full": full,
                    "ref_full": ref,
                    "ref_logits": self.ref[key][b, :n],
                    "logits": self.logits[key][b, :n],
                    "labels": labels,
                    "h": self.hidden[key][b, :n],
                    "h_ref": self.ref_hidden[b, :n],
                }
            )
        return rows


def mean(values: list[Any]) -> Any:
    return sum(values) / len(values)


def nll(given: Given, key: str) -> Any:
    return mean([-r["logp"].mean() for r in given.rows(key)])


def kl_retain(given: Given) -> Any:
    return mean([(r["ref_full"].exp() * (r["ref_full"] - r["full"])).sum(-1).mean() for r in given.rows("r")])


def log_sigmoid(x: Any) -> Any:
    return -torch.log1p(torch.exp(-x))


def dpo(given: Given, beta: float) -> Any:
    terms = []
    for b in range(B):
        if not given.mask[b].any():
            continue
        margin = 0.0
        for key, sign in (("i", 1), ("f", -1)):
            n = int(given.masks(key)[b].sum())
            for t in range(n):
                y = given.labels[key][b, t]
                margin = margin + sign * (
                    given.logits[key][b, t].log_softmax(-1)[y] - given.ref[key][b, t].log_softmax(-1)[y]
                )
        terms.append(-2 / beta * log_sigmoid(beta * margin))
    return mean(terms)


def undial(given: Given, beta: float) -> Any:
    terms = []
    for r in given.rows("f"):
        target = r["ref_logits"].clone()
        for t, y in enumerate(r["labels"]):
            target[t, y] -= beta
        terms.append(-(target.softmax(-1) * r["full"]).sum(-1).mean())
    return mean(terms)


def ceu(given: Given) -> Any:
    terms = []
    for r in given.rows("f"):
        per_token = []
        for t, y in enumerate(r["labels"]):
            others = [v for v in range(V) if v != y]
            target = r["logits"][t, others].detach().softmax(-1)
            per_token.append(-(target * r["full"][t, others]).sum())
        terms.append(mean(per_token))
    return mean(terms)


def rmu(given: Given, c: float, w: float) -> Any:
    pull = mean([((r["h"] - c * given.direction) ** 2).sum(-1).mean() / D for r in given.rows("f")])
    hold = mean([((r["h"] - r["h_ref"]) ** 2).sum(-1).mean() / D for r in given.rows("r")])
    return pull + w * hold


W = 0.7
CASES: dict[str, tuple[dict[str, Any], Callable[[Given], Any]]] = {
    "ga": ({}, lambda g: -nll(g, "f")),
    "gd": ({"retain_weight": W}, lambda g: -nll(g, "f") + W * nll(g, "r")),
    "kl": ({"retain_weight": W}, lambda g: -nll(g, "f") + W * kl_retain(g)),
    "po": ({"retain_weight": W}, lambda g: nll(g, "i") + W * nll(g, "r")),
    "dpo": ({"beta": 0.3, "retain_weight": W}, lambda g: dpo(g, 0.3) + W * nll(g, "r")),
    "npo": (
        {"beta": 0.3, "retain_weight": W, "retain_loss": "kl"},
        lambda g: (
            mean([-2 / 0.3 * log_sigmoid(-0.3 * (r["logp"] - r["ref"]).sum()) for r in g.rows("f")]) + W * kl_retain(g)
        ),
    ),
    "simnpo": (
        {"beta": 2.5, "gamma": 0.4, "retain_weight": W},
        lambda g: mean([-2 / 2.5 * log_sigmoid(-2.5 * r["logp"].mean() - 0.4) for r in g.rows("f")]) + W * nll(g, "r"),
    ),
    "rmu": ({"layer": 1, "steering": 3.0, "retain_weight": W}, lambda g: rmu(g, 3.0, W)),
    "wga": (
        {"beta": 0.6, "retain_weight": W},
        lambda g: mean([(r["logp"].detach().exp() ** 0.6 * r["logp"]).mean() for r in g.rows("f")]) + W * nll(g, "r"),
    ),
    "tnpo": (
        {"beta": 0.3, "retain_weight": W},
        lambda g: (
            mean([(2 / 0.3 * torch.log(1 + (r["logp"] - r["ref"]).exp() ** 0.3)).mean() for r in g.rows("f")])
            + W * nll(g, "r")
        ),
    ),
    "wtnpo": (
        {"beta": 0.3, "alpha": 0.8, "retain_weight": W},
        lambda g: (
            mean(
                [
                    (
                        r["logp"].detach().exp() ** 0.8 * 2 / 0.3 * torch.log(1 + (r["logp"] - r["ref"]).exp() ** 0.3)
                    ).mean()
                    for r in g.rows("f")
                ]
            )
            + W * nll(g, "r")
        ),
    ),
    "satimp": (
        {"beta1": 1.5, "beta2": 0.5, "retain_weight": W},
        lambda g: (
            mean(
                [
                    (r["logp"].detach().exp() ** 1.5 * (1 - r["logp"].detach().exp()) ** 0.5 * r["logp"]).mean()
                    for r in g.rows("f")
                ]
            )
            + W * nll(g, "r")
        ),
    ),
    "undial": ({"beta": 4.0, "retain_weight": W}, lambda g: undial(g, 4.0) + W * nll(g, "r")),
    "ceu": ({"retain_weight": W}, lambda g: ceu(g) + W * nll(g, "r")),
    **formulas.CASES,
}


def test_every_method_of_the_spec_has_a_loss_and_a_formula() -> None:
    assert set(LOSSES) == set(METHODS) == set(CASES)
    assert all(loss_of(MethodChoice(name)) is loss for name, loss in LOSSES.items())


@pytest.mark.parametrize("shape", LENGTHS)
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_formula(name: str, shape: str) -> None:
    keywords, formula = CASES[name]
    given = Given(LENGTHS[shape])
    leaves = [*given.logits.values(), *given.hidden.values()]
    loss = LOSSES[name](given.side("f"), given.side("r"), given.side("i"), **keywords)
    expected = formula(given)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    got = torch.autograd.grad(loss, leaves, allow_unused=True)
    wanted = torch.autograd.grad(expected, leaves, allow_unused=True)
    for g, w in zip(got, wanted, strict=True):
        g = torch.zeros(1) if g is None else g
        w = torch.zeros(1) if w is None else w
        assert torch.allclose(g.double(), w.double(), atol=2e-6), name


@pytest.mark.parametrize("name", CASES)
def test_leading_dimensions_pass_through(name: str) -> None:
    """Two batches in one tensor [2, B, S, V] have the losses of each alone."""
    given = [Given(LENGTHS["padded"], seed) for seed in (1, 2)]
    keywords, _ = CASES[name]

    def stacked(key: str) -> Side:
        def both(parts: list[Answers]) -> Answers:
            return Answers(*(torch.stack([getattr(part, field) for part in parts]) for field in Answers._fields[:4]))

        sides = [one.side(key) for one in given]
        answers, reference = both([s.answers for s in sides]), both([s.reference for s in sides])
        logp = torch.stack([s.reference_logp for s in sides])
        return Side(
            lambda: answers, lambda: reference, lambda _: logp, torch.stack([g.direction for g in given])[:, None, None]
        )

    together = LOSSES[name](stacked("f"), stacked("r"), stacked("i"), **keywords)
    alone = [LOSSES[name](g.side("f"), g.side("r"), g.side("i"), **keywords) for g in given]
    assert together.shape == (2,)
    assert torch.allclose(together, torch.stack(alone), rtol=1e-5)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0), (1.0, 1)])
def test_a_retain_weight_of_nought_or_one_is_that_weight(weight: float, expected: int) -> None:
    given = Given(LENGTHS["plain"])
    loss = LOSSES["gd"](given.side("f"), given.side("r"), None, retain_weight=weight)
    assert loss.item() == pytest.approx((-nll(given, "f") + expected * nll(given, "r")).item(), rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_that_is_wholly_masked_pushes_nothing(name: str) -> None:
    keywords, _ = CASES[name]
    if name == "po":
        pytest.skip("po has no forget term")
    given = Given((0, 0, 0))
    loss = LOSSES[name](given.side("f"), given.side("r"), given.side("i"), **keywords)
    assert torch.isfinite(loss)
    grad = torch.autograd.grad(loss, [given.logits["f"], given.hidden["f"]], allow_unused=True)
    assert all(g is None or not g.any() for g in grad)
