"""The unlearning methods a spec can name, with their parameters. The losses themselves are in `rayul/unlearn/`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticCustomError

from rayul.spec.problems import Loc, did_you_mean, expected, refuse, refuse_all, show
from rayul.spec.space import Choice, looks_searched, searched

_KIND_NAMES = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Parameter:
    """One number, text or switch of a method. `low` and `high` are inclusive; `options` are the texts it may be.
    A parameter whose default is None may be null."""

    kind: type
    default: Any
    low: float = -math.inf
    high: float = math.inf
    summary: str = ""
    options: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """The value in the parameter's own type. Raises `refuse(...)`."""
        if value is None and self.default is None:
            return None
        if self.kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind is not bool):
            raise expected(_KIND_NAMES[self.kind], value)
        if isinstance(value, str) and value not in self.options:
            raise refuse(f"unknown value {show(value)}", did_you_mean(value, self.options))
        if isinstance(value, (int, float)) and not (self.low <= value <= self.high and math.isfinite(value)):
            limits = f"at least {self.low:g}" if self.high == math.inf else f"in [{self.low:g}, {self.high:g}]"
            raise refuse(f"must be finite and {limits}, got {value}")
        return value


@dataclass(frozen=True)
class Method:
    """A loss by name. `needs` says what it reads besides the forget rows: "retain" (retain rows), "idk" (refusals in
    place of answers), "reference" (predictions of the model before unlearning), "hidden" (hidden states)."""

    summary: str
    parameters: dict[str, Parameter]
    needs: frozenset[str] = frozenset()


_POSITIVE = 1e-6  # a smallest value for what is divided by

_RETAIN = {"retain_weight": Parameter(float, 1.0, 0, summary="weight of the loss on retain rows")}
_GRU = {
    "gru": Parameter(bool, False, summary="project the forget gradient off the retain gradient where they conflict"),
    "gru_smoothing": Parameter(float, 0.8, 0, 0.9999, "weight of the past in the averaged retain gradient of gru"),
}


def _beta(default: float, summary: str, low: float = _POSITIVE) -> dict[str, Parameter]:
    return {"beta": Parameter(float, default, low, summary=summary)}


def _method(summary: str, needs: str = "", **parameters: Parameter) -> Method:
    return Method(summary, parameters | _GRU, frozenset(needs.split()))


METHODS: dict[str, Method] = {
    "ga": _method("gradient ascent: minus the forget loss"),
    "gd": _method("GradDiff: gradient ascent plus the retain loss", "retain", **_RETAIN),
    "kl": _method("gradient ascent plus KL to the reference on retain answers", "retain reference", **_RETAIN),
    "po": _method('preference optimisation: learn "I do not know" in place of the answers', "retain idk", **_RETAIN),
    "dpo": _method(
        "direct preference optimisation, refusals preferred to answers",
        "retain idk reference",
        **_beta(0.1, "inverse temperature of the preference"),
        **_RETAIN,
    ),
    "npo": _method(
        "negative preference optimisation",
        "retain reference",
        **_beta(0.1, "inverse temperature; towards 0 it becomes gradient ascent"),
        **_RETAIN,
        retain_loss=Parameter(str, "nll", summary="the loss on retain rows", options=("nll", "kl")),
    ),
    "simnpo": _method(
        "NPO, length-normalised and without a reference",
        "retain",
        **_beta(2.5, "inverse temperature"),
        gamma=Parameter(float, 0.0, summary="margin of the reward, in nats per token"),
        **_RETAIN,
    ),
    "rmu": _method(
        "representation misdirection: hidden states of forget rows pulled to a random direction",
        "retain hidden",
        layer=Parameter(int, None, 0, summary="index of the layer that is steered; null is the middle one"),
        steering=Parameter(float, 20.0, 0, summary="norm of the direction that forget rows are pulled to"),
        **_RETAIN,
    ),
    "wga": _method(
        "gradient ascent weighted per token by its probability to the power beta",
        "retain",
        **_beta(1.0, "power of the token probability; 0 is gradient ascent", low=0),
        **_RETAIN,
    ),
    "tnpo": _method("NPO per token", "retain reference", **_beta(0.1, "inverse temperature"), **_RETAIN),
    "wtnpo": _method(
        "NPO per token, weighted by the token probability to the power alpha",
        "retain reference",
        **_beta(0.1, "inverse temperature"),
        alpha=Parameter(float, 1.0, 0, summary="power of the token probability"),
        **_RETAIN,
    ),
    "satimp": _method(
        "gradient ascent weighted per token by p^beta1 (1-p)^beta2: saturation and importance",
        "retain",
        beta1=Parameter(float, 5.0, 0, summary="power of p, the token probability"),
        beta2=Parameter(float, 1.0, 0, summary="power of 1-p"),
        **_RETAIN,
    ),
    "undial": _method(
        "self-distillation towards the reference with the answer token's logit lowered by beta",
        "retain reference",
        **_beta(10.0, "what is taken from the logit", low=0),
        **_RETAIN,
    ),
    "ceu": _method("cross entropy to the model's own prediction without the answer token", "retain", **_RETAIN),
}


@dataclass(frozen=True)
class MethodChoice:
    """The `method` section: a name and, flat beside it in the YAML, its parameters.

    With one name, `parameters` has exactly that method's, defaults filled in. While `name` is searched it has those
    that were given, and the defaults on which all methods of the search that have the parameter agree.
    """

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The methods that may be chosen."""
        searched_name: object = self.name
        return tuple(map(str, searched_name.options)) if isinstance(searched_name, Choice) else (self.name,)

    def to_yaml(self) -> dict[str, Any]:
        return {"name": self.name, **self.parameters}

    @classmethod
    def parse(cls, value: Any) -> MethodChoice:
        """From the YAML's mapping. Raises all problems at once, each at its key."""
        if isinstance(value, cls):
            value = value.to_yaml()
        if isinstance(value, str):
            value = {"name": value}
        if looks_searched(value):
            raise refuse("expected a mapping, got a distribution", "search the name: {name: {choice: [ga, gd]}}")
        if not isinstance(value, dict):
            raise expected("a mapping", value)
        if "name" not in value:
            raise refuse_all([(("name",), refuse("is missing", "for example `name: gd`"))])
        try:
            name = searched(value["name"], _check_name)
        except PydanticCustomError as error:
            raise refuse_all([(("name",), error)]) from None
        given, problems = {}, []
        for key, parameter, element in _match(cls(name).names, value):
            try:
                if parameter is None:
                    raise _unknown_parameter(cls(name).names, key)
                given[key] = searched(element, parameter.check)
            except PydanticCustomError as error:
                loc: Loc = (key,)
                problems.append((loc, error))
        if problems:
            raise refuse_all(problems)
        return cls(name, {key: given.get(key, default) for key, default in _defaults(cls(name).names, given)})


def _check_name(name: Any) -> str:
    if not isinstance(name, str):
        raise expected("the name of a method", name)
    if name not in METHODS:
        raise refuse(f"unknown method {show(name)}", did_you_mean(name, METHODS))
    return name


def _match(names: Sequence[str], section: dict[str, Any]) -> Iterator[tuple[str, Parameter | None, Any]]:
    """Every given key with each method's parameter of that name, or once with None where no method has it."""
    for key, value in section.items():
        if key != "name":
            owners = dict.fromkeys(METHODS[name].parameters.get(key) for name in names)
            known = [owner for owner in owners if owner is not None]
            yield from ((key, owner, value) for owner in known)
            if not known:
                yield key, None, value


def _unknown_parameter(names: Sequence[str], key: str) -> PydanticCustomError:
    known = dict.fromkeys(parameter for name in names for parameter in METHODS[name].parameters)
    text = f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} no parameter {key}"
    owners = [name for name, method in METHODS.items() if key in method.parameters]
    return refuse(text, f"it belongs to {', '.join(owners)}" if owners else did_you_mean(key, known))


def _defaults(names: Sequence[str], given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Parameters in the table's order with their defaults; without those that differ by method and are not given."""
    for key in dict.fromkeys(key for name in names for key in METHODS[name].parameters):
        defaults = {METHODS[name].parameters[key].default for name in names if key in METHODS[name].parameters}
        if key in given or len(defaults) == 1:
            yield key, next(iter(defaults))
