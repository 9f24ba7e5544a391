"""Gradient rules: what a step makes of the gradients of a loss's terms.

| module | idea |
| --- | --- |
| contract | what a rule asks for, and what it keeps |
| table | the rules by name |
| averaged | the retain gradient averaged over the steps |
| alone | the rule of a trial that trains alone |
| hidden | hidden states with something added to them |
| the others | one rule each, by the name that `method.gradient` has for it |
"""

from rayul.unlearn.gradients.contract import Ask, Memory, Rule
from rayul.unlearn.gradients.table import RULES, rule_of

__all__ = ["RULES", "Ask", "Memory", "Rule", "rule_of"]
