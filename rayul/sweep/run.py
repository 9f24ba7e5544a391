"""The whole sweep, top to bottom: references, search, journal, verified adapters, report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from optuna import Study
from rich.console import Console

from rayul.pareto.front import front
from rayul.records import BASELINE, CHECKPOINTS, JOURNAL, ORACLE, RUNNING, SPEC, STUDY, Evaluation, Journal, to_json
from rayul.records.folder import load_records
from rayul.report.summary import Summary
from rayul.report.write import summarise
from rayul.spec import Spec, check_objectives, limits
from rayul.sweep.cluster import Share, cluster_line, connected, share  # before ray.tune: it silences Ray's own output

# isort: split
from ray import tune
from ray.tune import Callback

from rayul.sweep.audit import audit
from rayul.sweep.budget import Budget, run_begins, run_ends, seconds_spent
from rayul.sweep.driver_disk import DriverDisk, marked, served
from rayul.sweep.fit import fit
from rayul.sweep.folder import begin, checked, opened, with_data
from rayul.sweep.packs.broker import broker
from rayul.sweep.packs.device_task import ask_a_device
from rayul.sweep.packs.packed_trial import PackedTrial
from rayul.sweep.packs.packing import Packing, as_plain, choose
from rayul.sweep.progress import Progress, shown
from rayul.sweep.pruning.halving import HalvingScheduler
from rayul.sweep.pruning.scheduler import ControlScheduler
from rayul.sweep.recorder import Recorder
from rayul.sweep.reference import Ask, ask_a_process, measure_references, verify_adapters
from rayul.sweep.search.samplers import check_sampler
from rayul.sweep.search.searcher import OptunaSearcher, open_study
from rayul.sweep.search.warm_start import earlier_trials
from rayul.sweep.stop import CTRL_C, Interrupted, StopSignal
from rayul.sweep.tracking import trackers
from rayul.sweep.trainable import UnlearningTrial
from rayul.testbed import with_testbed
from rayul.unlearn.data import Sets, load_sets
from rayul.unlearn.model import load_tokenizer
from rayul.unlearn.task import check_needs


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
    warn = partial(console.print, style="yellow", highlight=False, markup=False, soft_wrap=True)
    with opened(folder, warn) as (work, is_copied):
        return _run(spec, work, resume, address, is_copied, console, testbed_progress)


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
    began = time.monotonic()
    spec = spec.model_copy(update={"provenance": run_begins(spec.provenance or {}, folder / JOURNAL)})
    ready = with_testbed(spec, testbed_progress)
    sets = load_sets(ready.data)
    spec = with_data(spec, sets)
    check_needs(ready, sets)
    check_sampler(ready)
    earlier = [] if (folder / STUDY).exists() else earlier_trials(spec)
    journal = Journal(folder / JOURNAL)
    references = {row.trial_id: row for row in journal if row.is_reference}
    wanted = [BASELINE] if ready.oracle is None else [BASELINE, ORACLE]
    missing = [name for name in wanted if name not in references]
    if not missing:  # else a model that cannot be loaded is refused by whoever measures it
        load_tokenizer(ready.model)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    if earlier:
        say(f"the search begins with {len(earlier)} trials of {', '.join(spec.search.warm_start)}")
    for line in spec.notices:
        say(line)
    callbacks = trackers(spec, folder, say)
    with (
        connected(address) as remote,
        served(folder, ready, remote=remote, ships=ships) as disk,
        marked(disk),
    ):
        if remote:
            console.print(cluster_line(), highlight=False, soft_wrap=True)
        packing = choose(ready, sets, disk, (spec.provenance or {}).get("pack"))
        mine = share(ready.resources, packing.slots)
        pack = {"pack": as_plain(packing, ready.model.dtype, mine.threads)}
        spec = spec.model_copy(update={"provenance": (spec.provenance or {}) | pack})
        for line in filter(None, (mine.line, packing.why)):
            console.print(f"{spec.name}: {line}", highlight=False, soft_wrap=True)
        conditional = [
            k for k in spec.space if any(not spec.is_active(k, {"method.name": m}) for m in spec.method.names)
        ]
        if conditional and not spec.search.traits.conditional:
            line = f"{spec.search.sampler} draws {', '.join(conditional)} at random"
            line += ": it has no model for what only some methods have"
            console.print(line, highlight=False, soft_wrap=True)
        with _devices(ready, sets, mine, packing, disk) as (shop, ask):
            references |= measure_references(missing, ask)
            baseline = references[BASELINE]
            limits(spec.criteria, baseline.metrics)  # refuses a percentage of a zero baseline
            check_objectives(spec.objectives, baseline.metrics)
            # Only now: what was refused leaves no folder behind that would stand in the way of the corrected spec.
            begin(folder, spec)
            for row in references.values():
                journal.append(row)
            study = open_study(folder / STUDY, ready, earlier)
            stopped = _search(ready, sets, mine, shop, disk, journal, study, baseline, console, callbacks)
            provenance = run_ends(spec.provenance or {}, stopped, time.monotonic() - began)
            begin(folder, spec.model_copy(update={"provenance": provenance}))
            if stopped not in ("", CTRL_C):
                say(f"stopped: {stopped}")
            if not stopped:
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            points = front(journal, baseline, spec.objectives)
            if stopped != CTRL_C:
                for line in verify_adapters(points, ask):
                    console.print(f"warning: {line}", style="yellow", highlight=False)
        if stopped != CTRL_C and spec.finalists is not None and points:
            results = load_records(folder)
            ended = audit(ready, sets, results, spec.finalists, console, remote=remote, ships=ships)
            stopped = ended or stopped
    summary = summarise(folder)
    if stopped == CTRL_C:
        raise Interrupted(summary)
    return summary


@contextmanager
def _devices(
    spec: Spec, sets: Sets, mine: Share, packing: Packing, disk: DriverDisk
) -> Iterator[tuple[Any | None, Ask]]:
    """The broker of the packs' devices, None without packs; and whom to ask for what is measured outside of trials."""
    if packing.shape is None:
        yield None, ask_a_process(spec, sets, mine, disk)
        return
    every = spec.resources.checkpoint_every
    arguments = {"spec": spec, "sets": sets, "disk": disk, "shape": packing.shape, "checkpoint_every": every}
    with broker(mine, arguments) as shop:
        yield shop, partial(ask_a_device, shop, mine)


def _search(
    spec: Spec,
    sets: Sets,
    mine: Share,
    shop: Any | None,
    disk: DriverDisk,
    journal: Journal,
    study: Study,
    baseline: Evaluation,
    console: Console,
    callbacks: Sequence[Callback],
) -> str:
    """Run the trials that are still to run; what stopped them early, or ""."""
    spent = seconds_spent(spec.provenance or {})
    budget = Budget(spec, baseline, journal, spent=spent, devices=mine.device)
    searcher = OptunaSearcher(study, spec, journal, baseline, spec.search.trials, budget.stagnant)
    progress = Progress(spec, baseline, list(journal), searcher.total)
    halving = HalvingScheduler(spec, baseline.metrics, journal) if spec.pruning.budget else None
    scheduler = ControlScheduler(spec, baseline.metrics, journal, halving)

    def listen(row: Evaluation) -> None:
        budget.add(row)
        progress.add(row)
        if row.state != RUNNING and shop is not None:
            shop.release.remote(int(row.trial_id))

    recorder = Recorder(disk.folder, spec, journal, baseline, scheduler, searcher, listen)
    recorder.collect_adapters()  # a driver that was killed right after a trial's last row has not
    if searcher.remaining <= 0 or budget.exhausted():
        return budget.exhausted() if searcher.remaining else ""
    stop = StopSignal(budget.exhausted)
    fit(
        tune.with_resources(_trainable(spec, sets, mine, shop, baseline, disk), mine.resources),
        stop,
        [recorder, *callbacks],
        _directory,
        meanwhile=shown(progress, console),
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=searcher.remaining,
        max_concurrent_trials=mine.slots,
    )
    if stop.received:
        return CTRL_C
    return (budget.exhausted() or budget.stagnant()) if searcher.remaining else ""


def _trainable(spec: Spec, sets: Sets, mine: Share, shop: Any | None, baseline: Evaluation, disk: DriverDisk) -> Any:
    """What Tune runs as a trial."""
    line = to_json(baseline)
    if shop is not None:
        return tune.with_parameters(PackedTrial, broker=shop, baseline=line, limit=spec.search.trial_time_limit)
    return tune.with_parameters(UnlearningTrial, spec=spec, sets=sets, baseline=line, disk=disk, threads=mine.threads)


def _directory(trial: Any) -> str:
    return f"{trial.config['number']:04d}"
