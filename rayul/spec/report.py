"""The `report` section: what the report may show of the rows."""

from __future__ import annotations

from pydantic import Field

from rayul.spec.section import Section


class Reporting(Section):
    """What is recorded for the report at the end of a sweep, beside numbers."""

    samples: int | None = Field(default=None, ge=0)
    """Number of rows of each set whose answers before and after unlearning are recorded and shown. null shows
    five on the testbed, whose rows are fictional, and none of your own rows."""

    def sampling(self, fiction: bool) -> Reporting:
        """With the number that null stands for. fiction: whether the rows are the testbed's."""
        return self if self.samples is not None else self.model_copy(update={"samples": 5 if fiction else 0})
