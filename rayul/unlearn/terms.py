"""A method as the terms of its loss: what unlearns, and what holds the retain rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

from torch import Tensor

from rayul.unlearn.gradients.contract import FORGET, LOSS, RETAIN
from rayul.unlearn.side import Side

Terms = dict[str, Tensor]
"""The parts of a loss by name, each with its weight: their sum is what is minimised."""


class Loss:
    """forget: what unlearns, a function of the sides forget and idk with the method's parameters as keywords. retain:
    what holds the retain rows, times the parameter retain_weight; or several, of which the parameter retain_loss names
    one. more: what else unlearns, of the side forget, each times the parameter <its name>_weight. Called, it is the sum
    of all."""

    def __init__(
        self,
        forget: Callable[..., Tensor],
        retain: Callable[[Side], Tensor] | Mapping[str, Callable[[Side], Tensor]] | None = None,
        **more: Callable[[Side], Tensor],
    ) -> None:
        self.forget, self.retain, self.more = forget, retain, more

    def __call__(self, forget: Side, retain: Side | None, idk: Side | None, **keywords: Any) -> Tensor:
        return total(self.terms(LOSS, forget, retain, idk, **keywords))

    def terms(
        self,
        of: str,
        forget: Side,
        retain: Side | None,
        idk: Side | None,
        *,
        retain_weight: float = 0.0,
        retain_loss: str = "nll",
        layer: int | None = None,
        layers: Sequence[int] | None = None,
        **keywords: Any,
    ) -> Terms:
        """of: the whole LOSS, or FORGET or RETAIN of it (`rayul/unlearn/gradients/contract.py`). A term whose weight is
        0 is left out, and so is a forward that only it needs. layer, layers: which hidden states the sides have."""
        found: Terms = {}
        weights = {name: keywords.pop(f"{name}_weight", 0.0) for name in self.more}
        if of != RETAIN:
            found[FORGET] = self.forget(forget, idk, **keywords)
            found |= {name: weight * self.more[name](forget) for name, weight in weights.items() if weight != 0}
        if of != FORGET and self.retain is not None and retain_weight != 0:
            assert retain is not None, "spec/methods.py must list 'retain' in what this method needs"
            hold = self.retain if callable(self.retain) else self.retain[retain_loss]
            found[RETAIN] = retain_weight * hold(retain)
        return found


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of at least one term."""
    return reduce(add, terms.values())
