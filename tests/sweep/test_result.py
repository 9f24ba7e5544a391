"""What Tune carries from a trial to the driver is plain, and arrives as it was."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from rayul.errors import ResultsUnwritable
from rayul.records import COMPLETED, Evaluation
from rayul.records.audited import Audited, Scored
from rayul.sweep.result import AuditResult, TrialResult, unwritable


def carried(result: dict[str, Any]) -> dict[str, Any]:
    """With what Tune adds, its flattening and its copies: all that it may do to strict JSON."""
    found: dict[str, Any] = json.loads(json.dumps(result, allow_nan=False)) | {"training_iteration": 3, "trial_id": "x"}
    return found


def test_the_rows_of_a_step_and_the_end() -> None:
    metrics = {"forget.es": 0.1 + 0.2, "retain.ppl": math.inf, "retain.es": math.nan}
    row = Evaluation("0007", 4, params={"training.lr": 1e-3}, metrics=metrics, train_seconds=1.5, device="cpu")
    rows = [row, Evaluation("0007", 4, mixing=0.25, metrics={"forget.es": 0.4}, feasible=False)]
    running, last = TrialResult(rows), TrialResult(rows, rows[-1].ended(COMPLETED))
    for result in (running, last, TrialResult([], rows[-1].ended("failed", "OSError", "no disk"))):
        back = TrialResult.from_ray(carried(result.to_ray()))
        assert repr(list(back.evaluations)) == repr(list(result.evaluations))
        assert back.ending == result.ending
    assert [result.to_ray()["done"] for result in (running, last)] == [False, True]


def test_the_lines_of_an_audit_and_their_end() -> None:
    line = Audited("0007-4-1", 3, "relearn", scored=(Scored("10 steps", (0, 2), {"forget.es": 0.5}, {}, {}),))
    assert AuditResult.from_ray(carried(AuditResult(line).to_ray())).row == line
    assert AuditResult.from_ray(carried(AuditResult(None).to_ray())).row is None
    assert [AuditResult(row).to_ray()["done"] for row in (line, None)] == [False, True]


def test_a_disk_that_failed_is_raised_again_where_the_result_is_read() -> None:
    error = ResultsUnwritable.at("adapters/0007-4-1", "No space left on device")
    result = unwritable(error)
    assert not result["done"], "the trial has not ended"
    for kind in (TrialResult, AuditResult):
        with pytest.raises(ResultsUnwritable, match=r"cannot write adapters/0007-4-1: No space left") as caught:
            kind.from_ray(carried(result))
        assert caught.value.hint == error.hint
