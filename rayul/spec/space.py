"""Search distributions: what may stand in a spec wherever a number, a text or true/false stands.

{float: [1e-4, 5e-3], log: true}    a number between the two ends, ends included; step for a grid of values
{int: [4, 16]}                      a whole number between the two ends, ends included
{choice: [4, 8, 16]}                one of the options

A range may have a `prior: {center: 2e-3, spread: 2}`: what the first trials are drawn by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from rayul.spec.problems import did_you_mean, expected, refuse, show

Scalar = None | bool | int | float | str


@dataclass(frozen=True)
class Prior:
    """Where in a range good values are thought to be: about two thirds of them within `spread` of `center`. On a log
    range spread is a factor, above 1."""

    center: float
    spread: float

    def to_yaml(self) -> dict[str, Any]:
        return {"center": self.center, "spread": self.spread}


@dataclass(frozen=True)
class Float:
    """A number in [low, high]; uniform in its logarithm with `log`, a multiple of `step` above `low` with `step`."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    prior: Prior | None = None

    @property
    def count(self) -> int | None:
        """Single values; None for a continuous range."""
        return None if self.step is None else int((self.high - self.low) / self.step + 1e-9) + 1

    def contains(self, value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def to_yaml(self) -> dict[str, Any]:
        return _range_to_yaml("float", self.low, self.high, self.log, self.step, self.prior)


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high]; uniform in its logarithm with `log`, a multiple of `step` above `low`."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    prior: Prior | None = None

    @property
    def count(self) -> int:
        return (self.high - self.low) // self.step + 1

    def contains(self, value: object) -> bool:
        return type(value) is int and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def to_yaml(self) -> dict[str, Any]:
        return _range_to_yaml("int", self.low, self.high, self.log, self.step if self.step != 1 else None, self.prior)


@dataclass(frozen=True)
class Choice:
    """One of the options, without an order."""

    options: tuple[Scalar, ...]

    @property
    def count(self) -> int:
        return len(self.options)

    def contains(self, value: object) -> bool:
        return any(value == option and isinstance(value, bool) == isinstance(option, bool) for option in self.options)

    def to_yaml(self) -> dict[str, Any]:
        return {"choice": list(self.options)}


Distribution = Float | Int | Choice

_KINDS = ("float", "int", "choice")


def looks_searched(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a plain value is meant as a distribution: a mapping with float, int or choice among its keys."""
    return isinstance(value, dict) and any(kind in value for kind in _KINDS)


def searched(value: object, check: Callable[[Any], Any]) -> Any:
    """The value, or the distribution that stands in its place, checked.

    `check` validates one value of the field and returns it; a distribution's ends or options each have to pass it, so
    that nothing can be drawn which the field would refuse. Raises what `check` raises, or `refuse(...)`.
    """
    if looks_searched(value):
        value = parse(value)
    if isinstance(value, (Float, Int)):
        check(value.low)
        check(value.high)
        return value
    if isinstance(value, Choice):
        checked = [check(option) for option in value.options]
        # Optuna wants scalars: an option that the field turns into an object ("90% of baseline") stays as written.
        pairs = zip(value.options, checked, strict=True)
        return replace(value, options=tuple(new if isinstance(new, Scalar) else old for old, new in pairs))
    return check(value)


def parse(form: dict[str, Any]) -> Distribution:
    """A distribution from its YAML form. Raises `refuse(...)` for empty ranges, logs through 0, priors outside of the
    range and unknown keys."""
    kinds = [kind for kind in _KINDS if kind in form]
    if len(kinds) > 1:
        raise refuse(f"both {kinds[0]} and {kinds[1]} are given", "a distribution has one of float, int, choice")
    kind = kinds[0]
    allowed = (kind,) if kind == "choice" else (kind, "log", "step", "prior")
    for key in form:
        if key not in allowed:
            raise refuse(f"unknown key {key} in a {kind} distribution", did_you_mean(str(key), allowed))
    if kind == "choice":
        return _parse_choice(form["choice"])
    low, high = _parse_ends(kind, form[kind])
    log, step = form.get("log", False), form.get("step")
    if not isinstance(log, bool):
        raise refuse(f"log must be true or false, got {show(log)}")
    if log and low <= 0:
        raise refuse(f"a log range cannot reach {low:g}", "start it above 0, or remove log")
    if step is not None:
        if log:
            raise refuse("log and step exclude each other", "remove one of the two")
        step = _number(kind, step, "step")
        if not 0 < step <= high - low:
            raise refuse(f"step must be in (0, {high - low:g}], got {step:g}")
    prior = None if form.get("prior") is None else _parse_prior(form["prior"], low, high, log)
    if kind == "int":
        return Int(int(low), int(high), log, 1 if step is None else int(step), prior)
    return Float(float(low), float(high), log, None if step is None else float(step), prior)


def _parse_prior(form: object, low: float, high: float, log: bool) -> Prior:
    keys = tuple(Prior.__dataclass_fields__)
    if not isinstance(form, dict) or form.keys() != set(keys):
        example = "{center: 1e-3, spread: 2}" if log else "{center: 0.5, spread: 0.1}"
        raise refuse(f"a prior has a center and a spread, got {show(form)}", f"write prior: {example}")
    center, spread = (float(_number("float", form[key], f"{key} of the prior")) for key in keys)
    if not low <= center <= high:
        raise refuse(
            f"center of the prior: {center:g} is outside of [{low:g}, {high:g}]", "move it, or widen the range"
        )
    if log and spread <= 1:
        raise refuse(
            f"spread of the prior must be a factor above 1 on a log range, got {spread:g}",
            "2 draws two thirds of the values between half and twice the center",
        )
    if spread <= 0:
        raise refuse(f"spread of the prior must be more than 0, got {spread:g}")
    return Prior(center, spread)


def _parse_ends(kind: str, ends: object) -> tuple[float, float]:
    if not isinstance(ends, list) or len(ends) != 2:
        raise refuse(f"a range has two ends, got {show(ends)}", f"write {{{kind}: [low, high]}}")
    low, high = (_number(kind, end, "an end of the range") for end in ends)
    if low > high:
        raise refuse(f"empty range: {low:g} is above {high:g}", f"write [{high:g}, {low:g}]")
    if low == high:
        raise refuse(f"empty range: both ends are {low:g}", f"write the value alone: {low:g}")
    return low, high


def _number(kind: str, value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else (int, float)):
        raise expected("a whole number" if kind == "int" else "a number", value, f"{what}: ")
    if not math.isfinite(value):
        raise refuse(f"{what} must be finite, got {value}")
    return value


def _parse_choice(options: object) -> Choice:
    if not isinstance(options, list):
        raise refuse(f"choice takes a list, got {show(options)}", "write {choice: [a, b]}")
    if not options:
        raise refuse("a choice without options", "give at least one option")
    for index, option in enumerate(options):
        if not isinstance(option, Scalar):
            raise refuse(f"an option must be a number, text, true, false or null, got {show(option)}")
        if isinstance(option, float) and not math.isfinite(option):
            raise refuse(f"an option must be finite, got {option}")
        if Choice(tuple(options[:index])).contains(option):
            raise refuse(f"the option {show(option)} stands twice", "remove one of the two")
    return Choice(tuple(options))


def _range_to_yaml(
    kind: str, low: float, high: float, log: bool, step: float | None, prior: Prior | None
) -> dict[str, Any]:
    form: dict[str, Any] = {kind: [low, high]}
    if log:
        form["log"] = True
    if step is not None:
        form["step"] = step
    if prior is not None:
        form["prior"] = prior.to_yaml()
    return form
