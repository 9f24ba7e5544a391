"""The whole sweep, top to bottom: references, search, journal, verified adapters, report."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from rayul.errors import RayulError
from rayul.pareto import Summary, summarise
from rayul.pareto.front import front
from rayul.records import BASELINE, JOURNAL, ORACLE, SPEC, STUDY, Evaluation, Journal, to_json
from rayul.spec import Spec, limits, notices
from rayul.storage import Storage, is_url
from rayul.sweep.cluster import Share, cluster_line, connected, share  # before ray.tune: it silences Ray's own output

# isort: split
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.error import TuneError
from ray.tune.stopper import Stopper

from rayul.sweep.budget import Budget, run_begins, run_ends, seconds_spent
from rayul.sweep.driver_disk import DriverDisk, marked, served
from rayul.sweep.folder import begin, checked, held, with_data
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

MAX_FAILURES = 5
"""Times a trial starts again after its worker or node was lost. Not without end: a trial that kills its process each
time (the machine's memory runs out) must become a failed row."""


CTRL_C = "Ctrl-C"
"""What stopped a run, where a person or a pre-emption did."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a sweep; its records are complete and its report is made. `summary` may be None."""

    def __init__(self, summary: Summary | None) -> None:
        super().__init__()
        self.summary = summary


def run_sweep(
    spec: Spec,
    folder: Path | str,
    *,
    resume: bool | Literal["if any"] = False,
    address: str | None = None,
    console: Console | None = None,
    testbed_progress: Callable[[str, float], None] | None = None,
) -> Summary:
    """Run or resume a sweep; returns its summary, with the report on disk at `summary.report`.

    folder: of the results, or a URL (s3://, gs://): then they are written to a work folder and copied there.
    resume: continue what is there; "if any": or begin where nothing is.
    Raises InputError for input that cannot work, before anything is spent, and Interrupted on Ctrl-C after the records
    are closed.
    """
    console = console or Console(stderr=True)
    with ExitStack() as stack:
        storage = Storage(str(folder)) if is_url(folder) else None
        work = storage.folder if storage is not None else Path(folder)
        stack.enter_context(held(work))
        if storage is not None:
            storage.fetch()
            warn = partial(console.print, style="yellow", highlight=False, markup=False, soft_wrap=True)
            stack.enter_context(storage.synced(warn))
        return _run(spec, work, resume, address, storage is not None, console, testbed_progress)


def _run(
    spec: Spec,
    folder: Path,
    resume: bool | Literal["if any"],
    address: str | None,
    ships: bool,
    console: Console,
    testbed_progress: Callable[[str, float], None] | None,
) -> Summary:
    spec = checked(folder, spec, (folder / SPEC).exists() if resume == "if any" else resume)
    spec = spec.model_copy(update={"provenance": run_begins(spec.provenance or {}, folder / JOURNAL)})
    ready = with_testbed(spec, testbed_progress)
    sets = load_sets(ready.data)
    spec = with_data(spec, sets)
    check_needs(ready, sets)
    load_tokenizer(ready.model)
    journal = Journal(folder / JOURNAL)
    for line in notices(spec.method.code):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    with (
        connected(address) as remote,
        served(folder, ready, remote=remote, ships=ships) as disk,
        marked(disk),
    ):
        mine = share(ready.resources)
        if remote:
            console.print(cluster_line(), highlight=False, soft_wrap=True)
        console.print(f"{spec.name}: {mine.line}", highlight=False, soft_wrap=True)
        conditional = [
            k for k in spec.space if any(not spec.is_active(k, {"method.name": m}) for m in spec.method.names)
        ]
        if conditional and spec.search.sampler == "gp":
            line = f"gp draws {', '.join(conditional)} at random: it has no model for what only some methods have"
            console.print(line, highlight=False, soft_wrap=True)
        references = _references(ready, sets, mine, disk, journal)
        baseline = references[BASELINE]
        limits(spec.control.criteria, baseline.metrics)  # refuses a percentage of a zero baseline
        # Only now: what was refused leaves no folder behind that would stand in the way of the corrected spec.
        begin(folder, spec)
        for row in references.values():
            journal.append(row)
        stopped = _search(ready, sets, mine, disk, journal, baseline, console)
        begin(folder, spec.model_copy(update={"provenance": run_ends(spec.provenance or {}, stopped)}))
        if stopped not in ("", CTRL_C):
            console.print(f"stopped: {stopped}", highlight=False, markup=False, soft_wrap=True)
        points = front(journal, baseline, spec.objectives)
        if stopped != CTRL_C:
            for line in verify_adapters(ready, sets, mine, disk, points):
                console.print(f"warning: {line}", style="yellow", highlight=False)
    summary = summarise(folder)
    if stopped == CTRL_C:
        raise Interrupted(summary)
    return summary


def _references(spec: Spec, sets: Sets, mine: Share, disk: DriverDisk, journal: Journal) -> dict[str, Evaluation]:
    """The rows of the baseline and, where there is one, the oracle; measured unless the journal has them."""
    known = {row.trial_id: row for row in journal if row.is_reference}
    if BASELINE not in known or (spec.oracle is not None and ORACLE not in known):
        known = {row.trial_id: row for row in measure_references(spec, sets, mine, disk)} | known
    return known


def _search(
    spec: Spec, sets: Sets, mine: Share, disk: DriverDisk, journal: Journal, baseline: Evaluation, console: Console
) -> str:
    """Run the trials that are still to run; what stopped them early, or ""."""
    study = open_study(disk.folder / STUDY, spec)
    spent = seconds_spent(spec.provenance or {})
    budget = Budget(spec, baseline, journal, spent=spent, devices=mine.gpu or mine.cpu)
    searcher = OptunaSearcher(study, spec, journal, baseline, spec.search.trials, budget.stagnant)
    progress = Progress(spec, baseline, list(journal), searcher.total)
    scheduler = ControlScheduler(spec, baseline.metrics, journal)

    def listen(row: Evaluation) -> None:
        budget.add(row)
        progress.add(row)

    recorder = Recorder(disk.folder, spec, journal, baseline, scheduler, searcher, listen)
    recorder.collect_adapters()  # a driver that was killed right after a trial's last row has not
    if searcher.remaining <= 0 or budget.exhausted():
        return budget.exhausted() if searcher.remaining else ""
    stop = StopSignal(budget)
    trainable = tune.with_parameters(
        UnlearningTrial,
        spec=spec,
        sets=sets,
        baseline=to_json(baseline),
        disk=disk,
        threads=mine.threads,
    )
    # Tune's own state is not needed: all that a resume reads is in our journals.
    scratch = tempfile.mkdtemp(prefix="rayul-tune-")
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
            storage_path=scratch,
            stop=stop,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[recorder],
            verbose=0,
        ),
    )
    try:
        with shown(progress, console), stop.listening():
            tuner.fit()
    except TuneError as error:
        # What the recorder raises (a full disk) reaches the user as it was: Tune makes a text of its traceback.
        if isinstance(error.__context__, RayulError):
            raise error.__context__ from None
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if stop.received:
        return CTRL_C
    return (budget.exhausted() or budget.stagnant()) if searcher.remaining else ""


def _directory(trial: Any) -> str:
    return f"{trial.config['number']:04d}"


class StopSignal(Stopper):  # type: ignore[misc]
    """Turns Ctrl-C, SIGTERM (a pre-emption's notice) and a spent budget into a stop between two results: Tune ends its
    trials, and every row that was reported is in the journal. A second Ctrl-C ends the process at once.
    """

    def __init__(self, budget: Budget) -> None:
        self.received = False
        self.budget = budget

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.received or bool(self.budget.exhausted())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Outside of the main thread Python takes no signals, and nothing is changed."""

        def stop(number: int, frame: Any) -> None:
            self.received = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
