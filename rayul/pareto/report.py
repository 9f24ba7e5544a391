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
from rayul.pareto.charts import axes, payload
from rayul.pareto.health import plural
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


def number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def percent(fraction: float | None) -> str:
    return "–" if fraction is None or not math.isfinite(fraction) else f"{fraction:.1%}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:,.1f} h"


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


def measured(evaluation: Evaluation, metric: str) -> str:
    """The value with its standard error, both to the error's second digit: "0.412 ± 0.031"."""
    value, error = evaluation.metrics.get(metric, math.nan), evaluation.stderr.get(metric, math.nan)
    if not (math.isfinite(value) and 0 < error < math.inf):
        return number(value)
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def headline(summary: Summary) -> str:
    """The answer in one line."""
    if summary.best is None:
        if not any(summary.states.values()):
            return "No trial has been evaluated yet."
        if summary.least_violating:
            return "Nothing was found within the limits."
        return "Nothing was forgotten yet."
    if not math.isfinite(summary.best_forgotten):
        return f"{plural(len(summary.front), 'setting')} on the front."
    limits = "within the limits" if summary.limits else "with no limit on utility"
    return f"{summary.best_forgotten:.0%} forgotten {limits}."


def answer(results: Results, summary: Summary) -> list[str]:
    """The answer in sentences: what is best, at which cost, against baseline and oracle, and how sure that is."""
    best = summary.best
    if best is None:
        return _no_answer(results, summary)
    sentences = [
        f"Trial {best.trial_id} at step {best.step}"
        + (f", mixed at {best.mixing:g}," if best.mixing != 1 else "")
        + " brings "
        + " and ".join(
            f"{metric} from {number(results.baseline.metrics.get(metric))} to {measured(best, metric)}"
            for metric in results.objectives
        )
        + f", after {duration(best.train_seconds)} of training and evaluation."
    ]
    if not results.limits:
        sentences.append("No limit was set: this is the point of the front with the most of both, not the last word.")
    for limit in results.limits:
        value, error = best.metrics.get(limit.metric, math.nan), best.stderr.get(limit.metric, math.nan)
        margin = abs(value - limit.value)
        room = f"{margin:.2g} away" + (f", {margin / error:.1f} standard errors" if error > 0 else "")
        sentences.append(f"The limit {limit} is {room}.")
    forget = summary.forget_metric
    if results.oracle is not None and forget in results.oracle.metrics:
        base, ideal = results.baseline.metrics.get(forget, math.nan), results.oracle.metrics[forget]
        way = (base - best.metrics[forget]) / (base - ideal) if base != ideal else math.nan
        sentences.append(
            f"A model that never saw the forget set (the oracle) has {forget} {measured(results.oracle, forget)}"
            + (f": {way:.0%} of the way from the baseline." if math.isfinite(way) else ".")
        )
    rows = ", ".join(f"{count:,} {name}" for name, count in best.rows.items() if f"{name}." in " ".join(best.metrics))
    sentences.append(
        f"Measured on {rows} rows; ± is one standard error over the rows. It is one run with one seed: "
        "repeat it over seeds before relying on it."
        if rows
        else "It is one run with one seed: repeat it over seeds before relying on it."
    )
    return sentences


def _no_answer(results: Results, summary: Summary) -> list[str]:
    trained = sum(e.step > 0 for rows in results.trials.values() for e in rows)
    counted = f"{plural(trained, 'evaluation')} of {plural(len(results.trials), 'trial')}"
    if not trained:
        return ["The journal holds the reference models only."]
    if not summary.least_violating:
        return [f"{counted} kept the limits, and none of them forgot 5% or more." if results.limits else counted + "."]
    nearest = summary.least_violating[0]
    if nearest.total_violation == 0:
        return [f"Of {counted}, none that kept the limits forgot 5% or more: search stronger settings."]
    broken = ", ".join(
        f"{metric} {measured(nearest, metric)}" for metric, violation in nearest.violation.items() if not violation <= 0
    )
    return [
        f"None of {counted} kept every limit while forgetting 5% or more.",
        f"The nearest is trial {nearest.trial_id} at step {nearest.step}: it breaks the limits by "
        f"{nearest.total_violation:.3g} in total ({broken}).",
        "The table ranks the trials by total violation, the smallest first.",
    ]


def tiles(results: Results, summary: Summary) -> list[tuple[str, str, str]]:
    """(label, value, note) of the few numbers worth a large font."""
    cost = sum(e.train_seconds for e in results.endings.values())
    states = ", ".join(f"{count:,} {state}" for state, count in summary.states.items() if count)
    shown = [
        ("Front", f"{len(summary.front):,}", "non-dominated evaluations"),
        ("Hypervolume", f"{summary.hypervolume:.3f}", "of 1, higher is better"),
        ("Trials", f"{len(results.trials):,}", states or "none yet"),
        ("Device time", duration(cost), f"{sum(map(len, results.trials.values())):,} evaluations"),
    ]
    chosen = axes(results)
    if summary.best is not None and chosen is not None:
        kept = chosen[1]
        fraction = float(kept.of([summary.best])[0])
        shown.insert(0, (f"{kept.short}: {kept.metric}", percent(fraction), "of the baseline, at the best point"))
    return shown


def table(results: Results, listed: Sequence[Evaluation]) -> dict[str, Any]:
    """The front (or the least violating): head as (text, full name), rows as cells of (text, sort key), and YAML."""
    shown = list(listed[:MAX_TABLE_ROWS])
    reported = {e.key: results.adapters[e.key] for e in shown if e.key in results.adapters}
    report_keys = list(dict.fromkeys(k for a in reported.values() for k in a.report_metrics))
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
            *((number(report.get(k)), report.get(k, "")) for k in report_keys),
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
    """A nested mapping as (dotted key, text) pairs."""
    if isinstance(tree, Mapping):
        return [pair for k, v in tree.items() for pair in flat(v, f"{prefix}.{k}" if prefix else str(k))]
    if isinstance(tree, list | tuple):
        return [(prefix, " ".join(map(str, tree)))]
    return [(prefix, str(tree))]
