"""The end of a sweep: its finalists trained again with fresh seeds, measured on unread rows, and attacked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rayul.audit.choice import finalists, recalibrates
from rayul.console import PlainConsole
from rayul.files import write_json
from rayul.pace import Work
from rayul.pareto.targets import target_of
from rayul.progress import ProgressBar
from rayul.records import BASELINE, ORACLE, SPEC, Evaluation, JsonLines
from rayul.records.audited import (
    ASKED,
    AUDIT,
    BEFORE,
    REFUSAL,
    Audited,
    audit_journal,
    name_of,
    read_asked,
)
from rayul.records.folder import SweepRecords, load_records
from rayul.records.trusted import check_trusted
from rayul.report.summary import Summary
from rayul.report.write import summarise
from rayul.spec import Finalists, Spec, is_certify_set, load_spec, searched_of
from rayul.sweep.cluster import allocate
from rayul.sweep.connection import connected, connecting  # before ray.tune: it silences Ray's own output

# isort: split
from ray import tune
from ray.tune import Callback

from rayul.sweep.audit_trial import AuditTrial
from rayul.sweep.driver_disk import marked, served
from rayul.sweep.fit import fit
from rayul.sweep.folder import checked_rows, made_here, opened
from rayul.sweep.memory import MemoryPressure, losses_told
from rayul.sweep.result import AuditResult
from rayul.sweep.same_text import checked_tokens
from rayul.sweep.stop import CTRL_C, Interrupted, StopSignal
from rayul.testbed import with_testbed
from rayul.unlearn.chunks import load_rows
from rayul.unlearn.data import Sets, group_numbers
from rayul.unlearn.model import load_tokenizer
from rayul.unlearn.task import spaced
from rayul.unlearn.trial import REPORTED
from rayul.words import plural

FRESH = 1_000_000
"""Added to the search's seed: trial n of a sweep has seed search.seed + n, and no sweep has a million trials."""


def audit_sweep(
    folder: Path | str,
    wanted: Finalists | None = None,
    *,
    address: str | None = None,
    console: Console | None = None,
    trust: bool = False,
) -> Summary:
    """Audit a finished sweep, or go on with its audit; what is wanted that the journal has already is not done again.

    folder: of the results, or their URL. wanted: by default what the spec says, or else the section's defaults. trust:
    run also code of its spec that this user has not trusted. Raises InputError for a folder that is no sweep's, such
    code, an empty front and rows or tokens that have changed, and Interrupted on Ctrl-C after the records are closed.
    """
    console = console or PlainConsole(stderr=True)
    warn = partial(console.print, style="yellow", highlight=False, markup=False, soft_wrap=True)
    with ProgressBar(console) as bar, opened(folder, warn, bar.update) as (work, is_copied), losses_told():
        bar.update("reading the records")
        results = load_records(work)
        written = load_spec(work / SPEC)
        check_trusted(written, folder, trusted=trust)
        wanted = wanted or written.finalists or Finalists()
        finalists(results, wanted)  # refuses before anything is loaded
        ready = with_testbed(written, bar.update, results.manifest.date)
        bar.update("reading the rows")
        sets = load_rows(ready)
        checked_rows(sets, results.manifest)
        checked_tokens(load_tokenizer(ready.model), ready.model, sets, results.manifest)
        bar.update(connecting(address))
        with connected(address, warn) as remote:
            stopped = audit(ready, sets, results, wanted, console, bar, remote=remote, uploads_adapters=is_copied)
            bar.update("ending Ray")
        bar.update("writing the report")
        summary = summarise(work)
    if stopped:
        raise Interrupted(summary)
    return summary


def audit(
    spec: Spec,
    sets: Sets,
    results: SweepRecords,
    wanted: Finalists,
    console: Console,
    bar: ProgressBar,
    *,
    remote: bool = False,
    uploads_adapters: bool = False,
) -> str:
    """Run what is still to run; CTRL_C where that stopped it, or "". remote, uploads_adapters: as for `served`."""
    folder = results.folder
    chosen = finalists(results, wanted)
    (folder / AUDIT).mkdir(exist_ok=True)
    journal = audit_journal(folder)
    _write_asked(spec, sets, results, wanted, chosen)
    runs = list(_runs(spec, results, wanted, chosen, journal))
    if not runs:
        return ""
    allocation = allocate(spec.resources)
    names = ", ".join(name_of(e) for e in chosen)
    say = console.print
    say(f"audit of {names}: {len(runs)} models, {allocation.line}", highlight=False, markup=False, soft_wrap=True)
    with served(folder / AUDIT, spec, remote=remote, uploads_adapters=uploads_adapters) as disk, marked(disk):
        trainable = tune.with_parameters(
            AuditTrial,
            spec=spec,
            sets=sets,
            wanted=wanted,
            baseline=results.baseline.metrics,
            lr=max(spec.at(e.params).training.lr for e in chosen),
            disk=disk,
            threads=allocation.threads,
        )
        listener = partial(say, highlight=False, markup=False, soft_wrap=True)
        wanted_lines = [(run, name) for run in runs for name in (BEFORE, *wanted.attacks) if name not in run["done"]]
        work = Work(Counter(_kind(run["subject"], name) for run, name in wanted_lines))

        def tell(row: Audited) -> None:
            listener(_line(row))
            work.add(_kind(row.subject, row.attack), 1, row.seconds)
            bar.update(f"audit: {work.count:.0f} of {plural(len(wanted_lines), 'measurement')}", work.share)

        bar.update(f"audit: 0 of {plural(len(wanted_lines), 'measurement')}", 0.0)
        stop = StopSignal()
        fit(
            tune.with_resources(trainable, allocation.resources),
            stop,
            [MemoryPressure(), _Recorder(journal, wanted.attacks, tell)],
            _directory,
            listener,
            param_space={"run": tune.grid_search(runs)},
            max_concurrent_trials=allocation.slots,
        )
        return CTRL_C if stop.received else ""


def _runs(
    spec: Spec, results: SweepRecords, wanted: Finalists, chosen: list[Evaluation], journal: JsonLines[Audited]
) -> Iterator[dict[str, Any]]:
    """The models that still lack a line: the references first, since everything is told against them."""
    seed = spec.search.seed
    fresh = [seed + FRESH + i for i in range(wanted.seeds)]
    subjects: list[dict[str, Any]] = [{"subject": BASELINE, "seed": seed}]
    if spec.oracle is not None:
        subjects.append({"subject": ORACLE, "seed": seed})
    if wanted.attacks:
        subjects.append({"subject": REFUSAL, "seed": fresh[0]})
    for n in fresh:  # seed by seed, so that an audit that is stopped has some of every finalist
        subjects += [
            {
                "subject": name_of(e),
                "seed": n,
                "params": e.params,
                "step": e.step,
                "target": target_of(results, e),
                "fixed": None if spec.control.mixing and recalibrates(results, e) else e.mixing,
            }
            for e in chosen
        ]
    for run in subjects:
        rows = {row.attack: row for row in journal if (row.subject, row.seed) == (run["subject"], run["seed"])}
        failed = BEFORE in rows and not rows[BEFORE].scored
        if not failed and not {BEFORE, *wanted.attacks} <= set(rows):
            mixing = rows[BEFORE].mixing if BEFORE in rows else 1.0
            yield run | {"done": list(rows), "mixing": mixing}


def _write_asked(spec: Spec, sets: Sets, results: SweepRecords, wanted: Finalists, chosen: list[Evaluation]) -> None:
    """audit.json: what was asked for, by whom, and the group of every measured row as a number."""
    path = results.folder / AUDIT / ASKED
    before = read_asked(path).finalists if path.exists() else {}
    groups = {}
    for name in (*REPORTED, *(name for name in sets if searched_of(name) in spec.probe_sets)):
        if is_certify_set(name):
            continue
        groups[name] = group_numbers(spaced(list(sets.get(name, ())), spec.evaluate.max_rows)).tolist()
    now = {
        name_of(e): {
            "trial_id": e.trial_id,
            "step": e.step,
            "mixing": e.mixing,
            "target": target_of(results, e),
            "recalibrated": spec.control.mixing and recalibrates(results, e),
        }
        for e in chosen
    }
    asked = {
        "finalists": {name: asdict(point) for name, point in before.items()} | now,
        "confidence": wanted.confidence,
        "attacks": list(wanted.attacks),
        "groups": groups,
        "provenance": made_here(spec).plain(),
    }
    write_json(path, asked)


class _Recorder(Callback):  # type: ignore[misc]
    """Each line is on disk before Tune goes on. A model that starts again repeats lines; the first of a key stays."""

    def __init__(self, journal: JsonLines[Audited], attacks: Sequence[str], tell: Callable[[Audited], None]) -> None:
        self.journal, self.attacks, self.tell = journal, attacks, tell

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for a restore that we never do, and a console holds a lock."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        row = AuditResult.from_ray(result).row
        if row is not None:
            self._append(row)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Its process died more often than Tune restarts it: what it was at is a line with the reason."""
        run = trial.config["run"]
        done = {row.attack for row in self.journal if (row.subject, row.seed) == (run["subject"], run["seed"])}
        at = next((attack for attack in (BEFORE, *self.attacks) if attack not in done), None)
        if at is not None:
            reason = "its worker process died again and again (out of memory, or the node was lost)"
            self._append(Audited(run["subject"], run["seed"], at, reason=reason))

    def _append(self, row: Audited) -> None:
        if self.journal.append(row):
            self.tell(row)


def _kind(subject: str, attack: str) -> str:
    """What takes about as long as another: references are measured without being trained."""
    return attack or ("measured" if subject in (BASELINE, ORACLE) else "trained")


def _line(row: Audited) -> str:
    """What a person sees of a line as it comes."""
    head = f"audit {row.subject} seed {row.seed}" + (f" {row.attack}" if row.attack else "")
    if not row.scored:
        return f"{head}: {row.reason}"
    if row.attack == BEFORE:
        metrics = row.scored[0].metrics
        keys = ("forget.es", "forget.prob", "retain.es", "retain_report.es")
        shown = [f"{key} {metrics[key]:.3f}" for key in keys if key in metrics]
        return f"{head}: {', '.join(shown)} ({row.seconds:.1f} s)"
    worst = max(row.scored, key=lambda one: one.metrics["forget.es"])
    return f"{head}: forget.es {worst.metrics['forget.es']:.3f} at worst, {worst.variant} ({row.seconds:.1f} s)"


def _directory(trial: Any) -> str:
    run = trial.config["run"]
    return f"{run['subject']}-seed{run['seed']}"
