"""Certificates for a sweep: choose adapters on the select rows, freeze their dials, read the certify rows once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

from rich.console import Console

from rayul.console import PlainConsole
from rayul.errors import InputError, RayulError
from rayul.files import write_json
from rayul.pareto.certificate import dial
from rayul.pareto.choose import adapter_path
from rayul.pareto.front import front_of
from rayul.pareto.spread import spread
from rayul.pareto.targets import best_at_targets
from rayul.progress import ProgressBar
from rayul.records import SPEC, Evaluation, adapter_folder, holds_model
from rayul.records.certificate import (
    CERTIFICATE,
    REJECTED,
    Certificates,
    Dial,
    Reading,
    RowsRead,
    certified_folder,
    read_certificates,
    write_certificates,
)
from rayul.records.folder import SweepRecords, load_records
from rayul.records.manifest import RowSet
from rayul.records.recall import write_recall
from rayul.records.text_note import NOTE, text_note
from rayul.records.trusted import check_trusted
from rayul.report.summary import Summary
from rayul.report.write import summarise
from rayul.spec import (
    Attack,
    Certify,
    Spec,
    certifiable,
    certify_of,
    is_certify_set,
    known_limits,
    load_spec,
    sets_to_certify,
    too_few_groups,
    uncertified,
)
from rayul.sweep.attack import attack_certified, left_to_try
from rayul.sweep.cluster import allocate
from rayul.sweep.connection import connected, connecting
from rayul.sweep.driver_disk import marked, served
from rayul.sweep.folder import checked_rows, opened
from rayul.sweep.reference import Measurer, ProcessMeasurer
from rayul.sweep.same_text import checked_tokens
from rayul.testbed import with_testbed
from rayul.unlearn.chunks import load_rows
from rayul.unlearn.data import Sets, group_numbers
from rayul.unlearn.model import load_model, load_tokenizer
from rayul.unlearn.update.saved import save_scaled
from rayul.words import plural

Say = Callable[[str], None]


def certify_sweep(
    folder: Path | str,
    *,
    again: bool = False,
    attack: Attack | None = None,
    address: str | None = None,
    console: Console | None = None,
    trust: bool = False,
) -> Summary:
    """Certify the front of a finished sweep where that has not been done, and then attack the certified weights.

    folder: of the results, or their URL. again: read certify rows that have been read before, at half of the alpha of
    the last time. attack: by default what the spec says; attacks that have a line already are not tried again. trust:
    run also code of its spec that this user has not trusted. Raises InputError for a folder that is no sweep's, such
    code, rows or tokens that have changed, and what cannot be certified. Where nothing is left to do it says so, and
    gives what is known.
    """
    console = console or PlainConsole(stderr=True)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    with ProgressBar(console) as bar, opened(folder, say, bar.update, "certify") as (work, is_copied):
        bar.update("reading the records")
        results = load_records(work)
        asked = load_spec(work / SPEC)
        check_trusted(asked, folder, trusted=trust)
        wanted = asked.certify or Certify()
        spec = with_testbed(asked, bar.update, results.manifest.date)
        bar.update("reading the rows")
        sets = load_rows(spec)
        rows = checked_rows(sets, results.manifest)
        latest = results.certificates.latest
        reads = latest is None or results.certificates.begun is not None or again
        tried = attack or wanted.attack
        if latest is not None and not reads and not (tried and left_to_try(results, tried)):
            say(
                f"nothing is left to do: the certify rows were read on {latest.date}"
                + (", and every attack was tried" if tried and results.certificates.certified else "")
                + " (--again reads them once more, at half of the last alpha)"
            )
            return summarise(work)
        if reads and (why_not := cannot_certify(asked, sets, results)):
            raise InputError(f"{work}: {why_not[0]}", why_not[1])
        checked_tokens(load_tokenizer(spec.model), spec.model, sets, results.manifest)
        bar.update(connecting(address))
        with (
            connected(address, say) as remote,
            served(work, spec, remote=remote, uploads_adapters=is_copied) as disk,
            marked(disk),
        ):
            allocation = allocate(spec.resources)
            if reads:
                measurer = ProcessMeasurer(spec, sets, allocation, disk)
                read_certify_rows(spec, sets, rows, results, wanted, measurer, say, bar)
            if tried is not None:
                attack_certified(spec, sets, load_records(work), tried, allocation, disk, say, bar)
            bar.update("ending Ray")
        bar.update("writing the report")
        return summarise(work)


def certify_at_end(
    spec: Spec,
    sets: Sets,
    rows: dict[str, RowSet],
    results: SweepRecords,
    measurer: Measurer,
    say: Say,
    bar: ProgressBar,
) -> None:
    """At the end of a sweep, or of its resume: a reading where there is something to certify that has not been read
    yet. It says what it does, and why it does nothing."""
    if spec.certify is None:
        return
    why_not = cannot_certify(spec, sets, results)
    if why_not:
        say(f"nothing is certified: {why_not[0]} ({why_not[1]})")
        return
    certificates = read_certificates(results.folder)
    latest = certificates.latest
    if latest is not None and certificates.begun is None:
        known = {(dial.source, dial.target) for reading in certificates.readings for dial in reading.dials}
        if {(e.key, target) for e, target in chosen(results, spec.certify)} <= known:
            return
        alpha = alpha_of(spec.certify, certificates)
        say(f"the certify rows are read again for the new front, at alpha {alpha:.3g} (before: {latest.alpha:.3g})")
    try:
        read_certify_rows(spec, sets, rows, results, spec.certify, measurer, say, bar)
    except RayulError as error:  # the sweep has ended, and its report is still to be written
        say(f"warning: nothing is certified: {error}")


def cannot_certify(spec: Spec, sets: Sets, results: SweepRecords) -> tuple[str, str] | None:
    """What stands in the way of a certificate, and the way out; None where nothing does."""
    lost = results.folder / f"{CERTIFICATE}{REJECTED}"
    if lost.exists():
        return (
            f"{lost.name} is there: how much was spent on the certify rows is not known",
            f"restore it as {CERTIFICATE}; or begin a new sweep, with certify rows that nothing has read",
        )
    if not sets_to_certify(spec):
        if probes := uncertified(spec):
            hint = f"begin a new sweep with a split in {' and '.join(probes)}: the search has read all of their rows"
            return "the limits are on probes that hold no rows back for a certificate", hint
        return "there is no limit on rows to keep to certify", "add a criterion, e.g. retain.es at least 90%"
    if too_few := too_few_groups(spec, certify_groups(sets)):
        return too_few
    if not front_of(results):
        return "the front is empty", "loosen the criteria, or continue with --resume and more --trials"
    return None


def certify_groups(sets: Sets) -> dict[str, int]:
    """How many groups the certify rows are of, by set."""
    return {name: len(set(group_numbers(rows))) for name, rows in sets.items() if is_certify_set(name)}


def chosen(results: SweepRecords, wanted: Certify) -> list[tuple[Evaluation, float | None]]:
    """The points of the front that get a certificate, chosen on what the search has read, each with its target: of
    several utility targets the best at each, the largest first; else points spread over the front, without one."""
    if results.targets:
        return [(one.best, one.share) for one in best_at_targets(results) if one.best is not None]
    return [(e, None) for e in spread(front_of(results), wanted.points)]


def alpha_of(wanted: Certify, certificates: Certificates) -> float:
    """Of the next reading: each one spends half of the one before. So however often the rows are read, a limit is
    broken by what was certified in any reading with a probability of at most twice the first alpha."""
    return round((1 - wanted.confidence) * 0.5 ** len(certificates.readings), 12)


def read_certify_rows(
    spec: Spec,
    sets: Sets,
    rows: dict[str, RowSet],
    results: SweepRecords,
    wanted: Certify,
    measurer: Measurer,
    say: Say,
    bar: ProgressBar,
) -> Reading:
    """One reading: frozen, written down, read, judged, written down; the certified adapters are saved."""
    folder = results.folder
    certificates = read_certificates(folder)
    reading = certificates.begun
    by_key = {e.key: e for e in results.evaluations}
    begun = [] if reading is None else [by_key.get(d.source) for d in reading.dials]
    if reading is None or not all(e is not None and holds_model(adapter_folder(folder, e)) for e in begun):
        points = chosen(results, wanted)
        for e, _ in points:
            adapter_path(results, e)  # raises for one that is missing, before anything is spent
        reading = _frozen(spec, sets, rows, points, alpha_of(wanted, certificates))
        certificates = replace(certificates, readings=(*certificates.readings, reading))
        write_certificates(folder, certificates)
    sources = [by_key[d.source] for d in reading.dials]
    unread = "" if certificates.latest else " that nothing has read"
    groups = " and ".join(f"{plural(one.groups, 'group')} of {one.certify}" for one in reading.read)
    say(f"certifying {plural(len(sources), 'point')} on {groups}{unread}")
    bar.update("reading the certify rows")
    walked = measurer.walk(reading, sources, results.baseline.metrics)
    bar.update("saving what is certified")
    reading = reading.with_found(tuple(found for found, _ in walked))
    base = cache(lambda: load_model(spec.model, device="cpu")[0])
    for (found, recall), point in zip(walked, sources, strict=True):
        if found.certified is not None:
            place = certified_folder(folder, found.certified)
            place.parent.mkdir(exist_ok=True)
            scale = found.scales[found.passed - 1]
            save_scaled(base, adapter_folder(folder, point), scale, place)
            write_json(place / NOTE, text_note(spec.model))
            if recall is not None:
                write_recall(place, recall)
    write_certificates(folder, certificates.with_reading(reading))
    return reading


def _frozen(
    spec: Spec,
    sets: Sets,
    rows: Mapping[str, RowSet],
    points: Sequence[tuple[Evaluation, float | None]],
    alpha: float,
) -> Reading:
    asked = [spec.criteria if target is None else spec.criteria_at(target) for _, target in points]
    limits = dict.fromkeys(limit for criteria in asked for limit in known_limits(criteria))
    tested, others = certifiable(spec, limits)
    names = dict.fromkeys(certify_of(limit.set_name) for limit in tested)
    return Reading(
        date=datetime.now(UTC).replace(microsecond=0).isoformat(),
        alpha=alpha,
        read=tuple(_read(spec, sets, rows, name) for name in names),
        limits=tuple(map(str, tested)),
        others=tuple(map(str, others)),
        earlier=tuple(map(str, spec.earlier)),
        dials=tuple(Dial(e.trial_id, e.step, e.mixing, tuple(dial().tolist()), target=at) for e, at in points),
    )


def _read(spec: Spec, sets: Sets, rows: Mapping[str, RowSet], name: str) -> RowsRead:
    named = any(row.group for row in sets[name])
    return RowsRead(
        certify=name,
        groups=len(set(group_numbers(sets[name]))),
        named=named,
        rows=rows[name].rows,
        sha256=rows[name].sha256,
        by=_group_column(spec, name) if named else "",
    )


def _group_column(spec: Spec, name: str) -> str:
    """The column of a probe's file that its groups are from, where the spec names it."""
    sources = [pair for key, probe in spec.probes.items() for pair in probe.sources(key)]
    return next((source.columns.get("group") or "" for key, source, _ in sources if certify_of(key) == name), "")
