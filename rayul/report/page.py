"""report.html: one offline file that a colleague can open, written from the records alone."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from rayul.errors import RayulError
from rayul.files import write_text
from rayul.records import FAILED, PRUNED, SPEC, adapter_name
from rayul.records.folder import SweepRecords
from rayul.report.answer import answer, by_rule, caution, headline, tiles
from rayul.report.at_a_glance import at_a_glance
from rayul.report.attacked import section
from rayul.report.audit_section import AuditSection
from rayul.report.axes import axes
from rayul.report.certified import Certified, bound, certified, value
from rayul.report.charts import payload
from rayul.report.fell import fell_lines
from rayul.report.gone import heading_of
from rayul.report.heading import private_rows, subject
from rayul.report.importance import MIN_TRIALS, importances
from rayul.report.listing import every_trial, listing, settings_yaml
from rayul.report.origin import data_sets, origin
from rayul.report.recalled import MOST_GROUPS, TITLES, cells, recalled_lines
from rayul.report.several_seeds import several_seeds
from rayul.report.side_effects import answer_point, side_effects
from rayul.report.summary import Summary
from rayul.spec import load_spec
from rayul.words import measured, percent

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("report.js", "settings.js", "table.js", "theme.js", "start.js")
MAX_TABLE_ROWS = 200
"""Rows of the front in the page; the Parquet file has them all."""


def write_report(
    results: SweepRecords,
    summary: Summary,
    audit: AuditSection | None = None,
    refresh: int | None = None,
) -> None:
    """Render and write report.html into the results folder; the arguments are those of `report_page`."""
    write_text(results.folder / "report.html", report_page(results, summary, audit, refresh))


def report_page(
    results: SweepRecords,
    summary: Summary,
    audit: AuditSection | None = None,
    refresh: int | None = None,
) -> str:
    """The page as HTML. refresh: seconds after which a browser loads the page again; None for never."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "yaml": settings_yaml,
        "measured": measured,
        "percent": percent,
        "code": code,
        "breaks": breaks,
    }
    listed = summary.front or summary.least_violating
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    point = answer_point(results, summary.best)
    stopped = {trial for trial, ending in results.endings.items() if ending.state == PRUNED}
    data = payload(results, summary.front, point, summary.history)
    trials, left_out = every_trial(results)
    spec = load_spec(results.folder / SPEC, check_files=False)
    data["listing"] = {"head": trials.head, "rows": trials.rows}
    return environment.get_template("report.html.j2").render(
        refresh=refresh,
        summary=summary,
        results=results,
        headline=headline(results, summary),
        subject=subject(results, spec),
        private=private_rows(spec, summary.recalled),
        answer=answer(results, summary),
        glance=at_a_glance(results, summary),
        point=None if point is None else results.with_report(point),
        fell=summary.fell,
        fell_lines=fell_lines,
        gone_heading=heading_of(summary.forget_metric),
        caution=caution(results, summary),
        tiles=tiles(results, summary),
        table=listing(results, listed[:MAX_TABLE_ROWS]),
        hidden=max(0, len(listed) - MAX_TABLE_ROWS),
        left_out=left_out,
        importances=importances(results),
        min_trials=MIN_TRIALS,
        recipes=several_seeds(results),
        pruned=grouped(results, PRUNED),
        failed=grouped(results, FAILED),
        of_pruned=sum(e.trial_id in stopped for e in summary.front),
        certified=[certified_row(results, one) for one in certified(results)],
        recalled=summary.recalled,
        recalled_lines=recalled_lines,
        cells=cells,
        titles=TITLES,
        most_groups=MOST_GROUPS,
        folder=results.folder,
        attacked=section(results),
        audit=audit,
        origin=origin(results),
        data_sets=data_sets(results),
        charts=axes(results) is not None,
        moved=axes(results) is not None and any(e.metrics for rows in results.trials.values() for e in rows),
        compares_settings=bool(data["params"]) and sum(trial["outcome"] is not None for trial in data["trials"]) > 1,
        css=Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        plotly=Markup(plotly_js()),
        data=embed(data),
    )


def plotly_js() -> str:
    """Plotly's own bundle from the installed package; finding the file is quicker than importing the package."""
    found = find_spec("plotly")
    if found is None or found.origin is None:
        raise RayulError("plotly is not installed, so the report has no charts", "pip install plotly")
    return (Path(found.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def code(text: str) -> Markup:
    """A sentence with its `commands` marked as such."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def breaks(name: str) -> Markup:
    """A long name that a line may break after each of its parts."""
    return Markup(str(escape(name)).replace("_", "_<wbr>").replace(".", ".<wbr>"))


def certified_row(results: SweepRecords, one: Certified) -> tuple[str, str, str, str, str]:
    """Name, what is gone, what its certify groups keep on average, the bound of that, and what no limit protects."""
    kept = ", ".join(f"{value(m, m.kept)} of {m.metric}" for m in one.at.margins)
    others = ", ".join(f"{percent(effect.kept)} of {effect.metric}" for effect in side_effects(results, one.e))
    return adapter_name(one.e), one.gone, kept, ", ".join(map(bound, one.at.margins)), others


def embed(data: Any) -> Markup:
    """JSON that is safe inside <script>: no `<`, `>` or `&` survives, so no name can end the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def grouped(results: SweepRecords, state: str) -> list[dict[str, Any]]:
    """Trials that ended in `state`, by rule."""
    return [
        {
            "count": len(ended),
            "rule": ended[0].rule,
            "example": ended[0].reason or "no reason was recorded",
            "first": min(results.steps(e.trial_id) for e in ended),
            "last": max(results.steps(e.trial_id) for e in ended),
            "trials": sorted(e.trial_id for e in ended)[:50],
            "more": max(0, len(ended) - 50),
        }
        for ended in by_rule(e for e in results.endings.values() if e.state == state)
    ]
