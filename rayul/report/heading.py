"""What the heading of a report says beside the answer: whether the sweep is over, and what the numbers are about."""

from __future__ import annotations

from collections.abc import Sequence

from rayul.records import RUNNING
from rayul.records.folder import SweepRecords
from rayul.records.objectives import forget_objective
from rayul.report.card import model_name, set_name
from rayul.report.evidence import in_groups
from rayul.report.gone import forgotten_metric
from rayul.report.recalled import TITLES, Recalled
from rayul.spec import METRICS, TESTBED, FolderData, Spec
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
    rows, groups = (of.get("forget", 0) for of in (results.baseline.rows, results.baseline.groups))
    counted = f", {in_groups(rows, groups)}" if rows else ""
    return (
        f"What was to be forgotten: {set_name(spec.data)}{counted}. By which model: {model_name(spec)}. "
        f"{_asked(results)}{_forgotten(results, spec)}"
    )


def _asked(results: SweepRecords) -> str:
    limits = " and ".join(f"{limit}" for limit in results.limits)
    return f"What had to be kept: {limits}. " if limits else ""


def private_rows(spec: Spec, recalled: Sequence[Recalled]) -> str:
    """That a page with samples is not for everybody; "" of one without, and of the testbed, whose rows are fiction."""
    sets = dict.fromkeys(sample.set for one in recalled for sample in one.samples)
    if not sets or spec.data == FolderData(folder=TESTBED):
        return ""
    of = dict.fromkeys(TITLES.get(name, name).partition(" (")[0] for name in sets)  # "to keep", whichever of them
    return f"This page contains rows of your data ({', '.join(of)}) and names of groups: mind whom you send it to."


def _forgotten(results: SweepRecords, spec: Spec) -> str:
    """What the forget objective measures."""
    key = forget_objective(spec.objectives)
    name, _, metric = (key or "forget.es").partition(".")
    if metric == "es":
        return (
            "Forgotten means that less can be extracted: given the question and the beginning of an answer, the "
            "model completes less of it exactly. It is a share of the answers' text, not of the rows."
        )
    rows, groups = (of.get(name, 0) for of in (results.baseline.rows, results.baseline.groups))
    on = f" on {in_groups(rows, groups)}" if rows and name != "forget" else ""
    meaning = f" ({METRICS[metric].summary})" if metric in METRICS else ""
    if key == forgotten_metric(results):
        return f"Forgotten is measured as {key}{meaning}{on}, beside its value before unlearning."
    return (
        f"Forgotten means that less can be extracted (forget.es). The search went by {key}{meaning}{on}, which is "
        "shown beside it."
    )
