"""What an audit found about one point, for the heading and the model card."""

from __future__ import annotations

from rayul.audit.judge import judge
from rayul.audit.read import read_audit
from rayul.audit.verdict import Standing, sentence, standing
from rayul.records import Evaluation, Key
from rayul.records.folder import SweepRecords

VERDICTS = {
    "stands": "The audit confirms it",
    "unsure": "The audit is not sure of it",
    "reopens": "But in the audit an attack brings it back",
    "breaks": "But in the audit it breaks a limit",
}


def verdicts(results: SweepRecords) -> dict[Key, tuple[Standing, str]]:
    """(standing, sentence) of every point that was audited; none before an audit."""
    audit = read_audit(results)
    if audit is None:
        return {}
    return {one.finalist.found.key: (standing(one), sentence(audit, one)) for one in judge(audit)}


def audited(results: SweepRecords, e: Evaluation | None) -> tuple[Standing, str] | None:
    """(standing, sentence) of an audit about a point, by trial and step; None where it was not audited."""
    if e is None:
        return None
    return next((said for key, said in verdicts(results).items() if key[:2] == e.key[:2]), None)
