"""What Ray Tune carries from a trial to the driver: made and read here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayul.errors import ResultsUnwritable
from rayul.records import Ending, Evaluation, ending_from_json, from_json, to_json
from rayul.records.audited import Audited, audited_from_json, audited_to_json


def unwritable(error: ResultsUnwritable) -> dict[str, Any]:
    """In place of a result: the disk failed, not the trial. `from_ray` raises the error again, in the driver; raised
    here, it would be one more failure of the trial to Tune."""
    return {"unwritable": [error.message, error.hint], "done": False}


def _check(result: Mapping[str, Any]) -> None:
    if "unwritable" in result:
        raise ResultsUnwritable(*result["unwritable"])


@dataclass(frozen=True)
class TrialResult:
    """evaluations: the rows of one step of a trial, in the order of the journal (several with model mixing, the
    calibrated one last); none where it failed. ending: how the trial ended, with its last result."""

    evaluations: Sequence[Evaluation]
    ending: Ending | None = None

    @property
    def ended(self) -> bool:
        """Whether the trial has no further result."""
        return self.ending is not None

    def to_ray(self) -> dict[str, Any]:
        """Lines of text, which Tune passes on as they are; `done` is Tune's own key, which ends the trial."""
        return {
            "evaluations": [to_json(row) for row in self.evaluations],
            "ending": None if self.ending is None else to_json(self.ending),
            "done": self.ended,
        }

    @classmethod
    def from_ray(cls, result: Mapping[str, Any]) -> TrialResult:
        """Raises ResultsUnwritable where the trial sent that."""
        _check(result)
        line = result["ending"]
        ending = None if line is None else ending_from_json(line)
        return cls([from_json(line) for line in result["evaluations"]], ending)


@dataclass(frozen=True)
class AuditResult:
    """row: the next line of an audit's journal; None when the model has no further one."""

    row: Audited | None

    def to_ray(self) -> dict[str, Any]:
        return {"audited": None if self.row is None else audited_to_json(self.row), "done": self.row is None}

    @classmethod
    def from_ray(cls, result: Mapping[str, Any]) -> AuditResult:
        """Raises ResultsUnwritable where the audit sent that."""
        _check(result)
        line = result["audited"]
        return cls(None if line is None else audited_from_json(line))
