"""Unlearning methods: what each does to the forget rows is a function, what holds the retain rows is another, and the
table LOSSES at the end says which go together.

A term maps what it sees of the batches to a scalar to minimise. Notation of the docstrings: for a sequence with answer
tokens t = 1..L, p_t is the model's probability of token t, l = -mean_t log p_t its mean NLL, s = -sum_t log p_t its
summed NLL, `ref` the same of the model before unlearning (adapter disabled), _f on forget, _r on retain rows. "mean"
without index is over the sequences of the batch that have an unmasked token. All in nats.

Every function reduces over the last dimensions only, [..., B, S] -> [...]: leading dimensions pass through. To add a
method: a function here, its row in LOSSES, its row in `rayul/spec/methods.py`. A function of somebody's own file is
named in the spec and needs none of these (`rayul/spec/custom.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rayul.spec import MethodChoice, is_custom
from rayul.spec.gradients import SETTINGS
from rayul.unlearn.forward import Answers
from rayul.unlearn.gradients.contract import FORGET, FORGET_NLL, RETAIN, RETAIN_NLL
from rayul.unlearn.own import own_function
from rayul.unlearn.side import Side
from rayul.unlearn.terms import Loss, Terms


def sequence_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[..., B, S] -> [..., B]: mean over unmasked tokens; 0 for a row without any."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def batch_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[..., B] -> [...]: mean over the rows that have an unmasked token; 0 where no row has."""
    present = mask.any(-1)
    return torch.where(present, values, 0.0).sum(-1) / present.sum(-1).clamp(min=1)


def mean_nll(side: Side) -> Tensor:
    """mean l."""
    return batch_mean(sequence_mean(-side.logp, side.mask), side.mask)


def kl_from_reference(side: Side) -> Tensor:
    """mean over answer tokens of KL(ref || model) over the vocabulary; padding and prompt do not count.

    (Some implementations average over padded positions, which rewards padding.)
    """
    model, reference = side.answers.logits.float().log_softmax(-1), side.reference.logits.float().log_softmax(-1)
    divergence = F.kl_div(model, reference, reduction="none", log_target=True).sum(-1)
    return batch_mean(sequence_mean(divergence, side.mask), side.mask)


def hidden_from_reference(side: Side) -> Tensor:
    """mean ||h - h_ref||^2 / D, at the positions that predict answer tokens."""
    moved = (_hidden(side.answers) - _hidden(side.reference)).pow(2).mean(-1)
    return batch_mean(sequence_mean(moved, side.mask), side.mask)


# --- what unlearns -----------------------------------------------------------------------------------------------


def ga(forget: Side, idk: Side | None) -> Tensor:
    """Gradient ascent: -mean l_f (Jang et al. 2023, arXiv 2210.01504)."""
    return -mean_nll(forget)


def po(forget: Side, idk: Side | None) -> Tensor:
    """Preference optimisation by refusal: mean l of "I don't know" answers to forget questions (TOFU)."""
    assert idk is not None
    return mean_nll(idk)


def dpo(forget: Side, idk: Side | None, *, beta: float) -> Tensor:
    """-(2/beta) mean log sigmoid(beta [(s_ref - s)_idk - (s_ref - s)_f]).

    DPO (arXiv 2305.18290) with the refusal preferred to the answer, scaled as NPO is. A row whose answer is wholly
    masked by a control pushes nothing.
    """
    assert idk is not None
    margin = _log_ratio(idk).sum(-1) - _log_ratio(forget).sum(-1)
    return batch_mean(-(2 / beta) * F.logsigmoid(beta * margin), forget.mask)


def npo(forget: Side, idk: Side | None, *, beta: float) -> Tensor:
    """-(2/beta) mean log sigmoid(beta (s - s_ref)) (arXiv 2404.05868, eq. 3)."""
    ratio = _log_ratio(forget).sum(-1)
    return batch_mean((2 / beta) * F.softplus(beta * ratio), forget.mask)


def simnpo(forget: Side, idk: Side | None, *, beta: float, gamma: float) -> Tensor:
    """-(2/beta) mean log sigmoid(beta l - gamma) (Fan et al. 2024, arXiv 2410.07163): no reference.

    gamma stands outside of beta, as in the paper's equation; the authors' code has beta (l - gamma).
    """
    nll = sequence_mean(-forget.logp, forget.mask)
    return batch_mean(-(2 / beta) * F.logsigmoid(beta * nll - gamma), forget.mask)


def rmu(forget: Side, idk: Side | None, *, layer: int | None, steering: float) -> Tensor:
    """mean ||h_f - c u||^2 / D at the output of layer L (arXiv 2403.03218).

    h at the positions that predict answer tokens; u a random direction of unit length in [0, 1]^D, fixed per trial;
    c = steering. Needs no ascent, so the likelihood of the rest is not pushed at all.
    """
    assert forget.direction is not None
    pull = (_hidden(forget.answers) - steering * forget.direction).pow(2).mean(-1)
    return batch_mean(sequence_mean(pull, forget.mask), forget.mask)


def wga(forget: Side, idk: Side | None, *, beta: float) -> Tensor:
    """Weighted GA: mean of sg[p_t^beta] log p_t (Wang et al. 2025, arXiv 2502.19301).

    The weight fades as a token is forgotten, which damps the explosion of 1/p in the gradient of log p.
    """
    return _weighted_ascent(forget, (beta * forget.logp.detach()).exp())


def tnpo(forget: Side, idk: Side | None, *, beta: float) -> Tensor:
    """Token-wise NPO: mean over tokens of (2/beta) log(1 + (p_t / ref_t)^beta) (arXiv 2502.19301)."""
    per_token = (2 / beta) * F.softplus(beta * _log_ratio(forget))
    return batch_mean(sequence_mean(per_token, forget.mask), forget.mask)


def wtnpo(forget: Side, idk: Side | None, *, beta: float, alpha: float) -> Tensor:
    """Token-wise NPO weighted by sg[p_t^alpha], as in WGA (arXiv 2502.19301)."""
    per_token = (alpha * forget.logp.detach()).exp() * (2 / beta) * F.softplus(beta * _log_ratio(forget))
    return batch_mean(sequence_mean(per_token, forget.mask), forget.mask)


def satimp(forget: Side, idk: Side | None, *, beta1: float, beta2: float) -> Tensor:
    """Saturation and importance weights: mean of sg[p_t^b1 (1 - p_t)^b2] log p_t (arXiv 2505.11953)."""
    p = forget.logp.detach().exp()
    return _weighted_ascent(forget, p**beta1 * (1 - p) ** beta2)


def undial(forget: Side, idk: Side | None, *, beta: float) -> Tensor:
    """Self-distillation: cross-entropy to softmax(z_ref - beta * onehot(label)) on forget answers
    (Dong et al. 2024, arXiv 2402.10052)."""
    onehot = F.one_hot(forget.answers.labels, forget.answers.logits.shape[-1])
    target = (forget.reference.logits.float() - beta * onehot).softmax(-1)
    return _cross_entropy(forget, target)


def ceu(forget: Side, idk: Side | None) -> Tensor:
    """CE-U: cross-entropy to sg[softmax(z without the label's logit)] on forget answers
    (arXiv 2503.01224). On every answer token; the authors' code leaves the first one out."""
    onehot = F.one_hot(forget.answers.labels, forget.answers.logits.shape[-1]).bool()
    target = forget.answers.logits.detach().float().masked_fill(onehot, -torch.inf).softmax(-1)
    return _cross_entropy(forget, target)


def _hidden(answers: Answers) -> Tensor:
    assert answers.hidden is not None, "spec/methods.py must list 'hidden' in what this method needs"
    return answers.hidden.float()


def _log_ratio(side: Side) -> Tensor:
    """log p_t - log ref_t [B, S]; 0 outside the mask."""
    return torch.where(side.mask, side.logp - side.reference_logp, 0.0)


def _weighted_ascent(side: Side, weight: Tensor) -> Tensor:
    return batch_mean(sequence_mean(weight * side.logp, side.mask), side.mask)


def _cross_entropy(side: Side, target: Tensor) -> Tensor:
    per_token = -(target * side.answers.logits.float().log_softmax(-1)).sum(-1)
    return batch_mean(sequence_mean(per_token, side.mask), side.mask)


# --- what goes together ----------------------------------------------------------------------------------------

LOSSES: dict[str, Loss] = {
    "ga": Loss(ga),
    "gd": Loss(ga, mean_nll),  # GradDiff, Liu et al. 2022, arXiv 2203.12817; TOFU, arXiv 2401.06121
    "kl": Loss(ga, kl_from_reference),  # Yao et al. 2023, arXiv 2310.10683; TOFU
    "po": Loss(po, mean_nll),
    "dpo": Loss(dpo, mean_nll),
    "npo": Loss(npo, {"nll": mean_nll, "kl": kl_from_reference}),
    "simnpo": Loss(simnpo, mean_nll),
    "rmu": Loss(rmu, hidden_from_reference),
    "wga": Loss(wga, mean_nll),
    "tnpo": Loss(tnpo, mean_nll),
    "wtnpo": Loss(wtnpo, mean_nll),
    "satimp": Loss(satimp, mean_nll),
    "undial": Loss(undial, mean_nll),
    "ceu": Loss(ceu, mean_nll),
}


def terms_of(method: MethodChoice, of: str, forget: Side, retain: Side | None, idk: Side | None) -> Terms:
    """What a gradient rule may ask for (`rayul/unlearn/gradients/contract.py`), of a method without a search. A loss of
    one's own is one term, all of which unlearns: rayul does not know its parts."""
    if of == FORGET_NLL:
        return {of: mean_nll(forget)}
    if of == RETAIN_NLL:
        assert retain is not None
        return {of: mean_nll(retain)}
    keywords = {key: value for key, value in method.parameters.items() if key not in SETTINGS}
    if is_custom(method.name):
        return {} if of == RETAIN else {FORGET: loss_of(method)(forget, retain, idk, **keywords)}
    return LOSSES[method.name].terms(of, forget, retain, idk, **keywords)


def loss_of(method: MethodChoice) -> Callable[..., Tensor]:
    """The loss of a spec without a search: one of LOSSES, or the function of its own source text."""
    return own_function(method.name, method.code) if is_custom(method.name) else LOSSES[method.name]


__all__ = ["LOSSES", "Side", "batch_mean", "kl_from_reference", "loss_of", "mean_nll", "sequence_mean", "terms_of"]
