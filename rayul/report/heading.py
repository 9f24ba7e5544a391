"""What the heading of a report says beside the answer: whether the sweep is over, and what the numbers are about."""

from __future__ import annotations

from rayul.records import RUNNING
from rayul.records.folder import SweepRecords
from rayul.report.card import model_name, set_name
from rayul.spec import Spec
from rayul.words import plural

INTERRUPTED = "Ctrl-C"
"""How run.json names a run that a person or a pre-emption stopped."""


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


def subject(results: SweepRecords, spec: Spec) -> str:
    """Which model, which rows, and what the words mean, for who reads nothing else."""
    rows = results.baseline.rows.get("forget", 0)
    counted = f" ({plural(rows, 'row')})" if rows else ""
    return (
        f"{model_name(spec)[:1].upper()}{model_name(spec)[1:]} is to forget {set_name(spec.data)}{counted}. "
        "Extractable is what the model completes word for word, given the question and the beginning of the answer "
        "(es); forgotten is how much less of it there is than before (1 − forget.es / baseline)."
    )
