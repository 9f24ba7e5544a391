"""The whole sweep as a script: check and prepare, references, search, adapters, audit, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from optuna import Study
from rich.console import Console

from rayul.console import PlainConsole
from rayul.pareto.front import front
from rayul.progress import ProgressBar
from rayul.records import (
    BASELINE,
    CHECKPOINTS,
    JOURNAL,
    ORACLE,
    SPEC,
    STUDY,
    Ending,
    Evaluation,
    Journal,
    Record,
    adapter_folder,
    trial_id,
)
from rayul.records.folder import load_records
from rayul.records.manifest import Manifest, check_length, write_manifest
from rayul.records.trusted import check_trusted
from rayul.report.summary import Summary
from rayul.report.write import summarise
from rayul.spec import Spec, check_baseline_keeps, check_certifiable, check_limits, check_objectives
from rayul.sweep.cluster import Allocation, allocate, cluster_line
from rayul.sweep.connection import connected, connecting  # before ray.tune: it silences Ray's own output

# isort: split
from ray import tune
from ray.tune import Callback

from rayul.sweep.alert import alerted
from rayul.sweep.audit import audit
from rayul.sweep.budget import Budget, run_begins, run_ends
from rayul.sweep.certify import certify_at_end, certify_groups
from rayul.sweep.driver_disk import DriverDisk, marked, served
from rayul.sweep.failures import AlikeFailures, refuse_failures
from rayul.sweep.fit import fit
from rayul.sweep.folder import begin, checked, checked_rows, opened
from rayul.sweep.memory import MemoryPressure, losses_told
from rayul.sweep.packs.broker import Devices, broker
from rayul.sweep.packs.measurer import DeviceMeasurer
from rayul.sweep.packs.packed_trial import PackedTrial
from rayul.sweep.packs.packing import Packing, as_recorded, choose_packing
from rayul.sweep.point_note import complaint, noted_difference
from rayul.sweep.progress import Progress, shown
from rayul.sweep.pruning.rules import rules_of
from rayul.sweep.pruning.scheduler import PruningScheduler
from rayul.sweep.recorder import Recorder
from rayul.sweep.reference import Measurer, ProcessMeasurer
from rayul.sweep.same_text import checked_tokens
from rayul.sweep.search.samplers import check_sampler, handed_over
from rayul.sweep.search.searcher import OptunaSearcher, open_study
from rayul.sweep.search.warm_start import earlier_trials
from rayul.sweep.stop import CTRL_C, Interrupted, StopSignal
from rayul.sweep.tracking import trackers
from rayul.sweep.trainable import UnlearningTrial
from rayul.testbed import with_testbed
from rayul.unlearn.chunks import load_rows
from rayul.unlearn.data import Sets
from rayul.unlearn.model import load_tokenizer
from rayul.unlearn.task import check_needs
from rayul.unlearn.template import Template, text_notices
from rayul.words import plural


def run_sweep(
    spec: Spec,
    folder: Path | str,
    *,
    resume: bool | Literal["if any"] = False,
    address: str | None = None,
    console: Console | None = None,
    trust: bool = False,
) -> Summary:
    """Run or resume a sweep; returns its summary, with the report on disk at `summary.report`.

    folder: of the results, or a URL (s3://, gs://): then they are written to a work folder and copied there.
    resume: continue what is there; "if any": or begin where nothing is.
    trust: resume also a spec with code that this user has not trusted. A sweep that begins trusts the spec's code.
    Raises InputError for input that cannot work, before anything is spent, and after the records are closed Interrupted
    on Ctrl-C, and RayulError where every trial failed.
    """
    console = console or PlainConsole(stderr=True)
    warn = partial(console.print, style="yellow", highlight=False, markup=False, soft_wrap=True)
    with ProgressBar(console) as bar, opened(folder, warn, bar.update) as (work, is_copied), losses_told():
        resumes = (work / SPEC).exists() if resume == "if any" else resume
        recorded = run_begins(checked(work, spec, resumes), work / JOURNAL)
        check_trusted(spec, work, trusted=trust or not (work / SPEC).exists(), sends=True)
        with alerted(spec, work, warn):
            return _run(spec, work, recorded, resumes, address, is_copied, console, bar)


@dataclass(frozen=True)
class Sweep:
    """What a sweep holds while its trials run.

    spec: ready to run, with the testbed's folders in it. disk: has the folder of the results. manifest: with the run
    that goes on now. devices: of the packs; None where each trial has a process of its own. trackers: Ray's
    callbacks for TensorBoard and the like.
    """

    spec: Spec
    sets: Sets
    disk: DriverDisk
    manifest: Manifest
    allocation: Allocation
    devices: Devices | None
    journal: Journal
    study: Study
    baseline: Evaluation
    trackers: Sequence[Callback]
    console: Console


def _run(
    asked: Spec,
    folder: Path,
    recorded: Manifest,
    resumes: bool,
    address: str | None,
    uploads_adapters: bool,
    console: Console,
    bar: ProgressBar,
) -> Summary:
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    warn = partial(say, style="yellow")

    # --- Check and prepare: what cannot work is refused before anything is spent --------------------------------
    began = time.monotonic()
    ready = with_testbed(asked, bar.update, recorded.date)
    bar.update("reading the rows")
    sets = load_rows(ready)
    data = checked_rows(sets, recorded)
    check_needs(ready, sets)
    if not resumes:  # a sweep that has begun goes on, and says at its end why nothing is certified
        check_certifiable(asked, certify_groups(sets))
    rules_of(ready)  # refuses a rule of the user's own that cannot be run
    check_sampler(ready)
    tokenizer = load_tokenizer(ready.model)
    notices = (*asked.notices, *text_notices(tokenizer, Template.of(ready.model)))
    same_text = partial(checked_tokens, tokenizer, asked.model, sets)
    tokens = same_text(recorded)
    earlier = [] if (folder / STUDY).exists() else earlier_trials(asked, data, same_text)
    journal = Journal(folder / JOURNAL)
    check_length(folder, recorded, len(list(journal.records)))
    references = {row.trial_id: row for row in journal if row.is_reference}
    wanted = [BASELINE] if ready.oracle is None else [BASELINE, ORACLE]
    missing = [name for name in wanted if name not in references]
    if earlier:
        say(f"the search begins with {plural(len(earlier), 'trial')} of {', '.join(asked.search.warm_start)}")
    for line in notices:
        say(line)
    callbacks = trackers(asked, folder, say)

    bar.update(connecting(address))
    with (
        connected(address, warn) as remote,
        served(folder, ready, remote=remote, uploads_adapters=uploads_adapters) as disk,
        marked(disk),
    ):
        if remote:
            say(cluster_line())
        bar.update("choosing how many trials share a device")
        packing = choose_packing(ready, sets, disk, recorded.pack)
        allocation = allocate(ready.resources, packing.slots)
        pack = as_recorded(packing, ready.model.dtype, allocation.threads)
        manifest = recorded.model_copy(update={"data": data, "tokens": tokens, "pack": pack})
        for line in filter(None, (allocation.line, packing.why)):
            say(f"{asked.name}: {line}")
        if not asked.search.traits.conditional and asked.conditional:
            why = "it has no model for settings that only some methods have"
            say(f"{asked.search.sampler} draws {', '.join(asked.conditional)} at random: {why}")
        if modelled := handed_over(asked.search, len(earlier)):
            say(modelled)

        with _devices(ready, sets, allocation, packing, disk) as (devices, measurer):
            # --- References: the models that everything is compared with -------------------------------------------
            wait = f"waiting for {allocation.awaits} to join, then " if allocation.awaits else ""
            bar.update(f"{wait}measuring {' and '.join(missing)}" if missing else "reading the journal")
            references |= measurer.measure(missing)
            baseline = references[BASELINE]
            if BASELINE in missing and (unseen := allocation.unseen(baseline.device)):
                warn(f"warning: {unseen}")
            for line in baseline.notes:
                warn(line)
            check_limits(asked.criteria, baseline.metrics)
            if not resumes:
                check_baseline_keeps(asked.criteria, baseline.metrics)
            check_objectives(asked.objectives, baseline.metrics)
            # Only now: what was refused leaves no folder behind that would stand in the way of the corrected spec.
            begin(folder, asked, manifest)
            for row in references.values():
                journal.append(row)

            # --- Search: the trials ---------------------------------------------------------------------------------
            study = open_study(folder / STUDY, ready, earlier)
            sweep = Sweep(
                ready, sets, disk, manifest, allocation, devices, journal, study, baseline, callbacks, console
            )
            stopped = _search(sweep, bar)
            bar.update("reading the journal")
            write_manifest(folder, run_ends(manifest, stopped, time.monotonic() - began, len(list(journal.records))))
            if stopped not in ("", CTRL_C):
                say(f"stopped: {stopped}")
            if not stopped:
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)

            # --- Adapters: those of the front, loaded again and measured on rows that took no part in the search ---
            points = front(journal, baseline, asked.objectives)
            if stopped != CTRL_C and points:
                for problem in _verified(ready, folder, measurer, points, bar):
                    warn(f"warning: {problem}")

            # --- Certificates: the only reading of the certify rows ---------------------------------------------------
            if stopped != CTRL_C:
                certify_at_end(ready, sets, data, load_records(folder), measurer, say, bar)
            bar.update("ending the devices")

        # --- Audit: the finalists, where the spec asks for it -------------------------------------------------------
        if stopped != CTRL_C and asked.finalists is not None and points:
            results = load_records(folder)
            ended = audit(
                ready, sets, results, asked.finalists, console, bar, remote=remote, uploads_adapters=uploads_adapters
            )
            stopped = ended or stopped
        bar.update("ending Ray")

    # --- Report -----------------------------------------------------------------------------------------------------
    bar.update("writing the report")
    summary = summarise(folder)
    if stopped == CTRL_C:
        raise Interrupted(summary)
    refuse_failures(list(journal.endings.values()), stopped, asked.search.trials, folder)
    return summary


@contextmanager
def _devices(
    spec: Spec, sets: Sets, allocation: Allocation, packing: Packing, disk: DriverDisk
) -> Iterator[tuple[Devices | None, Measurer]]:
    """The devices of the packs, None without packs; and who measures outside of trials."""
    if packing.shape is None:
        yield None, ProcessMeasurer(spec, sets, allocation, disk)
        return
    every = spec.resources.checkpoint_every
    arguments = {"spec": spec, "sets": sets, "disk": disk, "shape": packing.shape, "checkpoint_every": every}
    with broker(allocation, arguments) as devices:
        yield devices, DeviceMeasurer(devices, allocation, own=disk.server is None)


def _verified(
    spec: Spec, folder: Path, measurer: Measurer, points: Sequence[Evaluation], bar: ProgressBar
) -> Iterator[str]:
    """What is wrong with points of the front, which are loaded and measured again unless an earlier run has done it."""
    left = []
    for point in points:
        place = adapter_folder(folder, point)
        difference = noted_difference(place, point, spec.report.samples or 0)
        if difference is None:
            left.append(point)
        else:
            yield from filter(None, [complaint(place, difference)])
    earlier = f" ({len(points) - len(left)} more before)" if len(left) < len(points) else ""
    of = plural(len(left), "point")
    for done, problem in enumerate(chain([""], measurer.verify(left))) if left else ():
        bar.update(f"measuring the front again: {done} of {of}{earlier}", done / len(left))
        yield from filter(None, [problem])


def _search(sweep: Sweep, bar: ProgressBar) -> str:
    """Run the trials that are still to run; what stopped them early, or "". Their view takes the place of the bar."""
    spec, journal, baseline, allocation = sweep.spec, sweep.journal, sweep.baseline, sweep.allocation
    devices = sweep.devices  # `listen` is pickled with its surroundings by Tune: it must not see the console
    spent = sweep.manifest.seconds(datetime.now(UTC))
    budget = Budget(spec, baseline, journal.records, spent=spent, devices=allocation.device)
    alike = AlikeFailures(spec)
    searcher = OptunaSearcher(sweep.study, spec, journal, baseline, spec.search.trials, budget.stagnant)
    progress = Progress(spec, baseline, journal.records, searcher.total)
    scheduler = PruningScheduler(spec, baseline.metrics, journal)

    def listen(record: Record) -> None:
        budget.add(record)
        alike.add(record)
        progress.add(record)
        if isinstance(record, Ending) and devices is not None:
            devices.release(int(record.trial_id), spread=searcher.has_proposed_all)

    recorder = Recorder(sweep.disk.folder, spec, journal, baseline, scheduler, searcher, listen)
    recorder.collect_adapters()  # a driver that was killed right after a trial's ending has not
    if searcher.remaining <= 0 or budget.exhausted():
        return budget.exhausted() if searcher.remaining else ""
    stop = StopSignal(lambda: budget.exhausted() or alike.stopped())
    progress.is_ending = stop.stop_all
    bar.stop()
    fit(
        tune.with_resources(_trainable(sweep), allocation.resources),
        stop,
        [MemoryPressure(), recorder, *sweep.trackers],
        _directory,
        partial(sweep.console.print, style="yellow", highlight=False, markup=False, soft_wrap=True),
        meanwhile=shown(progress, sweep.console),
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=searcher.remaining,
        max_concurrent_trials=allocation.slots,
    )
    if stop.received:
        return CTRL_C
    return (alike.stopped() or budget.exhausted() or budget.stagnant()) if searcher.remaining else ""


def _trainable(sweep: Sweep) -> Any:
    """What Tune runs as a trial."""
    spec, baseline = sweep.spec, sweep.baseline
    if sweep.devices is not None:
        limit = spec.search.trial_time_limit
        return tune.with_parameters(PackedTrial, devices=sweep.devices, baseline=baseline, limit=limit)
    own = {"sets": sweep.sets, "disk": sweep.disk, "threads": sweep.allocation.threads}
    return tune.with_parameters(UnlearningTrial, spec=spec, baseline=baseline, **own)


def _directory(trial: Any) -> str:
    return trial_id(trial.config["number"])
