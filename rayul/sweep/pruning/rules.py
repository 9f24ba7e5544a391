"""Which rules a spec turns on, in the order in which they are asked."""

from __future__ import annotations

from rayul.spec import Spec
from rayul.sweep.pruning import criteria, dominance, halving, own, stall
from rayul.sweep.pruning.history import Rule

BUILT_IN = (criteria.rule, stall.rule, dominance.rule, halving.rule)
"""Each gives its rule for a spec, None where the spec has turned it off."""


def rules_of(spec: Spec) -> list[Rule]:
    """The built-in ones, then those of the user's own. Raises InputError for a file of theirs that cannot be run."""
    return [rule for make in BUILT_IN if (rule := make(spec)) is not None] + own.rules(spec)
