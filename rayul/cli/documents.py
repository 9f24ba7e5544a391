"""What `--json` prints: one document per command, with stable keys (docs/scripting.md lists them).

A key is never removed or given another meaning within a format; new keys may come. Numbers that are not finite are
"nan", "inf" or "-inf", as in the records; null means that there is no such value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from rayul.errors import RayulError
from rayul.files import plain
from rayul.spec import Limit, Spec, SpecError

if TYPE_CHECKING:  # `rayul validate` needs neither records nor numpy
    from rayul.plan import Plan
    from rayul.records import Evaluation
    from rayul.records.folder import SweepRecords
    from rayul.report import Summary
    from rayul.report.checked import Checked
    from rayul.report.compare import Comparison
    from rayul.report.leads import OverSeeds
    from rayul.report.status import Status

Value = Annotated[float, WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]})]
Values = dict[str, Value]


class Printed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def plain(self) -> dict[str, Any]:
        """For strict JSON."""
        data: dict[str, Any] = plain(self.model_dump(by_alias=True))
        return data


class SpecProblem(Printed):
    place: str
    """File and line, or the flag, such as "ga.yaml:12"."""
    key: str
    """Dotted, such as "training.lr"; empty for the file as a whole."""
    message: str
    hint: str


class ErrorDocument(Printed):
    """Printed by every command in place of its own document, with an exit code above 0."""

    format: Literal["rayul.error/1"] = "rayul.error/1"
    code: Literal["usage", "spec", "input", "failed", "interrupted", "internal"]
    """usage: no such command or flag. spec: mistakes in a spec, listed in `problems`. input: any other bad input.
    failed: input was fine, and something went wrong. interrupted: by Ctrl-C or SIGTERM. internal: a bug."""
    message: str
    """What is wrong, with the value and the place."""
    hint: str = ""
    """The way out; may be empty."""
    exit_code: int
    """1, 2 or 130, the same as the command's."""
    problems: list[SpecProblem] = []
    """Of code `spec`: every problem of every file."""

    @classmethod
    def of(cls, error: RayulError) -> ErrorDocument:
        found = error.problems if isinstance(error, SpecError) else ()
        problems = [SpecProblem(place=p.place, key=p.key, message=p.text, hint=p.hint) for p in found]
        code: Any = error.code
        return cls(code=code, message=error.message, hint=error.hint, exit_code=error.exit_code, problems=problems)


class ValidSpec(Printed):
    file: str
    """The file, as it was given."""
    name: str
    """Name of the results folder."""
    searched: list[str]
    """The searched hyper-parameters, such as "training.lr"."""
    trials: int
    notes: list[str]
    """What is worth knowing, in sentences: code that would run, what can be certified."""

    @classmethod
    def of(cls, file: Path, spec: Spec, notes: Iterable[str]) -> ValidSpec:
        return cls(file=str(file), name=spec.name, searched=[*spec.space], trials=spec.search.trials, notes=[*notes])


class ValidateDocument(Printed):
    """Every spec is valid. Else an error document of code `spec` has the problems of all."""

    format: Literal["rayul.validate/1"] = "rayul.validate/1"
    specs: list[ValidSpec]


class PlanDocument(Printed):
    """What a sweep would cost. Upper bounds: every trial is assumed to cost as much as the most expensive one."""

    format: Literal["rayul.plan/1"] = "rayul.plan/1"
    name: str
    trials: int
    searched: list[str]
    """The searched hyper-parameters."""
    combinations: int
    """Number of combinations of the discrete values."""
    continuous: list[str]
    """The searched hyper-parameters that are continuous."""
    rows: dict[str, int]
    """Number of rows by set; of "reserve", those that are kept back for the certificates of later requests."""
    groups: dict[str, int]
    """Number of groups by set."""
    device: str
    """What the cost was measured on."""
    step_seconds: Value
    evaluation_seconds: Value
    trial_seconds: Value
    """Of a trial that runs to its last step and has a device to itself."""
    sweep_seconds: Value
    """Of all trials, as many at a time as fit, without pruning."""
    usual_sweep_seconds: Value
    """The same with as many evaluations as calibration usually takes; no upper bound."""
    device_hours: Value
    device_unit: Literal["GPU", "core"]
    trials_at_a_time: int
    memory_bytes: int
    """Peak memory of a trial, its model included."""
    device_memory_bytes: int
    disk_bytes: int
    """Upper bound of what the results will take."""
    disk_free_bytes: int
    share_saved_by_pruning: Value | None
    """Share of the steps that pruning saved in earlier sweeps of this space; null where there are none."""
    baseline: Values
    """Metrics of the model before unlearning, by "<set>.<metric>"."""
    certificate: list[str]
    """What a certificate will be able to show, in sentences."""
    warnings: list[str]
    """What looks wrong, in sentences; empty where nothing does."""

    @classmethod
    def of(cls, plan: Plan) -> PlanDocument:
        return cls(
            name=plan.spec.name,
            trials=plan.trials,
            searched=[*plan.spec.space],
            combinations=plan.combinations,
            continuous=[*plan.continuous],
            rows=plan.rows,
            groups=plan.groups,
            device=plan.cost.device,
            step_seconds=plan.cost.step,
            evaluation_seconds=plan.cost.evaluation,
            trial_seconds=plan.trial_seconds,
            sweep_seconds=plan.seconds(),
            usual_sweep_seconds=plan.usual_seconds(),
            device_hours=plan.device_hours(),
            device_unit="GPU" if plan.on_gpu else "core",
            trials_at_a_time=plan.slots,
            memory_bytes=plan.cost.memory,
            device_memory_bytes=plan.cost.device_memory,
            disk_bytes=plan.disk,
            disk_free_bytes=plan.disk_free,
            share_saved_by_pruning=None if plan.saved is None else plan.saved.share,
            baseline={key: measured.value for key, measured in plan.cost.baseline.items()},
            certificate=[*plan.certificate],
            warnings=[*plan.warnings],
        )


class PointPart(Printed):
    trial: str
    step: int
    mixing: Value
    """The share of the unlearning that is applied, from 0 to 1."""
    forgotten: Value | None
    """Fraction of the forget objective that is gone; null without one."""
    forgotten_es: Value | None
    """1 - forget.es / baseline (of a probe that the search went by: its own metric), what report and card call
    forgotten; null where it was not measured."""
    params: dict[str, Any]
    """The searched hyper-parameters."""
    metrics: Values
    """By "<set>.<metric>"; of a saved point also those that were measured at the end alone."""
    stderr: Values
    """Standard errors of the metrics, clustered by group."""

    @classmethod
    def of(cls, e: Evaluation, results: SweepRecords) -> PointPart:
        from rayul.pareto.front import forgotten
        from rayul.report.gone import forgotten_share

        es = forgotten_share(results, e)
        gone, known = float(forgotten([e], results.baseline, results.objectives)[0]), results.with_report(e)
        return cls(
            trial=e.trial_id,
            step=e.step,
            mixing=e.mixing,
            forgotten=None if math.isnan(gone) else gone,
            forgotten_es=None if math.isnan(es) else es,
            params=dict(e.params),
            metrics=dict(known.metrics),
            stderr=dict(known.stderr),
        )


class LimitPart(Printed):
    metric: str
    bound: Literal["at_least", "at_most"]
    value: Value
    """In the metric's own unit, on the rows that the search read."""

    @classmethod
    def of(cls, limit: Limit) -> LimitPart:
        return cls(metric=limit.metric, bound=limit.key, value=limit.value)


class CheckPart(Printed):
    question: str
    verdict: Literal["good", "warning", "problem"]
    answer: str


class TargetPart(Printed):
    share: Value
    """Share of the baseline's utility to keep."""
    best: PointPart | None
    """The point of the front that forgets most among those that keep this share."""


class MarginPart(Printed):
    """One limit on the certify rows, in shares of the baseline where the limit is one, else in the metric's unit."""

    metric: str
    limit: Value
    relative: bool
    """Whether the numbers are shares of the baseline."""
    kept: Value
    """Mean over the certify groups."""
    bound: Value | None
    """Of that mean, from below for at least and from above for at most, at the level of one of the points that were
    tested together; null where all groups keep the same, since the test has no spread then."""


class CertifiedPart(Printed):
    """A point that passed the test on groups that nothing had read."""

    point: PointPart
    """Its metrics are on the rows of the search and of the report, not on the certify rows."""
    margins: list[MarginPart]
    """What it keeps on the certify rows, by limit."""
    together: int
    """Number of points that were tested together, for all of which the confidence is."""
    scale: Value
    """Share of the front point's update that is applied."""
    confidence: Value
    """Confidence that all certified points of this reading keep the limits on new groups."""
    groups: int
    """Number of groups that it was tested on; of several sets of certify rows that of the smallest."""
    groups_by_set: dict[str, int]
    """The same by set of certify rows, such as retain_certify, or mmlu_certify of a probe."""
    date: str
    """Date of the reading, ISO 8601."""
    target: Value | None
    """The share of control.tau whose limit it was tested against, where that is a list."""


class SweepFound(Printed):
    name: str
    folder: str
    """The results folder."""
    report: str
    """The page, in the results folder."""
    objectives: dict[str, Literal["minimize", "maximize"]]
    limits: list[LimitPart]
    trials: dict[str, int]
    """Number of trials by state: completed, pruned, failed, running."""
    baseline: Values
    """Metrics of the model before unlearning, by "<set>.<metric>"."""
    oracle: Values | None
    """Metrics of the model trained without the forget rows, where there is one."""
    hypervolume: Value
    """Hypervolume of the front, in [0, 1]."""
    front: list[PointPart]
    """The non-dominated points within the limits, best in the first objective first."""
    best: PointPart | None
    """The point of the front that forgot most; where no limit protects utility, the one that dominates most."""
    targets: list[TargetPart]
    """The best at each share of control.tau, where it is a list; else empty."""
    certified: list[CertifiedPart]
    """The certified points, those that forgot most first."""
    checks: list[CheckPart]
    """The health checks, worst first."""


def _found(summary: Summary, results: SweepRecords) -> dict[str, Any]:
    from rayul.report.certified import certified, is_without_spread

    return {
        "name": summary.name,
        "folder": str(summary.folder),
        "report": str(summary.report),
        "objectives": dict(summary.objectives),
        "limits": [LimitPart.of(limit) for limit in summary.limits],
        "trials": summary.states,
        "baseline": dict(summary.baseline.metrics),
        "oracle": None if summary.oracle is None else dict(summary.oracle.metrics),
        "hypervolume": summary.hypervolume,
        "front": [PointPart.of(e, results) for e in summary.front],
        "best": None if summary.best is None else PointPart.of(summary.best, results),
        "targets": [
            TargetPart(share=one.share, best=None if one.best is None else PointPart.of(one.best, results))
            for one in summary.targets
        ],
        "certified": [
            CertifiedPart(
                point=PointPart.of(one.e, results),
                margins=[
                    MarginPart(
                        metric=m.metric,
                        limit=m.at,
                        relative=m.relative,
                        kept=m.kept,
                        bound=None if is_without_spread(m) else m.low,
                    )
                    for m in one.at.margins
                ],
                together=len(one.reading.dials),
                scale=one.at.scale,
                confidence=one.confidence,
                groups=one.reading.groups,
                groups_by_set={rows.certify: rows.groups for rows in one.reading.read},
                date=one.reading.date,
                target=one.dial.target,
            )
            for one in certified(results)
        ],
        "checks": [CheckPart(question=c.title, verdict=c.verdict, answer=c.sentence) for c in summary.checks],
    }


class ReportDocument(SweepFound):
    """What a sweep found. The report and its tables have been written again."""

    format: Literal["rayul.report/1"] = "rayul.report/1"
    figures: str | None
    """Folder of the figures, where some were asked for."""

    @classmethod
    def of(cls, summary: Summary, results: SweepRecords, figures: bool) -> ReportDocument:
        return cls(**_found(summary, results), figures=str(summary.folder / "figures") if figures else None)


class AttackPart(Printed):
    """The worst of what an attack on a certified point brought back."""

    point: str
    """The certified point: its folder in certified/."""
    attack: str
    variant: str
    """What was tried, in words."""
    tried: int
    """Number of variants that were tried; the others brought back less."""
    before: Value | None
    """forget.es before the attack; null where nothing was measured."""
    after: Value | None
    returned: Value | None
    """Share of what was forgotten that is back."""
    half: int | None
    """Steps of fine-tuning, or percent of the way of an interpolation, after which half of it is back; null where that
    is never reached."""
    reason: str
    """Why nothing was measured; else empty."""


def _attacks(results: SweepRecords) -> list[AttackPart]:
    from rayul.audit.recovery import recoveries
    from rayul.report.attacked import of_model

    found = []
    for model in dict.fromkeys(row.model for row in results.attacked):
        rows = of_model(results, model)
        found += [
            AttackPart(
                point=model,
                attack=one.row.attack,
                variant=one.row.variant,
                tried=one.tried,
                before=one.row.before,
                after=one.after,
                returned=_known(one.returned),
                half=one.half,
                reason="",
            )
            for one in recoveries(rows)
        ]
        found += [
            AttackPart(
                point=model,
                attack=row.attack,
                variant=row.variant,
                tried=0,
                before=None,
                after=None,
                returned=None,
                half=None,
                reason=row.reason,
            )
            for row in rows
            if row.reason
        ]
    return found


class CertifyDocument(SweepFound):
    """What a sweep found, after its points have been certified and attacked."""

    format: Literal["rayul.certify/1"] = "rayul.certify/1"
    sentences: list[str]
    """What is certified, or why nothing is, and what attacks brought back, in words."""
    attacks: list[AttackPart]
    """Of each attacked point, what brought back most first."""

    @classmethod
    def of(cls, summary: Summary, results: SweepRecords) -> CertifyDocument:
        said = [*summary.certified, *summary.attacked]
        return cls(**_found(summary, results), sentences=said, attacks=_attacks(results))


class StatusDocument(Printed):
    """How far a sweep is."""

    format: Literal["rayul.status/1"] = "rayul.status/1"
    name: str
    phase: Literal["starting", "running", "finishing", "stopped", "finished"]
    """starting: the reference models are being measured, and all other values are null or empty. stopped: trials are
    left, and `--resume` goes on."""
    stopped: str
    """Why the last run ended early, where it did."""
    asked: int | None
    """Number of trials in all."""
    ended: int
    """Number of trials that have ended."""
    trials: dict[str, int]
    """Number of trials by state: completed, pruned, failed, running, or unfinished where the sweep does not run."""
    evaluations: int
    seconds_since_last: Value | None
    """Seconds since the last evaluation."""
    seconds_per_trial: Value | None
    """Mean time between the ends of the latest trials; null before the second ends."""
    seconds_left: Value | None
    """Estimate for a running sweep; null where there is none."""
    pruned_by: dict[str, int]
    """Number of pruned trials by the limit or rule that stopped them."""
    failed: dict[str, int]
    """Number of failed trials by reason."""
    hypervolume: Value | None
    front: list[PointPart]
    """So far."""

    @classmethod
    def of(cls, status: Status) -> StatusDocument:
        from rayul.report.status import failed, pruned_by

        left = status.total > status.ended
        phase: Any = ("running" if left else "finishing") if status.held else "stopped" if left else "finished"
        return cls(
            name=status.results.name,
            phase=phase,
            stopped=status.stopped,
            asked=status.total,
            ended=status.ended,
            trials=status.states,
            evaluations=status.results.trained,
            seconds_since_last=status.silent,
            seconds_per_trial=status.seconds_per_trial,
            seconds_left=status.seconds_left,
            pruned_by=dict(pruned_by(status.results)),
            failed=dict(failed(status.results)),
            hypervolume=status.summary.hypervolume,
            front=[PointPart.of(e, status.results) for e in status.summary.front],
        )

    @classmethod
    def starting(cls, name: str) -> StatusDocument:
        return cls(
            name=name,
            phase="starting",
            stopped="",
            asked=None,
            ended=0,
            trials={},
            evaluations=0,
            seconds_since_last=None,
            seconds_per_trial=None,
            seconds_left=None,
            pruned_by={},
            failed={},
            hypervolume=None,
            front=[],
        )


class ComparedPoint(Printed):
    """What is known of a point beyond the rows of the search, by its sweep's own limits."""

    kind: Literal["best", "audited", "certified"]
    target: Value | None
    """The share of control.tau that it stands for, where that is a list."""
    trial: str
    step: int
    mixing: Value
    forgotten: Value | None
    kept: Value | None
    """Share of the baseline's utility on the rows that the search read."""
    kept_unread: Value | None
    """The same on retain-report; null where that was not measured."""
    breaks: bool | None
    """Whether its limit is broken there; null where there is none."""
    confidence: Value | None
    """Of its certificate; null without one."""
    audit: Literal["stands", "unsure", "reopens", "breaks"] | None
    """The verdict of an audit; null without one."""

    @classmethod
    def of(cls, one: Checked) -> ComparedPoint:
        return cls(
            kind=one.kind,
            target=one.target,
            trial=one.e.trial_id,
            step=one.e.step,
            mixing=one.e.mixing,
            forgotten=_known(one.forgotten),
            kept=_known(one.select),
            kept_unread=_known(one.report),
            breaks=one.breaks,
            confidence=None if one.certified is None else one.certified.confidence,
            audit=one.audit,
        )


class ComparedSweep(Printed):
    label: str
    """Names the sweep in this document."""
    folder: str
    trials: int
    hypervolume: Value
    """On the common limits and baseline."""
    forgotten: Value | None
    """The largest fraction forgotten on its front; null without one."""
    points: int
    """Of its front."""
    non_dominated: int
    """Points of its front that no point of another sweep dominates."""
    checked: list[ComparedPoint]
    """What is known of its points beyond the rows of the search."""


class ComparedLevel(Printed):
    forgotten: Value
    """The smallest fraction forgotten."""
    kept: dict[str, Value | None]
    """Best utility of each sweep at that, as a share of the baseline; null where its front does not get that far."""
    winner: str | None
    """Label of the sweep with the best utility; null where another recipe equals it, or all are seeds of one."""
    clear: bool
    """Whether the 95% t interval of its lead over the best of another recipe, over groups of rows, is above 0, or no
    other has a value. The spread of seeds is no part of it."""


class ComparedTarget(Printed):
    share: Value
    """Share of the baseline's utility to keep."""
    forgotten: dict[str, Value | None]
    """By label, the largest fraction forgotten by a point that keeps it; null where no point does."""
    winner: str | None
    """Label of the sweep that forgets most; null where another recipe equals it, or all are seeds of one."""
    clear: bool
    """Whether the 95% t interval of its lead over the best of another recipe, over groups of rows, is above 0, or no
    other has a value. The spread of seeds is no part of it."""


class ComparedRecipes(Printed):
    """Two specs, each run with several seeds."""

    first: list[str]
    """Labels of the first one's sweeps."""
    second: list[str]
    difference: Value
    """Of their mean hypervolumes."""
    margin: Value
    """Half of its 95% t interval over seeds (Welch); "nan" where one has fewer than three."""
    p: Value | None
    """Of Welch's t test; null where one has fewer than three seeds."""
    corrected: Value | None
    """p after Holm's correction for all pairs."""
    clear: bool
    """Whether corrected is below 0.05: of one pair, whether the interval is above 0."""

    @classmethod
    def of(cls, lead: OverSeeds, labels: Sequence[str]) -> ComparedRecipes:
        return cls(
            first=[labels[i] for i in lead.first.sweeps],
            second=[labels[i] for i in lead.second.sweeps],
            difference=lead.difference,
            margin=lead.margin,
            p=_known(lead.p),
            corrected=_known(lead.corrected),
            clear=lead.clear,
        )


class CompareDocument(Printed):
    """Several sweeps on one scale."""

    format: Literal["rayul.compare/1"] = "rayul.compare/1"
    page: str
    """The page that was written."""
    figures: str | None
    """Folder of the figures, where some were asked for."""
    objectives: dict[str, Literal["minimize", "maximize"]]
    """Those that all sweeps have."""
    limits: list[LimitPart]
    """The tighter one where sweeps differ."""
    sweeps: list[ComparedSweep]
    covers: dict[str, dict[str, Value | None]]
    """By label and label: the share of the second's front that the first dominates or equals; null for an empty one."""
    levels: list[ComparedLevel]
    targets: list[ComparedTarget]
    """At each share of control.tau that all sweeps have; empty where that is no list everywhere."""
    settings: dict[str, dict[str, str]]
    """By key and label: the settings that differ."""
    same_but_for_seed: list[list[str]]
    """Labels of sweeps that differ in their seed alone."""
    over_seeds: ComparedRecipes | None
    """The recipe of the largest mean hypervolume against the second; null where no two have several seeds each."""
    pairs: list[ComparedRecipes]
    """Each pair of recipes that have several seeds, the one with the larger mean first; those of the best first."""
    notes: list[str]
    """What is not the same everywhere, and what was done about it; what is owed to chance or to shared rows and
    seeds."""

    @classmethod
    def of(cls, comparison: Comparison, page: Path, figures: Path | None = None) -> CompareDocument:
        labels = [entry.label for entry in comparison.entries]
        return cls(
            page=str(page),
            figures=None if figures is None else str(figures),
            objectives=dict(comparison.objectives),
            limits=[LimitPart.of(limit) for limit in comparison.common.limits],
            sweeps=[
                ComparedSweep(
                    label=entry.label,
                    folder=str(entry.results.folder),
                    trials=len(entry.results.trials),
                    hypervolume=entry.hypervolume,
                    forgotten=_known(entry.best),
                    points=len(entry.front),
                    non_dominated=len(entry.non_dominated),
                    checked=[ComparedPoint.of(one) for one in entry.checked],
                )
                for entry in comparison.entries
            ],
            covers={label: _by_label(labels, row) for label, row in zip(labels, comparison.coverage, strict=True)},
            levels=[
                ComparedLevel(
                    forgotten=level.forgotten,
                    kept=_by_label(labels, level.kept),
                    winner=None if level.winner is None else labels[level.winner],
                    clear=bool(level.clear),
                )
                for level in comparison.levels
            ],
            targets=[
                ComparedTarget(
                    share=one.share,
                    forgotten=_by_label(labels, one.forgotten),
                    winner=None if one.winner is None else labels[one.winner],
                    clear=bool(one.clear),
                )
                for one in comparison.targets
            ],
            settings={key: dict(zip(labels, row, strict=True)) for key, row in comparison.settings},
            same_but_for_seed=[[labels[i] for i in group] for group in comparison.seeds],
            over_seeds=None if comparison.over_seeds is None else ComparedRecipes.of(comparison.over_seeds, labels),
            pairs=[ComparedRecipes.of(one, labels) for one in comparison.pairs],
            notes=[*comparison.notes],
        )


def _by_label(labels: Iterable[str], numbers: Iterable[float]) -> dict[str, float | None]:
    return {label: _known(float(number)) for label, number in zip(labels, numbers, strict=True)}


def _known(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


DOCUMENTS: dict[str, type[Printed]] = {
    "validate": ValidateDocument,
    "plan": PlanDocument,
    "status": StatusDocument,
    "report": ReportDocument,
    "compare": CompareDocument,
    "certify": CertifyDocument,
    "error": ErrorDocument,
}
"""By command; and what every command prints in place of it where it fails."""


def document_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a document. It takes unknown keys: a later version may add some."""

    def opened(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: opened(v) for k, v in value.items() if not (k == "additionalProperties" and v is False)}
        return [opened(child) for child in value] if isinstance(value, list) else value

    made: dict[str, Any] = opened(DOCUMENTS[name].model_json_schema(mode="serialization"))
    return made
