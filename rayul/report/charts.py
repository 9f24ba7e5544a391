"""Figures of the report as plain Plotly dicts (importing plotly.graph_objects costs more than the report itself).

A figure holds data and geometry. Its look (colours of both themes, hover texts) is report.js's: a trace names its role
in `meta` and, in `customdata`, the row of `rows` that each of its points shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rayul.pareto.best import best_of_trials
from rayul.pareto.held_out import held_out
from rayul.records import Evaluation, Key
from rayul.records.folder import SweepRecords
from rayul.report.axes import Axis, axes, escape, limit_shapes, short
from rayul.report.importance import outcomes
from rayul.report.panels import SVG_POINTS, calibration_figure, trajectories_figure
from rayul.spec import Limit

Figure = dict[str, Any]


def payload(
    results: SweepRecords, front: Sequence[Evaluation], best: Evaluation | None, history: Sequence[tuple[int, float]]
) -> dict[str, Any]:
    """Everything report.js needs, as strict JSON data: figures, and the rows and trials behind their points."""
    chosen = axes(results)
    figures: dict[str, Figure] = {"history": history_figure(history)}
    if chosen is None:
        return {"figures": figures, "rows": {}, "trials": [], "params": [], "axes": []}
    index = {e.key: i for i, e in enumerate(results.evaluations)}
    trial_index = {trial: i for i, trial in enumerate(results.trials)}
    x, y = chosen
    figures["front"] = front_figure(results, front, best, chosen, index)
    figures["trajectories"] = trajectories_figure(results, best, chosen, index)
    calibration = calibration_figure(results, front, chosen, index)
    if calibration is not None:
        figures["calibration"] = calibration
    return {
        "figures": figures,
        "axes": [{"metric": a.metric, "short": a.short} for a in chosen],
        "params": _params(results),
        "trials": _trials(results, chosen),
        "best": None if best is None else trial_index[best.trial_id],
        "rows": {
            "trial": [trial_index.get(e.trial_id, -1) for e in results.evaluations],
            "id": [e.trial_id for e in results.evaluations if e.is_reference],
            "step": [e.step for e in results.evaluations],
            "mixing": short(e.mixing for e in results.evaluations),
            "x": short(e.metrics.get(x.metric, math.nan) for e in results.evaluations),
            "y": short(e.metrics.get(y.metric, math.nan) for e in results.evaluations),
            "ex": short(e.stderr.get(x.metric, math.nan) for e in results.evaluations),
            "ey": short(e.stderr.get(y.metric, math.nan) for e in results.evaluations),
        },
    }


def _params(results: SweepRecords) -> list[dict[str, Any]]:
    names = list(dict.fromkeys([*results.space, *(n for e in results.endings.values() for n in e.params)]))
    return [{"name": name, "log": bool(getattr(results.space.get(name), "log", False))} for name in names]


def _trials(results: SweepRecords, chosen: tuple[Axis, Axis]) -> list[dict[str, Any]]:
    names = [p["name"] for p in _params(results)]
    best = best_of_trials(results)
    shown = [e for e, _ in best.values()]
    steps = (float(e.step) for e in shown)
    reached = dict(zip(best, zip(chosen[0].of(shown), chosen[1].of(shown), steps, strict=True), strict=True))
    forgot, kept = (outcomes(results, axis) for axis in chosen)
    return [
        {
            "id": trial,
            "state": e.state,
            "params": [_plain(e.params.get(name)) for name in names],
            "best": short(reached[trial]) if trial in reached else None,
            "outcome": short((forgot.get(trial, math.nan), kept.get(trial, math.nan))) if trial in forgot else None,
        }
        for trial, e in results.endings.items()
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def front_figure(
    results: SweepRecords,
    front: Sequence[Evaluation],
    best: Evaluation | None,
    chosen: tuple[Axis, Axis],
    index: Mapping[Key, int],
) -> Figure:
    """Forgetting against utility: all trained evaluations, the front with error bars, baseline, oracle, limits."""
    x, y = chosen
    trained = [e for e in results.evaluations if not e.is_reference and e.step > 0]
    kind = "scatter" if len(trained) <= SVG_POINTS else "scattergl"

    def points(role: str, name: str, shown: Sequence[Evaluation], **more: Any) -> dict[str, Any]:
        return {
            "type": kind,  # one kind for all: WebGL traces would cover those in SVG
            "meta": role,
            "name": name,
            "mode": "markers",
            "x": short(x.of(shown)),
            "y": short(y.of(shown)),
            "customdata": [index[e.key] for e in shown],
            **more,
        }

    def bars(axis: Axis, shown: Sequence[Evaluation]) -> dict[str, Any]:
        return {"type": "data", "array": short(axis.error(shown)), "thickness": 1, "width": 0}

    ordered = sorted(front, key=lambda e: float(x.of([e])[0]))
    unseen = [(e, h.report) for e in ordered for h in held_out(results, e) if h.metric == y.metric]
    data = [
        points("broken", "Breaks a limit", [e for e in trained if not e.feasible]),
        points("kept", "Within limits", [e for e in trained if e.feasible]),
        points("focus", "Highlighted trial", [], mode="lines+markers", showlegend=False),
        points(
            "front",
            "Front",
            ordered,
            mode="lines+markers",
            # Everything left of and below this staircase is beaten by a point of the front.
            line={"shape": "vh"} if len(results.objectives) == 2 else {"width": 0},
            error_x=bars(x, ordered),
            error_y=bars(y, ordered),
        ),
        points("baseline", "Baseline", [results.baseline]),
    ]
    if unseen:
        places, gaps, rows = [e for e, _ in unseen], [], []
        for e, report in unseen:
            gaps += [float(y.of([e])[0]), report, math.nan]
            rows += [index[e.key]] * 2 + [None]
        across = [v for v in x.of(places).tolist() for _ in range(3)]
        data.insert(
            3,
            points("report-gap", "Gap", [], mode="lines", showlegend=False)
            | {"x": short(across), "y": short(gaps), "customdata": rows},
        )
        data.insert(4, points("report", "On retain-report", places) | {"y": short(r for _, r in unseen)})
    if results.oracle is not None:
        data.append(points("oracle", "Oracle", [results.oracle]))
    if best is not None:
        data.append(points("best", "Best", [best]))
    shapes, annotations = [], []
    for limit in results.fixed_limits:
        for letter, axis in (("x", x), ("y", y)):
            if axis.metric == limit.metric and math.isfinite(axis.place(limit)):
                shapes += limit_shapes(limit, axis, letter)
                annotations.append(_limit_label(limit, axis, letter))
    layout = {
        "xaxis": {"title": {"text": escape(x.title)}, "tickformat": ".1~%", "zeroline": False},
        "yaxis": {"title": {"text": escape(y.title)}, "tickformat": ".1~%", "zeroline": False},
        "shapes": shapes,
        "annotations": annotations,
        "hovermode": "closest",
    }
    marks = [e for e in (results.baseline, results.oracle) if e is not None]
    everything = _view(chosen, [*trained, *marks], results.limits)
    close = _view(chosen, [*front, *marks], results.limits, [r for _, r in unseen]) if front else everything
    return {"data": data, "layout": layout, "views": {"front": close, "all": everything}}


def _view(
    chosen: tuple[Axis, Axis], shown: Sequence[Evaluation], limits: Iterable[Limit], upwards: Sequence[float] = ()
) -> dict[str, list[float]]:
    """Axis ranges that hold these evaluations with their error bars, the limits, and more places upwards."""
    view = {}
    for name, axis in zip(("xaxis", "yaxis"), chosen, strict=True):
        at, error = axis.of(shown), np.nan_to_num(axis.error(shown), posinf=0.0)
        places = [*(at - error), *(at + error), *(axis.place(limit) for limit in limits if limit.metric == axis.metric)]
        places += upwards if name == "yaxis" else ()
        finite = [float(v) for v in places if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        pad = max(0.06 * (high - low), 0.02)
        view[name] = [low - pad, high + pad]
    return view


def _limit_label(limit: Limit, axis: Axis, letter: str) -> dict[str, Any]:
    place: dict[str, Any] = (
        {"y": axis.place(limit), "xref": "paper", "x": 0, "xanchor": "left", "yanchor": "top"}
        if letter == "y"
        else {"x": axis.place(limit), "yref": "paper", "y": 0, "xanchor": "left", "yanchor": "bottom"}
    )
    return {"name": "limit", "text": escape(f"limit: {limit}"), "showarrow": False, **place}


def history_figure(history: Sequence[tuple[int, float]]) -> Figure:
    """Hypervolume over the number of evaluations, as steps."""
    counts, volumes = zip(*history, strict=True)
    return {
        "data": [
            {
                "meta": "history",
                "name": "Hypervolume",
                "type": "scatter",
                "mode": "lines",
                "line": {"shape": "hv"},
                "x": list(counts),
                "y": short(volumes),
                "hovertemplate": "%{y:.4f} after %{x:,} evaluations<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "Evaluations so far"}, "zeroline": False, "tickformat": ",d"}
            | ({"dtick": 1} if counts[-1] < 8 else {}),
            "yaxis": {"title": {"text": "Hypervolume"}, "rangemode": "tozero", "zeroline": False},
            "hovermode": "x",
            "showlegend": False,
        },
    }
