"""The comparison as one offline page, in the report's clothes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from rayul.files import write_text
from rayul.pareto.attainment import attainment, outline
from rayul.records import Evaluation
from rayul.report.axes import Axis, escape, limit_shapes, short
from rayul.report.compare import Comparison
from rayul.report.compare_text import checked_table, headline, merged_front, pairs_table, recalled_table, sentences
from rayul.report.leads import FEWEST
from rayul.report.page import embed, plotly_js
from rayul.words import duration, measured, percent

ASSETS = Path(__file__).parent / "assets"
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "pentagon", "star-square")
"""With the colour, what tells a recipe from the others also in print and to colour-blind readers."""
COLOURS = len(SYMBOLS)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""What tells the seeds of a recipe from each other."""

Figure = dict[str, Any]


def write_comparison(c: Comparison, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"measured": measured, "percent": percent, "duration": duration}
    css, script = (
        "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names)
        for names in (("report.css", "compare.css"), ("report.js", "theme.js", "compare.js"))
    )
    html = environment.get_template("compare.html.j2").render(
        c=c,
        headline=headline(c),
        sentences=sentences(c),
        states=[e.results.states for e in c.entries],
        seconds=[sum(last.train_seconds for last in e.results.endings.values()) for e in c.entries],
        points=merged_front(c),
        recalled=recalled_table(c),
        checked=checked_table(c),
        pairs=pairs_table(c),
        colour=[r % COLOURS for r, _ in c.places],
        few=[one.label for one in c.recipes if 1 < len(one.sweeps) < FEWEST],
        gone=c.axes[0].short if c.axes else "Forgotten",
        isnan=math.isnan,
        css=Markup(css),
        script=Markup(script),
        plotly=Markup(plotly_js()),
        data=embed({"figures": figures(c), "rows": {}, "trials": [], "params": [], "axes": []}),
    )
    write_text(path, html)


def figures(c: Comparison) -> dict[str, Figure]:
    """The page's charts as plain Plotly dicts; a trace's `meta` is the look that compare.js gives it."""
    made = {"volumes": volumes_figure(c)}
    if c.axes is not None:
        made["fronts"] = fronts_figure(c, c.axes)
        if c.seeds:
            made["attainment"] = attainment_figure(c, c.axes)
    return made


def fronts_figure(c: Comparison, chosen: tuple[Axis, Axis]) -> Figure:
    """The front of every sweep on the common scale, with error bars, limits, baseline and oracle."""
    x, y = chosen
    data = []
    for i, e in enumerate(c.entries):
        points = sorted(e.front, key=lambda p: float(x.of([p])[0]))
        data.append(
            {
                **_trace(_series(c, i), e.label, short(x.of(points)), short(y.of(points))),
                "mode": "lines+markers",
                "line": {"shape": "vh", "dash": _dash(c, i)} if len(c.objectives) == 2 else {"width": 0},
                "marker": {"symbol": _symbol(c, i)},
                "error_x": {"type": "data", "array": short(x.error(points)), "thickness": 1, "width": 0},
                "error_y": {"type": "data", "array": short(y.error(points)), "thickness": 1, "width": 0},
                "text": [_hover(c, e.label, p) for p in points],
                "hoverinfo": "text",
            }
        )
    for role, row in (("baseline", c.common.baseline), ("oracle", c.common.oracle)):
        if row is not None:
            name = f"{role.capitalize()} of {c.entries[0].label}"
            data.append(
                {
                    **_trace(role, name, short(x.of([row])), short(y.of([row]))),
                    "mode": "markers",
                    "text": [_hover(c, name, row)],
                    "hoverinfo": "text",
                }
            )
    return {"data": data, "layout": _layout(c, chosen)}


def attainment_figure(c: Comparison, chosen: tuple[Axis, Axis]) -> Figure:
    """What at least one seed, half of them and all of them attain, for every group of seeds: a band and its median; of
    fewer than three seeds what each attains."""
    x, y = chosen
    layout = _layout(c, chosen)
    left, bottom = layout["xaxis"]["range"][0], layout["yaxis"]["range"][0]
    data = []
    for group in c.seeds:
        points = [np.stack([x.of(c.entries[i].front), y.of(c.entries[i].front)], axis=1) for i in group]
        colour = c.places[group[0]][0] % COLOURS
        if len(group) < FEWEST:
            for i, corners in zip(group, points, strict=True):
                line = outline(attainment([corners])["best"], left, bottom)
                data.append(
                    {
                        **_trace(_series(c, i), c.entries[i].label, short(line[:, 0]), short(line[:, 1])),
                        "mode": "lines",
                        "line": {"dash": _dash(c, i)},
                        "hoverinfo": "name",
                    }
                )
            continue
        lines = {name: outline(surface, left, bottom) for name, surface in attainment(points).items()}
        label = next(one.label for one in c.recipes if one.sweeps == tuple(group))
        for name in ("worst", "best", "median"):
            line = lines[name]
            data.append(
                {
                    **_trace(f"{name}-{colour}", f"{name} of {label}", short(line[:, 0]), short(line[:, 1])),
                    "mode": "lines",
                    # The band lies between the two: without a worst line it would fall to the axis.
                    "fill": "tonexty" if name == "best" and len(lines["worst"]) else "none",
                    "hoverinfo": "name",
                }
            )
    return {"data": data, "layout": layout}


def volumes_figure(c: Comparison) -> Figure:
    """Hypervolume of every sweep over its evaluations, as steps."""
    data = []
    for i, e in enumerate(c.entries):
        counts, volumes = zip(*e.history, strict=True)
        data.append(
            {
                **_trace(_series(c, i), e.label, list(counts), short(volumes)),
                "mode": "lines",
                "line": {"shape": "hv", "dash": _dash(c, i)},
                "hovertemplate": "%{y:.4f} after %{x:,} evaluations",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "Evaluations so far"}, "zeroline": False, "tickformat": ",d"},
        "yaxis": {"title": {"text": "Hypervolume"}, "rangemode": "tozero", "zeroline": False},
        "hovermode": "x",
    }
    return {"data": data, "layout": layout}


def _series(c: Comparison, i: int) -> str:
    """The look of a sweep: its recipe's, the same in every chart and table."""
    return f"series-{c.places[i][0] % COLOURS}"


def _symbol(c: Comparison, i: int) -> str:
    recipe = c.places[i][0]
    return SYMBOLS[(recipe + recipe // COLOURS) % COLOURS]


def _dash(c: Comparison, i: int) -> str:
    recipe, seed = c.places[i]
    return DASHES[(seed + recipe // COLOURS) % len(DASHES)]


def _trace(role: str, name: str, x: list[Any], y: list[Any]) -> dict[str, Any]:
    return {"type": "scatter", "meta": role, "name": escape(name), "x": x, "y": y}


def _layout(c: Comparison, chosen: tuple[Axis, Axis]) -> dict[str, Any]:
    """Axes that hold every front, baseline and oracle, and the common limits."""
    x, y = chosen
    marks = [row for row in (c.common.baseline, c.common.oracle) if row is not None]
    shown = [*marks, *(p for e in c.entries for p in e.front)]
    shapes: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"hovermode": "closest"}
    for letter, axis in (("x", x), ("y", y)):
        of_axis = [limit for limit in c.common.limits if limit.metric == axis.metric]
        limits = [limit for limit in of_axis if math.isfinite(axis.place(limit))]
        at, error = axis.of(shown), np.nan_to_num(axis.error(shown), posinf=0.0)
        places = np.concatenate([at - error, at + error, [axis.place(limit) for limit in limits]])
        places = places[np.isfinite(places)]
        low, high = (float(places.min()), float(places.max())) if places.size else (0.0, 1.0)
        pad = max(0.06 * (high - low), 0.02)
        layout[f"{letter}axis"] = {
            "title": {"text": escape(axis.title)},
            "tickformat": ".1~%",
            "zeroline": False,
            "range": [low - pad, high + pad],
        }
        shapes += [shape for limit in limits for shape in limit_shapes(limit, axis, letter)]
    return layout | {"shapes": shapes}


def _hover(c: Comparison, label: str, e: Evaluation) -> str:
    where = "" if e.is_reference else f"<br>trial {escape(e.trial_id)}, step {e.step}"
    metrics = "".join(f"<br>{escape(metric)}: <b>{measured(e, metric)}</b>" for metric in c.objectives)
    settings = "".join(f"<br>{escape(k)}: <b>{escape(_short(v))}</b>" for k, v in e.params.items())
    return f"<b>{escape(label)}</b>{where}{metrics}{settings}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:60]
