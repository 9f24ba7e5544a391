"""The whole sweep, top to bottom: references, search, journal, verified adapters, report."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from rayul.pareto import Summary, summarise
from rayul.pareto.front import front
from rayul.records import BASELINE, ORACLE, Evaluation, Journal, to_json
from rayul.spec import Spec, limits
from rayul.sweep.cluster import Share, connected, share  # before ray.tune: it silences Ray's own output

# isort: split
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

from rayul.sweep.folder import held, prepare
from rayul.sweep.progress import Progress, shown
from rayul.sweep.recorder import Recorder
from rayul.sweep.reference import measure_references, verify_adapters
from rayul.sweep.scheduler import ControlScheduler
from rayul.sweep.search import OptunaSearcher, open_study
from rayul.sweep.trainable import UnlearningTrial
from rayul.testbed import with_testbed
from rayul.unlearn.data import Sets, load_sets
from rayul.unlearn.model import load_tokenizer
from rayul.unlearn.task import check_needs

JOURNAL = "evaluations.jsonl"
MAX_FAILURES = 5
"""Times a trial starts again after its worker or node was lost. Not without end: a trial that kills its process each
time (the machine's memory runs out) must become a failed row."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a sweep; its records are complete and its report is made. `summary` may be None."""

    def __init__(self, summary: Summary | None) -> None:
        super().__init__()
        self.summary = summary


def run_sweep(
    spec: Spec,
    folder: Path,
    *,
    resume: bool = False,
    address: str | None = None,
    console: Console | None = None,
    testbed_progress: Callable[[str, float], None] | None = None,
) -> Summary:
    """Run or resume a sweep; returns its summary, with the report on disk at `summary.report`.

    Raises InputError for input that cannot work, before anything is spent, and Interrupted on Ctrl-C after the records
    are closed.
    """
    console = console or Console(stderr=True)
    with held(folder):
        spec = prepare(folder, spec, resume)
        ready = with_testbed(spec, testbed_progress)
        sets = load_sets(ready.data)
        check_needs(ready, sets)
        load_tokenizer(ready.model)
        journal = Journal(folder / JOURNAL)
        with connected(address):
            mine = share(ready.resources)
            console.print(f"{spec.name}: {mine.line}", highlight=False, soft_wrap=True)
            baseline = _references(ready, sets, mine, journal)
            limits(spec.control.criteria, baseline.metrics)  # refuses a percentage of a zero baseline
            interrupted = _search(ready, sets, mine, journal, baseline, folder, console)
            points = front(journal, baseline, spec.objectives)
            if not interrupted:
                for line in verify_adapters(ready, sets, mine, folder, points):
                    console.print(f"warning: {line}", style="yellow", highlight=False)
        summary = summarise(folder)
    if interrupted:
        raise Interrupted(summary)
    return summary


def _references(spec: Spec, sets: Sets, mine: Share, journal: Journal) -> Evaluation:
    """The baseline's row; measured and recorded with the oracle's unless the journal has them."""
    known = {row.trial_id: row for row in journal if row.is_reference}
    if BASELINE not in known or (spec.oracle is not None and ORACLE not in known):
        for row in measure_references(spec, sets, mine):
            journal.append(row)
            known.setdefault(row.trial_id, row)
    return known[BASELINE]


def _search(
    spec: Spec, sets: Sets, mine: Share, journal: Journal, baseline: Evaluation, folder: Path, console: Console
) -> bool:
    """Run the trials that are still to run; True when Ctrl-C ended them."""
    study = open_study(folder / "study.journal", spec)
    searcher = OptunaSearcher(study, spec, journal, baseline, spec.search.trials)
    if searcher.remaining <= 0:
        return False
    progress = Progress(spec, baseline, list(journal), searcher.total)
    scheduler = ControlScheduler(spec, baseline.metrics, journal)
    recorder = Recorder(folder, spec, journal, baseline, scheduler, lambda row: progress.add(row))
    trainable = tune.with_parameters(
        UnlearningTrial,
        spec=spec,
        sets=sets,
        baseline=to_json(baseline),
        folder=folder.resolve(),
        threads=max(1, int(mine.cpu)),
    )
    tuner = Tuner(
        tune.with_resources(trainable, mine.resources),
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=searcher.remaining,
            max_concurrent_trials=mine.slots,
            reuse_actors=True,
            trial_dirname_creator=_directory,
            trial_name_creator=_directory,
        ),
        run_config=RunConfig(
            name="tune",
            storage_path=str(folder.resolve()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[recorder],
            verbose=0,
        ),
    )
    with shown(progress, console), stopped_by_signal() as stopped:
        tuner.fit()
    return stopped()


def _directory(trial: Any) -> str:
    return f"{trial.config['number']:04d}"


@contextmanager
def stopped_by_signal() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C, and SIGTERM (a pre-emption's notice), into a stop between two results: Tune ends its trials, and
    every row that was reported is in the journal. A second Ctrl-C ends the process at once. Yields "was it stopped?".

    Tune itself stops on SIGUSR1 without saying so afterwards, hence the detour. Outside of the main thread Python takes
    no signals, and nothing is changed.
    """
    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGUSR1)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
