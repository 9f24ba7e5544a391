"""The gradient rules by name. To add one: a function in a file of its own here, its name below, and its row in
`rayul/spec/gradients.py`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rayul.spec import GRADIENTS, MethodChoice
from rayul.unlearn.gradients.adversary import adversary
from rayul.unlearn.gradients.contract import Memory, Rule
from rayul.unlearn.gradients.gru import gru
from rayul.unlearn.gradients.latent import latent
from rayul.unlearn.gradients.mask import mask
from rayul.unlearn.gradients.plain import plain
from rayul.unlearn.gradients.sam import sam

RULES: dict[str, Callable[..., Rule]] = {rule.__name__: rule for rule in (plain, gru, sam, mask, adversary, latent)}


def rule_of(method: MethodChoice, weights: Tensor, memory: Memory, step: int) -> Rule:
    """The rule of a spec without a search, at the start of a step (counted from 1)."""
    name = method.gradients[0]
    keywords = {key: method.parameters[key] for key in GRADIENTS[name].parameters}
    return RULES[name](weights, memory, step, **keywords)
