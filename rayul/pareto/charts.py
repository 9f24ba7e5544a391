"""Figures of the report as plain Plotly dicts (importing plotly.graph_objects costs more than the report itself).

A figure holds data and geometry. Its look (colours of both themes, hover texts) is report.js's: a trace names its role
in `meta` and, in `customdata`, the row of `rows` that each of its points shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayul.pareto.front import values
from rayul.pareto.results import Limit, Results
from rayul.pareto.scale import Direction, Floats, forget_objective, is_forgetting, score
from rayul.pareto.tables import best_of_trials
from rayul.records import COMPLETED, FAILED, PRUNED, RUNNING, Evaluation

Figure = dict[str, Any]

SVG_POINTS = 1500
"""Up to here SVG draws crisply and prints; beyond it only WebGL stays responsive."""


@dataclass(frozen=True)
class Axis:
    """A metric on the scale of `score`: fraction forgotten, or fraction of the baseline kept."""

    metric: str
    direction: Direction
    baseline: float

    @property
    def turned(self) -> bool:
        """Whether `score` divides the baseline by the value, not the value by the baseline."""
        return self.direction != ("minimize" if is_forgetting(self.metric) else "maximize")

    @property
    def title(self) -> str:
        ratio = f"baseline / {self.metric}" if self.turned else f"{self.metric} / baseline"
        return f"Forgotten: 1 − {ratio}" if is_forgetting(self.metric) else f"Kept: {ratio}"

    @property
    def short(self) -> str:
        return "Forgotten" if is_forgetting(self.metric) else "Kept"

    def of(self, evaluations: Sequence[Evaluation]) -> Floats:
        return score(self.metric, self.direction, values(evaluations, [self.metric])[:, 0], self.baseline)

    def error(self, evaluations: Sequence[Evaluation]) -> Floats:
        """Standard error on the axis' scale, by the slope of `score` at the value; NaN where none was recorded."""
        value = values(evaluations, [self.metric])[:, 0]
        stderr = np.array([e.stderr.get(self.metric, np.nan) for e in evaluations], dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return stderr * (self.baseline / value**2 if self.turned else 1.0 / np.float64(self.baseline))


def axes(results: Results) -> tuple[Axis, Axis] | None:
    """What the charts show: forgetting across, utility upwards; None when there are no two metrics to set against.

    With more than two objectives the first of each kind; with one, a criterion's metric is the other axis.
    """
    objectives = results.objectives
    x = forget_objective(objectives) or next(iter(objectives))
    limited = {limit.metric: "maximize" if limit.at_least else "minimize" for limit in results.limits}
    y = next((metric for metric in [*objectives, *limited] if metric != x), None)
    if y is None:
        return None

    def axis(metric: str) -> Axis:
        direction: Any = objectives.get(metric) or limited[metric]
        return Axis(metric, direction, results.baseline.metrics.get(metric, math.nan))

    return axis(x), axis(y)


def payload(
    results: Results, front: Sequence[Evaluation], best: Evaluation | None, history: Sequence[tuple[int, float]]
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


def short(numbers: Iterable[float] | npt.NDArray[np.float64], digits: int = 5) -> list[float | None]:
    """Five significant digits are more than a screen shows and half the file; what is not a number becomes null."""
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in numbers]


def _params(results: Results) -> list[dict[str, Any]]:
    names = list(dict.fromkeys([*results.space, *(n for e in results.endings.values() for n in e.params)]))
    return [{"name": name, "log": bool(getattr(results.space.get(name), "log", False))} for name in names]


def _trials(results: Results, chosen: tuple[Axis, Axis]) -> list[dict[str, Any]]:
    names = [p["name"] for p in _params(results)]
    best = best_of_trials(results)
    shown = [e for e, _ in best.values()]
    steps = (float(e.step) for e in shown)
    reached = dict(zip(best, zip(chosen[0].of(shown), chosen[1].of(shown), steps, strict=True), strict=True))
    return [
        {
            "id": trial,
            "state": e.state,
            "params": [_plain(e.params.get(name)) for name in names],
            "best": short(reached[trial]) if trial in reached else None,
        }
        for trial, e in results.endings.items()
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def front_figure(
    results: Results,
    front: Sequence[Evaluation],
    best: Evaluation | None,
    chosen: tuple[Axis, Axis],
    index: dict[Any, int],
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
    data = [
        points("broken", "Breaks a limit", [e for e in trained if not e.feasible]),
        points("kept", "Within the limits", [e for e in trained if e.feasible]),
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
    if results.oracle is not None:
        data.append(points("oracle", "Oracle", [results.oracle]))
    if best is not None:
        data.append(points("best", "Best", [best]))
    shapes, annotations = [], []
    for limit in results.limits:
        for letter, axis in (("x", x), ("y", y)):
            if axis.metric == limit.metric and math.isfinite(limit.fraction):
                shapes += _limit_shapes(limit, axis, letter)
                annotations.append(_limit_label(limit, letter))
    layout = {
        "xaxis": {"title": {"text": escape(x.title)}, "tickformat": ".1~%", "zeroline": False},
        "yaxis": {"title": {"text": escape(y.title)}, "tickformat": ".1~%", "zeroline": False},
        "shapes": shapes,
        "annotations": annotations,
        "hovermode": "closest",
    }
    marks = [e for e in (results.baseline, results.oracle) if e is not None]
    everything = _view(chosen, [*trained, *marks], results.limits)
    close = _view(chosen, [*front, *marks], results.limits) if front else everything
    return {"data": data, "layout": layout, "views": {"front": close, "all": everything}}


def _view(chosen: tuple[Axis, Axis], shown: Sequence[Evaluation], limits: Iterable[Limit]) -> dict[str, list[float]]:
    """Axis ranges that hold these evaluations with their error bars, and the limits."""
    view = {}
    for name, axis in zip(("xaxis", "yaxis"), chosen, strict=True):
        at, error = axis.of(shown), np.nan_to_num(axis.error(shown), posinf=0.0)
        places = [*(at - error), *(at + error), *(limit.fraction for limit in limits if limit.metric == axis.metric)]
        finite = [float(v) for v in places if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        pad = max(0.06 * (high - low), 0.02)
        view[name] = [low - pad, high + pad]
    return view


def _limit_shapes(limit: Limit, axis: Axis, letter: str) -> list[dict[str, Any]]:
    """The side of the limit that breaks it as a tint, and the limit as a line."""
    other = "y" if letter == "x" else "x"
    breaks_below = limit.at_least == (axis.direction == "maximize")
    line = {
        "type": "line",
        "name": "limit",
        f"{letter}0": limit.fraction,
        f"{letter}1": limit.fraction,
        f"{other}ref": "paper",
        f"{other}0": 0,
        f"{other}1": 1,
        "line": {"width": 1.5, "dash": "dash"},
    }
    tint = {
        "type": "rect",
        "name": "tint",
        "layer": "below",
        f"{letter}0": limit.fraction,
        f"{letter}1": -9 if breaks_below else 9,  # beyond any fraction; `views` sets the range
        f"{other}ref": "paper",
        f"{other}0": 0,
        f"{other}1": 1,
        "line": {"width": 0},
    }
    return [tint, line]


def _limit_label(limit: Limit, letter: str) -> dict[str, Any]:
    place: dict[str, Any] = (
        {"y": limit.fraction, "xref": "paper", "x": 0, "xanchor": "left", "yanchor": "top"}
        if letter == "y"
        else {"x": limit.fraction, "yref": "paper", "y": 0, "xanchor": "left", "yanchor": "bottom"}
    )
    return {"name": "limit", "text": escape(f"limit: {limit}"), "showarrow": False, **place}


def trajectories_figure(
    results: Results, best: Evaluation | None, chosen: tuple[Axis, Axis], index: dict[Any, int]
) -> Figure:
    """Forgetting and utility of every trial over its steps, in two panels; where trials were pruned, a cross.

    At each step the evaluation with the largest mixing: the model as trained, before any calibration.
    """
    data: list[dict[str, Any]] = []
    groups: dict[str, list[str]] = {COMPLETED: [], PRUNED: [], FAILED: [], RUNNING: []}
    for trial, e in results.endings.items():
        groups.setdefault(e.state, []).append(trial)
    paths = {trial: trajectory(rows) for trial, rows in results.trials.items()}
    kind = "scatter" if sum(map(len, paths.values())) <= SVG_POINTS else "scattergl"
    for panel, axis in enumerate(chosen, 1):
        where = {"xaxis": "x", "yaxis": "y" if panel == 1 else "y2"}
        for state, trials in groups.items():
            if not any(paths[trial] for trial in trials):
                continue
            # One trace per state, the trials in it parted by gaps: a thousand traces would not stay responsive.
            line: dict[str, list[Any]] = {"x": [], "y": [], "customdata": []}
            for trial in trials:
                path = paths[trial]
                line["x"] += [*(e.step for e in path), None]
                line["y"] += [*short(axis.of(path)), None]
                line["customdata"] += [*(index[e.key] for e in path), None]
            look = {"meta": state, "name": state.capitalize(), "legendgroup": state, "showlegend": panel == 1}
            data.append({**look, **line, **where, "type": kind, "mode": "lines", "connectgaps": False})
        ends = [paths[trial][-1] for trial in groups[PRUNED] if paths[trial]]
        if ends:
            data.append(
                {
                    "meta": "pruned-at",
                    "name": "Pruned here",
                    "legendgroup": "pruned-at",
                    "showlegend": panel == 1,
                    **where,
                    "type": kind,
                    "mode": "markers",
                    "x": [e.step for e in ends],
                    "y": short(axis.of(ends)),
                    "customdata": [index[e.key] for e in ends],
                }
            )
        path = [] if best is None else paths[best.trial_id]
        data.append(
            {
                "meta": "focus",
                "name": "Highlighted trial",
                "showlegend": False,
                **where,
                "type": kind,
                "mode": "lines+markers",
                "x": [e.step for e in path],
                "y": short(axis.of(path)),
                "customdata": [index[e.key] for e in path],
            }
        )
    shapes = [
        {**shape, "yref": f"y{'' if panel == 1 else panel}", "xref": "paper"}
        for panel, axis in enumerate(chosen, 1)
        for limit in results.limits
        if limit.metric == axis.metric and math.isfinite(limit.fraction)
        for shape in _limit_shapes(limit, axis, "y")[1:]
    ]
    layout = {
        "xaxis": {"title": {"text": "Optimiser step"}, "anchor": "y2", "zeroline": False, "rangemode": "tozero"},
        "yaxis": {"title": {"text": chosen[0].short}, "domain": [0.54, 1], "tickformat": ".1~%", "zeroline": False},
        "yaxis2": {"title": {"text": chosen[1].short}, "domain": [0, 0.46], "tickformat": ".1~%", "zeroline": False},
        "shapes": shapes,
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout}


def trajectory(rows: Sequence[Evaluation]) -> list[Evaluation]:
    """The trial's path: per step with metrics the evaluation with the largest mixing, in order of steps."""
    at: dict[int, Evaluation] = {}
    for e in rows:
        if e.metrics and (e.step not in at or e.mixing > at[e.step].mixing):
            at[e.step] = e
    return [at[step] for step in sorted(at)]


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
            "xaxis": {"title": {"text": "Evaluations so far"}, "zeroline": False, "tickformat": ",d"},
            "yaxis": {"title": {"text": "Hypervolume"}, "rangemode": "tozero", "zeroline": False},
            "hovermode": "x",
            "showlegend": False,
        },
    }


def escape(text: str) -> str:
    """Plotly reads a small HTML in its texts: a metric's name must not become part of it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
