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

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rayul.spec import MethodChoice, is_custom
from rayul.spec.gradients import SETTINGS
from rayul.unlearn.forward import Answers, logp_of
from rayul.unlearn.gradients.contract import FORGET, FORGET_NLL, RETAIN, RETAIN_NLL
from rayul.unlearn.own import own_function
from rayul.unlearn.projection import by_token
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

    def divergence(logits: Tensor, before: Tensor) -> Tensor:
        model, reference = logits.float().log_softmax(-1), before.float().log_softmax(-1)
        return F.kl_div(model, reference, reduction="none", log_target=True).sum(-1)

    per_token = by_token(divergence, side.answers.predicted, side.reference.predicted)
    return batch_mean(sequence_mean(per_token, side.mask), side.mask)


def js_from_reference(side: Side) -> Tensor:
    """mean over answer tokens of JS(model, ref) over the vocabulary, in [0, log 2]."""

    def divergence(logits: Tensor, before: Tensor) -> Tensor:
        model, reference = logits.float().log_softmax(-1), before.float().log_softmax(-1)
        middle = torch.logaddexp(model, reference) - math.log(2)
        halves: Tensor = model.exp() * (model - middle) + reference.exp() * (reference - middle)
        return halves.sum(-1) / 2

    per_token = by_token(divergence, side.answers.predicted, side.reference.predicted)
    return batch_mean(sequence_mean(per_token, side.mask), side.mask)


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


def rmu(forget: Side, idk: Side | None, *, steering: float) -> Tensor:
    """mean ||h_f - c u||^2 / D at the output of a layer, or averaged over several (arXiv 2403.03218).

    h at the positions that predict answer tokens; u a random direction of unit length in [0, 1]^D, fixed per trial;
    c = steering. Needs no ascent, so the likelihood of the rest is not pushed at all.
    """
    assert forget.direction is not None
    pull = (_by_layer(forget, forget.answers) - steering * forget.direction.unsqueeze(-2)).pow(2).mean((-2, -1))
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

    def cross_entropy(logits: Tensor, before: Tensor, labels: Tensor) -> Tensor:
        onehot = F.one_hot(labels, logits.shape[-1])
        return _cross_entropy(logits, (before.float() - beta * onehot).softmax(-1))

    answers = forget.answers
    per_token = by_token(cross_entropy, answers.predicted, forget.reference.predicted, answers.labels)
    return batch_mean(sequence_mean(per_token, forget.mask), forget.mask)


def ceu(forget: Side, idk: Side | None) -> Tensor:
    """CE-U: cross-entropy to sg[softmax(z without the label's logit)] on forget answers
    (arXiv 2503.01224). On every answer token; the authors' code leaves the first one out."""

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        onehot = F.one_hot(labels, logits.shape[-1]).bool()
        return _cross_entropy(logits, logits.detach().float().masked_fill(onehot, -torch.inf).softmax(-1))

    per_token = by_token(cross_entropy, forget.answers.predicted, forget.answers.labels)
    return batch_mean(sequence_mean(per_token, forget.mask), forget.mask)


def jensun(forget: Side, idk: Side | None) -> Tensor:
    """mean JS(p, the refusal's token), in [0, log 2], whose gradient vanishes where the model refuses already (Singh et
    al. 2025, arXiv 2509.02820). The refusal is repeated to the length of the answer, as in the authors' code.

    To a distribution that is all on one token of probability q, JS is log 2 - ((1 + q) log(1 + q) - q log q) / 2.
    """
    assert idk is not None
    logq = logp_of(forget.answers, _repeated(idk.tokens, forget.mask))
    q = logq.exp()
    per_token = math.log(2) - ((1 + q) * torch.log1p(q) - q * logq) / 2
    return batch_mean(sequence_mean(per_token, forget.mask), forget.mask)


def cb(forget: Side, idk: Side | None) -> Tensor:
    """Circuit breakers: (1 - t / 2) mean relu(cos(h, h_ref)), h the hidden states after a layer, averaged over several
    where there are, and t the share of the steps that are done (Zou et al. 2024, arXiv 2406.04313, algorithm 1)."""
    now, before = _by_layer(forget, forget.answers), _by_layer(forget, forget.reference)
    turned = F.cosine_similarity(now, before, dim=-1).relu().mean(-1)
    return (1 - forget.progress / 2) * batch_mean(sequence_mean(turned, forget.mask), forget.mask)


def hold_hidden(retain: Side) -> Tensor:
    """t / 2 mean ||h - h_ref||, the other half of `cb`."""
    assert retain.direction is not None
    moved = _by_layer(retain, retain.answers) - _by_layer(retain, retain.reference)
    # The norm of 0, as at the first step, has no gradient.
    distance = moved.pow(2).sum(-1).clamp(min=1e-12).sqrt().mean(-1)
    return retain.progress / 2 * batch_mean(sequence_mean(distance, retain.mask), retain.mask)


def orth(forget: Side) -> Tensor:
    """t mean over pairs of the batch's rows of relu(cos(a, b)), a row's vector the mean of its hidden states: where all
    point one way, one direction undoes all (orthogonal circuit breakers of EleutherAI/unlearn, without its factor of
    the mean length). 0 for a single row."""
    hidden, mask = _by_layer(forget, forget.answers), forget.mask
    weight = mask / mask.sum(-1, keepdim=True).clamp(min=1)
    pooled = F.normalize(torch.einsum("...bs,...bsld->...bld", weight, hidden), dim=-1, eps=1e-8)
    cosine = torch.einsum("...bld,...cld->...bcl", pooled, pooled).relu().mean(-1)
    present = mask.any(-1)
    pairs = present.unsqueeze(-1) & present.unsqueeze(-2) & ~torch.eye(mask.shape[-2], dtype=torch.bool).to(mask.device)
    average: Tensor = torch.where(pairs, cosine, 0.0).sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1)
    return forget.progress * average


def _by_layer(side: Side, answers: Answers) -> Tensor:
    """Hidden states [..., B, S, L, D] of the L layers that the method reads."""
    assert side.direction is not None
    by_layer: Tensor = _hidden(answers).unflatten(-1, (-1, side.direction.shape[-1]))
    return by_layer


def _repeated(tokens: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """For each unmasked place [..., B, S] the token of an answer (labels and mask [..., B, T]) that is there when it is
    repeated again and again."""
    labels, given = tokens
    begin, length = given.int().argmax(-1, keepdim=True), given.sum(-1, keepdim=True).clamp(min=1)
    place = (mask.cumsum(-1) - 1).clamp(min=0) % length
    return labels.gather(-1, begin + place)


def _hidden(answers: Answers) -> Tensor:
    assert answers.hidden is not None, "spec/methods.py must list 'hidden' in what this method needs"
    return answers.hidden.float()


def _log_ratio(side: Side) -> Tensor:
    """log p_t - log ref_t [B, S]; 0 outside the mask."""
    return torch.where(side.mask, side.logp - side.reference_logp, 0.0)


def _weighted_ascent(side: Side, weight: Tensor) -> Tensor:
    return batch_mean(sequence_mean(weight * side.logp, side.mask), side.mask)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.float().log_softmax(-1)).sum(-1)


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
    "jensun": Loss(jensun, js_from_reference),
    "cb": Loss(cb, hold_hidden, orth=orth),
}


RETAIN_TERMS = {"nll": mean_nll, "kl": kl_from_reference, "js": js_from_reference}
"""The losses on retain rows that a loss of one's own may ask for (`fn.retain`)."""


def terms_of(method: MethodChoice, of: str, forget: Side, retain: Side | None, idk: Side | None) -> Terms:
    """What a gradient rule may ask for (`rayul/unlearn/gradients/contract.py`), of a method without a search. A loss of
    one's own is one term, all of which unlearns, since rayul does not know its parts; and the retain term that it asks
    for."""
    if of == FORGET_NLL:
        return {of: mean_nll(forget)}
    if of == RETAIN_NLL:
        assert retain is not None
        return {of: mean_nll(retain)}
    keywords = {key: value for key, value in method.parameters.items() if key not in SETTINGS}
    if is_custom(method.name):
        asked = method.of(method.name).retain
        weight = keywords.pop("retain_weight") if asked else 0.0
        found = {} if of == RETAIN else {FORGET: loss_of(method)(forget, retain, idk, **keywords)}
        if of != FORGET and weight != 0:
            assert retain is not None
            found[RETAIN] = weight * RETAIN_TERMS[asked](retain)
        return found
    return LOSSES[method.name].terms(of, forget, retain, idk, **keywords)


def loss_of(method: MethodChoice) -> Callable[..., Tensor]:
    """The loss of a spec without a search: one of LOSSES, or the function of its own source text."""
    return own_function(method.name, method.code) if is_custom(method.name) else LOSSES[method.name]


__all__ = ["LOSSES", "Side", "batch_mean", "kl_from_reference", "loss_of", "mean_nll", "sequence_mean", "terms_of"]
