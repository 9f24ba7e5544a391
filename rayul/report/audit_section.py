"""The audit's tables written, and its section of report.html."""

from __future__ import annotations

from dataclasses import dataclass

from rayul.audit.intervals import Interval
from rayul.audit.judge import Judged, Return, judge, powerless, returns
from rayul.audit.read import Audit, read_audit
from rayul.audit.robustness import FORGET_METRICS, Robustness, robustness
from rayul.audit.tables import write_audit_tables
from rayul.audit.verdict import remarks, sentence, standing
from rayul.records import BASELINE, ORACLE
from rayul.records.audited import REFUSAL
from rayul.records.folder import SweepRecords
from rayul.report.gone import heading_of

WORDS = {
    "stands": "stands",
    "unsure": "not sure",
    "reopens": "reopens",
    "breaks": "breaks a limit",
}


@dataclass(frozen=True)
class Cell:
    """The forget metric before and after an attack's worst variant; mark: "broken" where it is bad news."""

    text: str
    title: str
    mark: str = ""


@dataclass(frozen=True)
class AuditSection:
    """What the template shows. verdicts: (standing, its word, sentence); honest: per finalist and limit the point as
    searched, with fresh seeds, on unread rows; attacks: (name, weak, a cell for each of models); robustness: (attack,
    Pearson and Spearman of each of metrics, number of models)."""

    metric: str
    seeds: int
    confidence: float
    verdicts: list[tuple[str, str, str]]
    remarks: list[str]
    honest: list[tuple[str, str, str, str, str, str, str]]
    models: list[str]
    attacks: list[tuple[str, bool, list[Cell]]]
    metrics: list[str]
    robustness: list[tuple[str, list[tuple[str, str]], int]]


def read_section(results: SweepRecords) -> AuditSection | None:
    """The section of a results folder, without writing anything; None where there is no audit."""
    audit = read_audit(results)
    return None if audit is None else section(audit, judge(audit))


def write_audit(results: SweepRecords) -> AuditSection | None:
    """Write the audit's tables of a results folder and return its section; None where there is no audit."""
    audit = read_audit(results)
    if audit is None:
        return None
    judged = judge(audit)
    write_audit_tables(audit, judged)
    return section(audit, judged)


def section(audit: Audit, judged: list[Judged]) -> AuditSection:
    controls = [subject for subject in (BASELINE, ORACLE, REFUSAL) if returns(audit, subject)]
    columns = {subject: {r.attack: r for r in returns(audit, subject)} for subject in controls}
    columns |= {one.finalist.name: {r.attack: r for r in one.returns} for one in judged}
    beyond = {one.finalist.name: {r.attack for r in one.beyond} for one in judged}
    weak = powerless(audit)
    return AuditSection(
        metric=audit.metric,
        seeds=max((len(one.finalist.runs) for one in judged), default=0),
        confidence=audit.confidence,
        verdicts=[(standing(one), WORDS[standing(one)], sentence(audit, one)) for one in judged],
        remarks=remarks(audit, judged),
        honest=[row for one in judged for row in _honest(one, audit.metric)],
        models=[*controls, *(one.finalist.name for one in judged)],
        attacks=[
            (
                attack,
                attack in weak,
                [_cell(column.get(attack), attack in beyond.get(name, ())) for name, column in columns.items()],
            )
            for attack in audit.attacks
            if any(attack in column for column in columns.values())
        ],
        metrics=[key.partition(".")[2] for key in FORGET_METRICS],
        robustness=_robustness(robustness(audit)),
    )


def _honest(one: Judged, metric: str) -> list[tuple[str, str, str, str, str, str, str]]:
    """Per row: finalist, what, as searched, fresh seeds, unread rows, limit, mark."""
    name = one.finalist.name
    rows = [(name, heading_of(metric), f"{one.searched:.1%}", _percent(one.forgotten), "", "", "")]
    for kept in one.kept:
        relative, at = kept.limit.relative, kept.limit.at
        show = _percent if relative else _plain
        searched = f"{kept.searched:.1%}" if relative else f"{kept.searched:.3g}"
        limit = f"{at:.1%}" if relative else f"{at:.3g}"
        sign = "≥" if kept.limit.at_least else "≤"
        mark = "" if kept.holds == "yes" else "broken"
        what = f"{kept.limit.metric} kept" if relative else kept.limit.metric
        rows.append((name, what, searched, show(kept.fresh), show(kept.unread), f"{sign} {limit}", mark))
    return rows


def _cell(found: Return | None, beyond: bool) -> Cell:
    if found is None:
        return Cell("–", "not attacked")
    text = f"{found.before:.2f} → {found.after.value:.2f}"
    title = f"worst of {found.variants}: {found.variant}; {_percent(found.returned)} of what was forgotten returned"
    return Cell(text, title, "broken" if beyond else "")


def _robustness(rows: list[Robustness]) -> list[tuple[str, list[tuple[str, str]], int]]:
    found: dict[str, dict[str, Robustness]] = {}
    for row in rows:
        found.setdefault(row.attack, {})[row.metric] = row
    return [
        (attack, [(_two(by[m].pearson), _two(by[m].spearman)) for m in FORGET_METRICS], next(iter(by.values())).models)
        for attack, by in found.items()
    ]


def _two(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def _percent(interval: Interval) -> str:
    spread = f" ({interval.low:.1%} to {interval.high:.1%})" if interval.low == interval.low else ""
    return f"{interval.value:.1%}{spread}"


def _plain(interval: Interval) -> str:
    spread = f" ({interval.low:.3g} to {interval.high:.3g})" if interval.low == interval.low else ""
    return f"{interval.value:.3g}{spread}"
