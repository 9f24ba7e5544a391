"""report.html: one offline file that a colleague can open, written from the records alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml
from markupsafe import Markup

from rayul.errors import RayulError
from rayul.pareto.answer import answer, headline, measured, number, percent, tiles
from rayul.pareto.axes import axes
from rayul.pareto.charts import payload
from rayul.pareto.results import Results
from rayul.pareto.tables import write_text
from rayul.records import FAILED, PRUNED, Evaluation

if TYPE_CHECKING:
    from rayul.pareto.summary import Summary

HERE = Path(__file__).parent
MAX_TABLE_ROWS = 200
"""Rows of a table in the page; the Parquet file has them all."""


def write_report(results: Results, summary: Summary) -> None:
    """Render and write report.html into the results folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"yaml": settings_yaml, "measured": measured}
    listed = summary.front or summary.least_violating
    html = environment.get_template("report.html.j2").render(
        summary=summary,
        results=results,
        headline=headline(summary),
        answer=answer(results, summary),
        tiles=tiles(results, summary),
        table=table(results, listed),
        hidden=max(0, len(listed) - MAX_TABLE_ROWS),
        pruned=grouped(results, PRUNED),
        failed=grouped(results, FAILED),
        provenance=list(flat(results.provenance)),
        charts=axes(results) is not None,
        css=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(plotly_js()),
        data=embed(payload(results, summary.front, summary.best, summary.history)),
    )
    write_text(results.folder / "report.html", html)


def plotly_js() -> str:
    """Plotly's own bundle from the installed package; finding the file is quicker than importing the package."""
    found = find_spec("plotly")
    if found is None or found.origin is None:
        raise RayulError("plotly is not installed, so the report has no charts", "pip install plotly")
    return (Path(found.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def embed(data: Any) -> Markup:
    """JSON that is safe inside <script>: no `<`, `>` or `&` survives, so no name can end the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def settings_yaml(params: Mapping[str, Any], digits: int | None = None) -> str:
    """Hyper-parameters as the spec would write them: {"training.lr": 1e-3} -> training: {lr: 0.001}.

    Exact, or with numbers rounded to so many significant digits, for reading.
    """
    nested: dict[str, Any] = {}
    for key, value in params.items():
        *path, leaf = key.split(".")
        place = nested
        for part in path:
            child = place.setdefault(part, {})
            place = child if isinstance(child, dict) else place
        place[leaf] = float(f"{value:.{digits}g}") if digits and isinstance(value, float) else value
    text: str = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)
    return text


def table(results: Results, listed: Sequence[Evaluation]) -> dict[str, Any]:
    """The front (or the least violating): head as (text, full name), rows as cells of (text, sort key), and YAML."""
    shown = list(listed[:MAX_TABLE_ROWS])
    reported = {e.key: results.adapters[e.key] for e in shown if e.key in results.adapters}
    # Of the rows that nothing was tuned on, the objectives' own metrics; pareto.parquet has all of them.
    twins = [f"retain_report.{metric.rpartition('.')[2]}" for metric in results.objectives]
    report_keys = [k for k in dict.fromkeys(twins) if any(k in a.report_metrics for a in reported.values())]
    mixed = any(e.mixing != 1 for e in shown)
    params = list(dict.fromkeys([*results.space, *(name for e in shown for name in e.params)]))
    params = [name for name in params if any(name in e.params for e in shown)]
    broken = any(not e.feasible for e in shown)
    limited = [limit.metric for limit in results.limits if limit.metric not in results.objectives]
    chosen = axes(results) or ()
    short = [name.removesuffix(".name").rpartition(".")[2] for name in params]
    plain = [
        *(["Violation"] if broken else []),
        "Trial",
        "Step",
        *(["Mixing"] if mixed else []),
    ]
    head = [
        *((name, name) for name in plain),
        *((axis.short, axis.title) for axis in chosen),
        *((name, name) for name in (*results.objectives, *limited, *report_keys, "Seconds")),
        *((s if short.count(s) == 1 else name, name) for s, name in zip(short, params, strict=True)),
    ]
    fractions = [axis.of(shown) for axis in chosen]
    rows = []
    for i, e in enumerate(shown):
        report = reported[e.key].report_metrics if e.key in reported else {}
        cells: list[tuple[str, Any]] = [
            *([(number(e.total_violation), e.total_violation)] if broken else []),
            (e.trial_id, e.trial_id),
            (str(e.step), e.step),
            *([(f"{e.mixing:g}", e.mixing)] if mixed else []),
            *((percent(float(column[i])), float(column[i])) for column in fractions),
            *((measured(e, m), e.metrics.get(m, math.nan)) for m in (*results.objectives, *limited)),
            *((number(report.get(k)), report.get(k, math.nan)) for k in report_keys),
            (f"{e.train_seconds:.3g}", e.train_seconds),
            *((_setting(e.params.get(name)), e.params.get(name, "")) for name in params),
        ]
        rows.append({"cells": cells, "trial": e.trial_id, "yaml": settings_yaml(e.params)})
    return {"head": head, "rows": rows}


def _setting(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def grouped(results: Results, state: str) -> list[dict[str, Any]]:
    """Trials that ended in `state` by reason, most frequent first; reasons that differ in numbers only are one."""
    groups: dict[str, list[Evaluation]] = {}
    for e in results.endings.values():
        if e.state == state:
            groups.setdefault(re.sub(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", "#", e.reason), []).append(e)
    return [
        {
            "count": len(ended),
            "example": ended[0].reason or "no reason was recorded",
            "first": min(e.step for e in ended),
            "last": max(e.step for e in ended),
            "trials": [e.trial_id for e in ended[:50]],
            "more": max(0, len(ended) - 50),
        }
        for ended in sorted(groups.values(), key=len, reverse=True)
    ]


def flat(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted key, text) pairs, without what is not known."""
    if tree is None:
        return []
    if isinstance(tree, Mapping):
        return [pair for k, v in tree.items() for pair in flat(v, f"{prefix}.{k}" if prefix else str(k))]
    if isinstance(tree, list | tuple):
        return [(prefix, " ".join(map(str, tree)))]
    return [(prefix, str(tree))]
