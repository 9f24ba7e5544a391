"""The unlearning methods a spec can name, with their parameters. The losses themselves are in `rayul/unlearn/`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rayul.spec.gradients import SETTINGS
from rayul.spec.parameter import POSITIVE, Parameter

NEEDS = ("retain", "idk", "reference", "hidden")

RETAIN_TERMS = {"nll": {"retain"}, "kl": {"retain", "reference"}, "js": {"retain", "reference"}}
"""The losses on retain rows that a loss of one's own may ask for, and what each reads. The functions are RETAIN_TERMS
in `rayul/unlearn/losses.py`."""


@dataclass(frozen=True)
class Method:
    """A loss by name. `needs` says what it reads besides the forget rows: "retain" (retain rows), "idk" (refusals in
    place of answers), "reference" (predictions of the model before unlearning), "hidden" (hidden states).

    b_std: standard deviation of the B of a fresh LoRA. Above 0 for a loss that has no gradient at the model before
    unlearning, where B = 0 would leave it.

    retain: of a loss of one's own, the one of RETAIN_TERMS that it asks for; "" where it adds its own, or none."""

    summary: str
    parameters: dict[str, Parameter]
    needs: frozenset[str] = frozenset()
    b_std: float = 0.0
    retain: str = ""


RETAIN_WEIGHT = {"retain_weight": Parameter(float, 1.0, 0, summary="weight of the loss on retain rows")}


_LAYERS = {
    "layer": Parameter(int, None, 0, summary="blocks after which hidden states are read; null is the middle"),
    "layers": Parameter(int, None, 0, summary="several such numbers, in place of layer", many=True),
}


def _beta(default: float, summary: str, low: float = POSITIVE) -> dict[str, Parameter]:
    return {"beta": Parameter(float, default, low, summary=summary)}


def _method(summary: str, needs: str = "", **parameters: Parameter) -> Method:
    return Method(summary, parameters | SETTINGS, frozenset(needs.split()))


METHODS: dict[str, Method] = {
    "ga": _method("gradient ascent: minus the forget loss"),
    "gd": _method("GradDiff: gradient ascent plus the retain loss", "retain", **RETAIN_WEIGHT),
    "kl": _method("gradient ascent plus KL to the reference on retain answers", "retain reference", **RETAIN_WEIGHT),
    "po": _method(
        'preference optimisation: learn "I do not know" in place of the answers', "retain idk", **RETAIN_WEIGHT
    ),
    "dpo": _method(
        "direct preference optimisation, refusals preferred to answers",
        "retain idk reference",
        **_beta(0.1, "inverse temperature of the preference"),
        **RETAIN_WEIGHT,
    ),
    "npo": _method(
        "negative preference optimisation",
        "retain reference",
        **_beta(0.1, "inverse temperature; towards 0 it becomes gradient ascent"),
        **RETAIN_WEIGHT,
        retain_loss=Parameter(str, "nll", summary="the loss on retain rows", options=("nll", "kl")),
    ),
    "simnpo": _method(
        "NPO, length-normalised and without a reference",
        "retain",
        **_beta(2.5, "inverse temperature"),
        gamma=Parameter(
            float,
            0.0,
            summary="margin of the reward: beta times the gamma of the authors' code",
        ),
        **RETAIN_WEIGHT,
    ),
    "rmu": _method(
        "representation misdirection: hidden states of forget rows pulled to a random direction",
        "retain hidden",
        **_LAYERS,
        steering=Parameter(float, 20.0, 0, summary="norm of the direction that forget rows are pulled to"),
        **RETAIN_WEIGHT,
    ),
    "wga": _method(
        "gradient ascent weighted per token by its probability to the power beta",
        "retain",
        **_beta(1.0, "power of the token probability; 0 is gradient ascent", low=0),
        **RETAIN_WEIGHT,
    ),
    "tnpo": _method("NPO per token", "retain reference", **_beta(0.1, "inverse temperature"), **RETAIN_WEIGHT),
    "wtnpo": _method(
        "NPO per token, weighted by the token probability to the power alpha",
        "retain reference",
        **_beta(0.1, "inverse temperature"),
        alpha=Parameter(float, 1.0, 0, summary="power of the token probability"),
        **RETAIN_WEIGHT,
    ),
    "satimp": _method(
        "gradient ascent weighted per token by p^beta1 (1-p)^beta2: saturation and importance",
        "retain",
        beta1=Parameter(float, 5.0, 0, summary="power of p, the token probability"),
        beta2=Parameter(float, 1.0, 0, summary="power of 1-p"),
        **RETAIN_WEIGHT,
    ),
    "undial": _method(
        "self-distillation towards the reference with the answer token's logit lowered by beta",
        "retain reference",
        **_beta(10.0, "what is taken from the logit", low=0),
        **RETAIN_WEIGHT,
    ),
    "ceu": _method("cross entropy to the model's own prediction without the answer token", "retain", **RETAIN_WEIGHT),
    "jensun": _method(
        "Jensen-Shannon divergence to refusals on forget rows, and to the reference on retain rows",
        "retain idk reference",
        **RETAIN_WEIGHT,
    ),
    "cb": replace(
        _method(
            "circuit breakers: hidden states of forget rows turned away from what they were",
            "retain reference hidden",
            **_LAYERS,
            orth_weight=Parameter(float, 0.0, 0, summary="weight of the cosine between the forget rows of a batch"),
            **RETAIN_WEIGHT,
        ),
        b_std=1e-2,
    ),
}
