"""A results folder, read: what the spec asked for and every evaluation in the journal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json

from rayul.errors import InputError, RayulError
from rayul.records import (
    ADAPTERS,
    BASELINE,
    COMPLETED,
    FAILED,
    JOURNAL,
    ORACLE,
    PRUNED,
    RUNNING,
    SPEC,
    STUDY,
    Ending,
    Evaluation,
    Key,
    adapter_name,
    read_journal,
    trial_id,
)
from rayul.records.attacked import Attacked, read_attacked
from rayul.records.certificate import CERTIFICATE, Certificates, read_certificates
from rayul.records.evaluations import evaluation_from
from rayul.records.inside import check_inside
from rayul.records.json_lines import REPAIR
from rayul.records.manifest import Manifest, check_length, read_manifest
from rayul.records.objectives import Objectives
from rayul.records.schema import Flag, Numbers, why
from rayul.records.study import StudyRead, read_study
from rayul.records.text_note import NOTE
from rayul.spec import Distribution, Limit, known_limits, limits, load_spec


@dataclass(frozen=True)
class Adapter:
    """A folder under adapters/, with what the sweep measured on retain-report after reloading it."""

    path: str
    report_metrics: dict[str, float] = field(default_factory=dict)
    report_stderr: dict[str, float] = field(default_factory=dict)
    verified: bool = False
    report_notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepRecords:
    """One sweep's folder. `evaluations` are in journal order and include the reference rows."""

    folder: Path
    name: str
    objectives: Objectives
    limits: tuple[Limit, ...]
    """As the spec has them, but for those that are searched: they differ from trial to trial."""
    limit_values: Mapping[str, float]
    """By metric the tighter limit as a number, for the hypervolume."""
    targets: tuple[tuple[float, tuple[Limit, ...]], ...]
    """The shares of control.tau where it is a list, the largest first, each with all limits that hold at it."""
    space: Mapping[str, Distribution]
    manifest: Manifest
    seed: int
    """Of the search; each trial has its own in its rows."""
    evaluations: tuple[Evaluation, ...]
    endings: Mapping[str, Ending]
    """How each trial ended. One that still runs, or was cut off, has the state RUNNING here."""
    baseline: Evaluation
    oracle: Evaluation | None
    adapters: Mapping[Key, Adapter]
    certificates: Certificates = field(default_factory=Certificates)
    attacked: tuple[Attacked, ...] = ()
    """What attacks on certified weights brought back."""
    study: StudyRead = field(default_factory=StudyRead)

    @property
    def trained(self) -> int:
        """Number of evaluations of trials after at least one step."""
        return sum(e.step > 0 for rows in self.trials.values() for e in rows)

    @cached_property
    def fixed_limits(self) -> tuple[Limit, ...]:
        """The limits as numbers, for the rows that the search read. On other rows a percentage of the baseline is
        another number: ask `limits`."""
        return tuple(limit.fixed(self.baseline.metrics) for limit in self.limits)

    @cached_property
    def every_limit(self) -> tuple[Limit, ...]:
        """As numbers, all limits that some point is judged by: those of each target where there are several."""
        limits = [*self.limits, *(limit for _, of_target in self.targets for limit in of_target)]
        return tuple(dict.fromkeys(limit.fixed(self.baseline.metrics) for limit in limits))

    def limits_at(self, target: float | None) -> tuple[Limit, ...]:
        """The limits that hold at one of the targets; those of the sweep for None."""
        return dict(self.targets).get(target, self.limits) if target is not None else self.limits

    @cached_property
    def trials(self) -> dict[str, list[Evaluation]]:
        """The evaluations of each trial in journal order, none of one that failed before its first. Trials are in the
        order of `endings`; the reference rows are no trials."""
        by_trial: dict[str, list[Evaluation]] = {trial: [] for trial in self.endings}
        for e in self.evaluations:
            if not e.is_reference:
                by_trial[e.trial_id].append(e)
        return by_trial

    def steps(self, trial: str) -> int:
        """Optimiser steps that a trial had taken at its last evaluation; 0 without one."""
        return max((e.step for e in self.trials[trial]), default=0)

    def with_report(self, e: Evaluation) -> Evaluation:
        """The evaluation with what the sweep measured of its exported adapter on retain-report, where it did."""
        adapter = self.adapters.get(e.key)
        if adapter is None:
            return e
        return replace(e, metrics=e.metrics | adapter.report_metrics, stderr=e.stderr | adapter.report_stderr)

    @cached_property
    def states(self) -> dict[str, int]:
        """Number of trials by state, the unfinished ("running") included only where there are any."""
        counts = dict.fromkeys((COMPLETED, PRUNED, FAILED), 0)
        for ending in self.endings.values():
            counts[ending.state] = counts.get(ending.state, 0) + 1
        return {state: count for state, count in counts.items() if count or state != RUNNING}


def load_records(folder: Path | str) -> SweepRecords:
    """Read a results folder; needs its spec.yaml and evaluations.jsonl with the baseline's row, nothing else.

    Raises InputError when a file is missing, RayulError when the journal or run.json is broken, or the journal
    has no baseline yet.
    """
    folder = Path(folder)
    check_inside(folder)
    for name in (SPEC, JOURNAL):
        if not (folder / name).is_file():
            only_tables = (folder / "evaluations.parquet").is_file()
            raise InputError(
                f"{folder / name}: no such file",
                "this folder has only a sweep's tables; give the folder of the sweep itself, or make it again"
                if only_tables
                else "give the folder of one sweep, as `rayul sweep` printed it",
            )
    # Before the rows: a sweep that runs writes those first, and these say what there is of them.
    study, manifest, certificates = read_study(folder / STUDY), read_manifest(folder), read_certificates(folder)
    evaluations, ended = read_journal(folder / JOURNAL)
    if lost := [trial_id(number) for number in study.ended if trial_id(number) not in ended]:
        raise RayulError(
            f"{folder / JOURNAL}: no ending of trial {lost[0]}, which has ended according to {STUDY}",
            REPAIR,
        )
    _check_names(evaluations, folder / JOURNAL)
    reference = {e.trial_id: e for e in evaluations if e.is_reference}
    if BASELINE not in reference:
        raise RayulError(
            f"{folder / JOURNAL}: no evaluation of the baseline yet, so nothing can be compared with it",
            "continue the sweep with --resume",
        )
    # The model and the data of a finished sweep need not be on this machine.
    spec = load_spec(folder / SPEC, check_files=False)
    check_length(folder, manifest, len(evaluations) + len(ended))
    _check_of_this_sweep(certificates, manifest, evaluations, folder)
    running = {e.trial_id: e.ended(RUNNING) for e in evaluations if not e.is_reference}
    return SweepRecords(
        folder=folder,
        name=spec.name,
        objectives=spec.objectives,
        limits=known_limits(spec.criteria),
        limit_values=limits(spec.criteria, reference[BASELINE].metrics),
        targets=tuple((tau, known_limits(spec.criteria_at(tau))) for tau in spec.targets),
        space=spec.space,
        manifest=manifest,
        seed=spec.search.seed,
        evaluations=tuple(evaluations),
        endings=running | ended,
        baseline=reference[BASELINE],
        oracle=reference.get(ORACLE),
        adapters=_adapters(folder),
        certificates=certificates,
        attacked=tuple(read_attacked(folder)),
        study=study,
    )


NAMES = 2_000
"""Of settings and metrics, more than a sweep ever has: each is a column of the tables, in every row."""


def _check_names(evaluations: Sequence[Evaluation], path: Path) -> None:
    names: set[str] = set()
    for e in evaluations:
        names.update(e.params, e.metrics, e.stderr, e.violation, e.rows, e.groups, e.group_sums, e.group_rows)
        if len(names) > NAMES:
            raise RayulError(
                f"{path}: its evaluations have more than {NAMES} settings and metrics: no sweep has so many",
                "use the folder as rayul wrote it: something else has changed this file",
            )


def _check_of_this_sweep(
    certificates: Certificates, manifest: Manifest, evaluations: Sequence[Evaluation], folder: Path
) -> None:
    """Raises RayulError where a certificate is about other rows or trials: it is from another sweep's folder, or
    `rayul repair` has cut its trial."""
    known = {e.trial_id: (e.seed, e.params) for e in evaluations}
    for reading in certificates.readings:
        certified = [dial.certified for dial in reading.dials if dial.certified is not None]
        strange = [e for e in certified if known.get(e.trial_id) != (e.seed, e.params)]
        there = [(manifest.data.get(one.certify), one) for one in reading.read]
        if strange or any(rows is not None and rows.sha256 != one.sha256 for rows, one in there):
            what = f"no such trial {strange[0].trial_id} is here" if strange else "it read other certify rows"
            raise RayulError(
                f"{folder / CERTIFICATE} is of another sweep: {what}",
                "restore the file of this sweep, or remove it; after `rayul repair`, --resume runs its trial again",
            )


def _adapters(folder: Path) -> dict[Key, Adapter]:
    """Adapter folders `<trial_id>-<step>-<mixing>` by key; a name that does not parse is somebody else's folder."""
    found: dict[Key, Adapter] = {}
    for path in sorted((folder / ADAPTERS).glob("*-*-*")):
        named = _NAME.fullmatch(path.name)
        if not path.is_dir():
            continue
        if (path / NOTE).exists():
            key, adapter = read_note(path)
            found[key] = adapter
        elif named:
            found[named[1], int(named[2]), float(named[3])] = Adapter(f"{ADAPTERS}/{path.name}")
    return found


_NAME = re.compile(r"([\w-]+)-([0-9]{1,18})-([0-9]+(?:\.[0-9]*)?(?:e-[0-9]{1,3})?)")


@dataclass(frozen=True)
class _Note:
    evaluation: dict[str, Any]
    report_metrics: Numbers = field(default_factory=dict)
    report_stderr: Numbers = field(default_factory=dict)
    verified: Flag = False
    report_notes: tuple[str, ...] = ()


_NOTE = TypeAdapter(_Note)


def read_note(adapter: Path) -> tuple[Key, Adapter]:
    """The note in an adapter's folder, with the key of the evaluation that it is of. Raises RayulError for one that is
    broken, or of another adapter."""
    try:
        note = _NOTE.validate_python(from_json((adapter / NOTE).read_bytes()))
        evaluation = evaluation_from(note.evaluation)
        if adapter_name(evaluation) != adapter.name:
            raise ValueError(f"it is of {adapter_name(evaluation)}")
    except (ValueError, OSError) as error:
        raise RayulError(f"{adapter / NOTE}: not a note about this adapter: {why(error)}", REPAIR) from error
    path = f"{ADAPTERS}/{adapter.name}"
    return evaluation.key, Adapter(path, note.report_metrics, note.report_stderr, note.verified, note.report_notes)
