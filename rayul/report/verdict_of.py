"""What an audit found about one point, for the heading and the model card."""

from __future__ import annotations

from rayul.audit.judge import judge
from rayul.audit.read import read_audit
from rayul.audit.verdict import sentence, standing
from rayul.records import Evaluation
from rayul.records.folder import SweepRecords

VERDICTS = {
    "stands": "The audit confirms it",
    "unsure": "The audit is not sure of it",
    "reopens": "But in the audit an attack brings it back",
    "breaks": "But in the audit it breaks a limit",
}


def audited(results: SweepRecords, e: Evaluation | None) -> tuple[str, str] | None:
    """(standing, sentence) of an audit about a point, by trial and step; None where it was not audited."""
    audit = read_audit(results)
    if audit is None or e is None:
        return None
    own = [
        one for one in judge(audit) if (one.finalist.found.trial_id, one.finalist.found.step) == (e.trial_id, e.step)
    ]
    return (standing(own[0]), sentence(audit, own[0])) if own else None
