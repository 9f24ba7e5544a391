"""How a trial ended: recorded once, after all of its evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic_core import from_json

from rayul.records.schema import Int64, Params, Seconds, TrialId

RUNNING, COMPLETED, PRUNED, FAILED = "running", "completed", "pruned", "failed"
"""States of a trial: RUNNING until its ending is recorded."""


@dataclass(frozen=True)
class Ending:
    """The end of one trial.

    state: COMPLETED, PRUNED or FAILED (RUNNING only where a list has an entry for every trial).
    rule: what ended it, as a term to group by. Of a pruned trial the metric of the criterion that it broke
        ("retain.es") or the name of another rule ("dominance", "./mine.py:fn"); of a failed one the kind of error
        ("diverged", "ValueError"); "" where it completed.
    reason: the same as a sentence with its numbers, for people: nothing reads it.
    seed, params, train_seconds: as in `Evaluation`. A trial may fail before its first evaluation.
    """

    trial_id: TrialId
    state: Annotated[str, Field(pattern=f"^({COMPLETED}|{PRUNED}|{FAILED})$")]
    rule: str = ""
    reason: str = ""
    seed: Int64 = 0
    params: Params = field(default_factory=dict)
    train_seconds: Seconds = 0.0


_ENDING = TypeAdapter(Ending)


def ending_from_json(line: str) -> Ending:
    """The ending of one line of JSON; fields of a later version are left out. Raises ValueError for a line that cannot
    be one."""
    return ending_from(from_json(line))


def ending_from(row: Mapping[str, Any]) -> Ending:
    """`ending_from_json` of a line that is read already."""
    return _ENDING.validate_python(row)


def ending_in_row(row: Mapping[str, Any]) -> Ending | None:
    """The ending in a row as earlier versions wrote it: the last row of a trial had its `state` and `reason`. None for
    any other row.

    The rule stood in the words of the reason only. Of a pruned trial it is the first criterion that the row breaks,
    where it breaks none the rule that the reason begins with; of a failed one it is what comes before the colon.
    """
    state, reason = row.get("state", RUNNING), row.get("reason", "")
    if state == RUNNING:
        return None
    if state == PRUNED:
        broken = [metric for metric, violation in row["violation"].items() if not float(violation) <= 0]
        first = reason.partition(" ")[0]
        rule = broken[0] if broken else _FIRST_WORDS.get(first, reason)
    else:
        rule = reason.partition(":")[0] if state == FAILED else ""
    told = "" if state == COMPLETED else reason  # of a completed trial it was a note on its last evaluation
    return ending_from({**row, "rule": rule, "reason": told})


_FIRST_WORDS = {"dominance": "dominance", "budget": "budget", "calibrated": "stall"}
