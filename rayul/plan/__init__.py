"""Know before you spend: what a spec would search, on which rows, at what cost, and what looks wrong about it.

Nothing is written (but for the embedded testbed, which is built into its cache on first use).
"""

from rayul.plan.plan import Plan, make_plan
from rayul.plan.text import plan_text

__all__ = ["Plan", "make_plan", "plan_text"]
