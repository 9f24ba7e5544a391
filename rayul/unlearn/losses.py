"""Unlearning methods: one function each, and the table LOSSES at the end.

A loss maps what it sees of the batches to a scalar to minimise. Notation of the docstrings: for a sequence with answer
tokens t = 1..L, p_t is the model's probability of token t, l = -mean_t log p_t its mean NLL, s = -sum_t log p_t its
summed NLL, `ref` the same of the model before unlearning (adapter disabled), _f on forget, _r on retain rows. "mean"
without index is over the sequences of the batch that have an unmasked token. All in nats.

Every function reduces over the last dimensions only, [..., B, S] -> [...]: leading dimensions pass through. To add a
method: a function here, its name in LOSSES, its row in `rayul/spec/methods.py`. A function of somebody's own file is
named in the spec and needs none of these (`rayul/spec/custom.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from rayul.spec import MethodChoice, is_custom
from rayul.unlearn.forward import Answers, token_logp
from rayul.unlearn.own import own_function


class Side:
    """One batch of one set, as a loss sees it; each forward happens when a loss first asks for it.

    answers: logits [B, S, V], labels [B, S], mask [B, S]; on the forget side the controls are already applied.
    reference: the same batch through the model before unlearning (adapter disabled, no gradient).
    reference_logp: its token log-probabilities [B, S] on the mask (cached for all trials of a process).
    direction: [D], for methods that steer hidden states (then `answers.hidden` [B, S, D] is there too).
    """

    def __init__(
        self,
        answers: Callable[[], Answers],
        reference: Callable[[], Answers],
        reference_logp: Callable[[Tensor], Tensor],
        direction: Tensor | None = None,
    ) -> None:
        self._answers, self._reference, self._reference_logp = answers, reference, reference_logp
        self.direction = direction

    @cached_property
    def answers(self) -> Answers:
        return self._answers()

    @cached_property
    def reference(self) -> Answers:
        return self._reference()

    @property
    def mask(self) -> Tensor:
        return self.answers.mask

    @cached_property
    def logp(self) -> Tensor:
        """log p_t [B, S]; 0 outside the mask."""
        return token_logp(self.answers)

    @cached_property
    def reference_logp(self) -> Tensor:
        return self._reference_logp(self.mask)


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


def retain_term(retain: Side | None, weight: float, loss: str = "nll") -> Tensor | float:
    """w mean l_r ("nll") or w KL(ref || model) on retain answers ("kl"); no forward where w = 0."""
    if weight == 0:
        return 0.0
    assert retain is not None, "spec/methods.py must list 'retain' in what this method needs"
    return weight * (kl_from_reference(retain) if loss == "kl" else mean_nll(retain))


# --- the methods -------------------------------------------------------------------------------------------------


def ga(forget: Side, retain: Side | None, idk: Side | None) -> Tensor:
    """Gradient ascent: -mean l_f (Jang et al. 2023, arXiv 2210.01504)."""
    return -mean_nll(forget)


def gd(forget: Side, retain: Side | None, idk: Side | None, *, retain_weight: float) -> Tensor:
    """GradDiff: -mean l_f + w mean l_r (Liu et al. 2022, arXiv 2203.12817; TOFU, arXiv 2401.06121)."""
    return -mean_nll(forget) + retain_term(retain, retain_weight)


def kl(forget: Side, retain: Side | None, idk: Side | None, *, retain_weight: float) -> Tensor:
    """-mean l_f + w KL(ref || model) on retain answers (Yao et al. 2023, arXiv 2310.10683; TOFU)."""
    return -mean_nll(forget) + retain_term(retain, retain_weight, "kl")


def po(forget: Side, retain: Side | None, idk: Side | None, *, retain_weight: float) -> Tensor:
    """Preference optimisation by refusal: mean l of "I don't know" answers to forget questions + w mean l_r (TOFU)."""
    assert idk is not None
    return mean_nll(idk) + retain_term(retain, retain_weight)


def dpo(forget: Side, retain: Side | None, idk: Side | None, *, beta: float, retain_weight: float) -> Tensor:
    """-(2/beta) mean log sigmoid(beta [(s_ref - s)_idk - (s_ref - s)_f]) + w mean l_r.

    DPO (arXiv 2305.18290) with the refusal preferred to the answer, scaled as NPO is. A row whose answer is wholly
    masked by a control pushes nothing.
    """
    assert idk is not None
    margin = _log_ratio(idk).sum(-1) - _log_ratio(forget).sum(-1)
    return batch_mean(-(2 / beta) * F.logsigmoid(beta * margin), forget.mask) + retain_term(retain, retain_weight)


def npo(
    forget: Side, retain: Side | None, idk: Side | None, *, beta: float, retain_weight: float, retain_loss: str
) -> Tensor:
    """-(2/beta) mean log sigmoid(beta (s - s_ref)) + w (mean l_r or KL) (arXiv 2404.05868, eq. 3)."""
    ratio = _log_ratio(forget).sum(-1)
    return batch_mean((2 / beta) * F.softplus(beta * ratio), forget.mask) + retain_term(
        retain, retain_weight, retain_loss
    )


def simnpo(
    forget: Side, retain: Side | None, idk: Side | None, *, beta: float, gamma: float, retain_weight: float
) -> Tensor:
    """-(2/beta) mean log sigmoid(beta l - gamma) + w mean l_r (Fan et al. 2024, arXiv 2410.07163): no reference.

    gamma stands outside of beta, as in the paper's equation; the authors' code has beta (l - gamma).
    """
    nll = sequence_mean(-forget.logp, forget.mask)
    return batch_mean(-(2 / beta) * F.logsigmoid(beta * nll - gamma), forget.mask) + retain_term(retain, retain_weight)


def rmu(
    forget: Side, retain: Side | None, idk: Side | None, *, layer: int | None, steering: float, retain_weight: float
) -> Tensor:
    """mean ||h_f - c u||^2 / D + w mean ||h_r - h_ref||^2 / D at the output of layer L (arXiv 2403.03218).

    h at the positions that predict answer tokens; u a random direction of unit length in [0, 1]^D, fixed per trial;
    c = steering. Needs no ascent, so the likelihood of the rest is not pushed at all.
    """
    assert retain is not None
    assert forget.direction is not None
    pull = (_hidden(forget.answers) - steering * forget.direction).pow(2).mean(-1)
    hold = (_hidden(retain.answers) - _hidden(retain.reference)).pow(2).mean(-1)
    return batch_mean(sequence_mean(pull, forget.mask), forget.mask) + retain_weight * batch_mean(
        sequence_mean(hold, retain.mask), retain.mask
    )


def wga(forget: Side, retain: Side | None, idk: Side | None, *, beta: float, retain_weight: float) -> Tensor:
    """Weighted GA: mean of sg[p_t^beta] log p_t + w mean l_r (Wang et al. 2025, arXiv 2502.19301).

    The weight fades as a token is forgotten, which damps the explosion of 1/p in the gradient of log p.
    """
    return _weighted_ascent(forget, (beta * forget.logp.detach()).exp()) + retain_term(retain, retain_weight)


def tnpo(forget: Side, retain: Side | None, idk: Side | None, *, beta: float, retain_weight: float) -> Tensor:
    """Token-wise NPO: mean over tokens of (2/beta) log(1 + (p_t / ref_t)^beta) + w mean l_r (arXiv 2502.19301)."""
    per_token = (2 / beta) * F.softplus(beta * _log_ratio(forget))
    return batch_mean(sequence_mean(per_token, forget.mask), forget.mask) + retain_term(retain, retain_weight)


def wtnpo(
    forget: Side, retain: Side | None, idk: Side | None, *, beta: float, alpha: float, retain_weight: float
) -> Tensor:
    """Token-wise NPO weighted by sg[p_t^alpha], as in WGA (arXiv 2502.19301), + w mean l_r."""
    per_token = (alpha * forget.logp.detach()).exp() * (2 / beta) * F.softplus(beta * _log_ratio(forget))
    return batch_mean(sequence_mean(per_token, forget.mask), forget.mask) + retain_term(retain, retain_weight)


def satimp(
    forget: Side, retain: Side | None, idk: Side | None, *, beta1: float, beta2: float, retain_weight: float
) -> Tensor:
    """Saturation and importance weights: mean of sg[p_t^b1 (1 - p_t)^b2] log p_t + w mean l_r (arXiv 2505.11953)."""
    p = forget.logp.detach().exp()
    return _weighted_ascent(forget, p**beta1 * (1 - p) ** beta2) + retain_term(retain, retain_weight)


def undial(forget: Side, retain: Side | None, idk: Side | None, *, beta: float, retain_weight: float) -> Tensor:
    """Self-distillation: cross-entropy to softmax(z_ref - beta * onehot(label)) on forget answers + w mean l_r
    (Dong et al. 2024, arXiv 2402.10052)."""
    onehot = F.one_hot(forget.answers.labels, forget.answers.logits.shape[-1])
    target = (forget.reference.logits.float() - beta * onehot).softmax(-1)
    return _cross_entropy(forget, target) + retain_term(retain, retain_weight)


def ceu(forget: Side, retain: Side | None, idk: Side | None, *, retain_weight: float) -> Tensor:
    """CE-U: cross-entropy to sg[softmax(z without the label's logit)] on forget answers + w mean l_r
    (arXiv 2503.01224). On every answer token; the authors' code leaves the first one out."""
    onehot = F.one_hot(forget.answers.labels, forget.answers.logits.shape[-1]).bool()
    target = forget.answers.logits.detach().float().masked_fill(onehot, -torch.inf).softmax(-1)
    return _cross_entropy(forget, target) + retain_term(retain, retain_weight)


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


LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss for loss in (ga, gd, kl, po, dpo, npo, simnpo, rmu, wga, tnpo, wtnpo, satimp, undial, ceu)
}


def loss_of(method: MethodChoice) -> Callable[..., Tensor]:
    """The loss of a spec without a search: one of LOSSES, or the function of its own source text."""
    return own_function(method.name, method.code) if is_custom(method.name) else LOSSES[method.name]
