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
from rayul.report.attacked import recovery_figure
from rayul.report.axes import Axis, axes, escape, limit_shapes, short
from rayul.report.certified import Certified, bound, certified, told_groups, value
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
    recovery = recovery_figure(results)
    if recovery is not None:
        figures["recovery"] = recovery
    if chosen is None:
        return {"figures": figures, "rows": {}, "trials": [], "params": [], "axes": []}
    index = {e.key: i for i, e in enumerate(results.evaluations)}
    shown = [*results.evaluations, *(one.e for one in certified(results))]
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
            "trial": [trial_index.get(e.trial_id, -1) for e in shown],
            "id": [e.trial_id for e in shown if e.is_reference],
            "step": [e.step for e in shown],
            "mixing": short(e.mixing for e in shown),
            "x": short(e.metrics.get(x.metric, math.nan) for e in shown),
            "y": short(e.metrics.get(y.metric, math.nan) for e in shown),
            "ex": short(e.stderr.get(x.metric, math.nan) for e in shown),
            "ey": short(e.stderr.get(y.metric, math.nan) for e in shown),
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
    proven = certified(results)
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
            # Everything left of and below this staircase is dominated by a point of the front.
            line={"shape": "vh"} if len(results.objectives) == 2 else {"width": 0},
            # Hollow behind certified points: chosen on the select rows, they are candidates, not results.
            **({"marker": {"symbol": "circle-open"}} if proven else {}),
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
    if proven:
        data.append(_certified(proven, chosen, kind, len(results.evaluations)))
    if results.oracle is not None:
        data.append(points("oracle", "Oracle", [results.oracle]))
    if best is not None and not proven:
        data.append(points("best", "Best", [best]))
    shapes, annotations = [], []
    for limit in results.every_limit:
        for letter, axis in (("x", x), ("y", y)):
            if axis.metric == limit.metric and math.isfinite(axis.place(limit)):
                # Of several targets, the tint is on what breaks the smallest.
                shapes += limit_shapes(limit, axis, letter)[0 if limit in results.fixed_limits else 1 :]
                annotations.append(_limit_label(limit, axis, letter))
    layout = {
        "xaxis": {"title": {"text": escape(x.title)}, "tickformat": ".1~%", "zeroline": False},
        "yaxis": {"title": {"text": escape(y.title)}, "tickformat": ".1~%", "zeroline": False},
        "shapes": shapes,
        "annotations": annotations,
        "hovermode": "closest",
    }
    marks = [e for e in (results.baseline, results.oracle) if e is not None]
    everything = _view(chosen, [*trained, *marks], results.every_limit)
    proofs = [one.e for one in proven]
    close = (
        _view(chosen, [*front, *proofs, *marks], results.every_limit, [r for _, r in unseen]) if front else everything
    )
    return {"data": data, "layout": layout, "views": {"front": close, "all": everything}}


def _certified(proven: Sequence[Certified], chosen: tuple[Axis, Axis], kind: str, first: int) -> dict[str, Any]:
    """Certified points, filled, with the mean and the bound on the certify groups where they tell of the vertical
    axis. first: the row of `rows` that the first of them is in."""
    x, y = chosen
    kept, below, text = [], [], []
    for one in proven:
        told = next((m for m in one.at.margins if m.metric == y.metric and m.relative), None)
        place = float(y.of([one.e])[0])
        kept.append(place if told is None else told.kept)
        below.append(math.nan if told is None else abs(told.kept - told.low))
        mixing = "" if one.e.mixing == 1 else f", mixing {one.e.mixing:g}"
        lines = [f"<b>Certified: trial {escape(one.e.trial_id)}, step {one.e.step}{mixing}</b>", escape(one.gone)]
        lines += [
            f"{escape(m.metric)} on {told_groups(one, m)}: {value(m, m.kept)}, {bound(m)}" for m in one.at.margins
        ]
        text.append("<br>".join(lines))
    return {
        "type": kind,
        "meta": "certified",
        "name": "Certified",
        "mode": "markers",
        "x": short(x.of([one.e for one in proven])),
        "y": short(kept),
        "customdata": [first + i for i in range(len(proven))],
        "text": text,
        "hoverinfo": "text",
        "error_y": {"type": "data", "symmetric": False, "array": [0] * len(proven), "arrayminus": short(below)},
    }


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
    share = f" ({axis.place(limit):.0%} of the baseline)" if not axis.forgets else ""
    return {"name": "limit", "text": escape(f"limit: {limit}{share}"), "showarrow": False, **place}


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
