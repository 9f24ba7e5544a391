"""The gradient rules a spec can name as `method.gradient`: what a step makes of the loss's gradients, around any loss.
The rules themselves are in `rayul/unlearn/gradients/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayul.spec.parameter import POSITIVE, Parameter
from rayul.spec.problems import expected, refuse_all
from rayul.spec.space import Choice


@dataclass(frozen=True)
class Gradient:
    """A rule by name. passes: forwards with a backward that a step of a loss with a retain term takes, of forget or of
    retain rows. retain: whether it reads retain rows, whatever the loss does. parameters: its own, beside the loss's,
    with its name in front of theirs."""

    summary: str
    passes: int
    retain: bool
    parameters: dict[str, Parameter]


def _rule(summary: str, passes: int, retain: bool = False, **parameters: Parameter) -> Gradient:
    return Gradient(summary, passes, retain, parameters)


GRADIENTS: dict[str, Gradient] = {
    "plain": _rule("the gradient of the loss", 2),
    "gru": _rule(
        "the gradient of the loss, without the part that works against the retain gradient",
        3,
        retain=True,
        gru_gamma=Parameter(float, 0.8, 1e-4, 1, "weight of the newest gradient in the averaged retain gradient"),
    ),
    "sam": _rule(
        "sharpness-aware: the forget gradient is taken where the forget loss is worst nearby",
        3,
        sam_rho=Parameter(float, 0.05, POSITIVE, summary="how far away that is, as a norm of all trained weights"),
    ),
    "mask": _rule(
        "only those entries of the forget gradient whose sign the averaged retain gradient shares",
        3,
        retain=True,
        mask_gamma=Parameter(float, 0.1, 1e-4, 1, "weight of the newest gradient in the averaged retain gradient"),
    ),
    "adversary": _rule(
        "the forget gradient is taken at a copy of the weights that is relearning the forget rows",
        3,
        adversary_lr=Parameter(float, 1e-3, POSITIVE, summary="learning rate of the copy's relearning, plain descent"),
        adversary_every=Parameter(int, 16, 1, summary="steps after which the copy begins again from the weights"),
    ),
    "latent": _rule(
        "the forget gradient is taken while a perturbation of the hidden states helps the model recall",
        8,
        latent_norm=Parameter(float, 1.0, POSITIVE, summary="largest norm of the perturbation at a position"),
        latent_steps=Parameter(int, 6, 1, summary="steps in which it is found"),
        latent_layers=Parameter(int, None, 1, summary="blocks after which it is added; null is the middle", many=True),
    ),
}

GRADIENT = "gradient"

SETTINGS: dict[str, Parameter] = {
    GRADIENT: Parameter(str, "plain", summary="how the step's gradient is made", options=tuple(GRADIENTS)),
    **{name: parameter for rule in GRADIENTS.values() for name, parameter in rule.parameters.items()},
}
"""What every method has beside its own parameters."""

OWNER: dict[str, str] = {name: rule for rule, row in GRADIENTS.items() for name in row.parameters}
"""The rule that a setting belongs to."""


def rules_of(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The rules that may be chosen by these parameters of a method."""
    chosen = parameters.get(GRADIENT, "plain")
    return tuple(map(str, chosen.options)) if isinstance(chosen, Choice) else (str(chosen),)


def modern(section: dict[str, Any]) -> dict[str, Any]:
    """`gru: true`, as specs wrote it when there was one rule, as `gradient: gru`."""
    if "gru" not in section:
        return section
    rest = {key: value for key, value in section.items() if key != "gru"}
    was = section["gru"]
    if isinstance(was, dict) and isinstance(was.get("choice"), list):
        return rest | {GRADIENT: {"choice": [_name(one) for one in was["choice"]]}}
    if not isinstance(was, bool):
        raise refuse_all([(("gru",), expected("true or false", was))])
    return rest | ({GRADIENT: "gru"} if was else {})


def modern_params(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drawn values of such a spec."""
    if "method.gru" not in params:
        return params
    rest = {key: value for key, value in params.items() if key != "method.gru"}
    return rest | {f"method.{GRADIENT}": _name(params["method.gru"])}


def _name(was: Any) -> Any:
    return {True: "gru", False: "plain"}[was] if isinstance(was, bool) else was
