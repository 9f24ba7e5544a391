"""What the heading of a report says beside the answer: whether the sweep is over, what an audit found, and what the
numbers are about."""

from __future__ import annotations

from rayul.audit.judge import Judged, judge
from rayul.audit.read import read_audit
from rayul.audit.verdict import sentence, standing
from rayul.records import RUNNING, Evaluation
from rayul.records.folder import SweepRecords
from rayul.report.card import model_name, set_name
from rayul.spec import Spec
from rayul.words import plural

INTERRUPTED = "Ctrl-C"
"""How run.json names a run that a person or a pre-emption stopped."""

VERDICTS = {
    "stands": "The audit confirms it",
    "unsure": "The audit is not sure of it",
    "reopens": "But in the audit an attack brings it back",
    "breaks": "But in the audit it breaks a limit",
}


def unfinished(results: SweepRecords) -> str:
    """ "Unfinished: 12 trials have ended" where trials are still to run or to end; "" of a sweep that is over,
    be it by its time or because it found nothing new."""
    running = results.states.get(RUNNING, 0)
    last = results.manifest.runs[-1] if results.manifest.runs else None
    going = last is not None and (last.ended is None or last.stopped == INTERRUPTED)
    if not going and not (running and last is None):
        return ""
    ended = len(results.endings) - running
    return f"Unfinished: {plural(ended, 'trial')} {'has' if ended == 1 else 'have'} ended"


def audited(results: SweepRecords, e: Evaluation | None) -> tuple[str, str] | None:
    """(standing, sentence) of an audit about a point, by trial and step; None where it was not audited."""
    audit = read_audit(results)
    if audit is None or e is None:
        return None
    own: list[Judged] = [
        one for one in judge(audit) if (one.finalist.found.trial_id, one.finalist.found.step) == (e.trial_id, e.step)
    ]
    return (standing(own[0]), sentence(audit, own[0])) if own else None


def subject(results: SweepRecords, spec: Spec) -> str:
    """Which model, which rows, and what the words mean, for who reads nothing else."""
    rows = results.baseline.rows.get("forget", 0)
    counted = f" ({plural(rows, 'row')})" if rows else ""
    return (
        f"{model_name(spec)[:1].upper()}{model_name(spec)[1:]} is to forget {set_name(spec.data)}{counted}. "
        "Extractable is what the model completes word for word, given the question and the beginning of the answer "
        "(es); forgotten is how much less of it there is than before (1 − forget.es / baseline)."
    )
