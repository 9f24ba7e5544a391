"""Two-panel charts of the report, forgetting above utility: over the steps of a trial, over the mixing of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rayul.records import COMPLETED, FAILED, PRUNED, RUNNING, Evaluation, Key
from rayul.records.folder import SweepRecords
from rayul.report.axes import Axis, limit_shapes, short

Path = Sequence[Evaluation]
"""Evaluations that one line goes through."""

STATES = (COMPLETED, PRUNED, FAILED, RUNNING)

SVG_POINTS = 1500
"""Up to here SVG draws crisply and prints; beyond it only WebGL stays responsive."""

MAX_CALIBRATED = 40
"""Lines of the calibration chart; more cannot be told apart."""


def trajectories_figure(
    results: SweepRecords, best: Evaluation | None, chosen: tuple[Axis, Axis], index: Mapping[Key, int]
) -> dict[str, Any]:
    """Forgetting and utility of every trial over its steps; where trials were pruned, a cross.

    At each step the evaluation with the largest mixing: the model as trained, before any calibration.
    """
    paths = {trial: trajectory(rows) for trial, rows in results.trials.items()}
    groups: dict[str, list[str]] = {state: [] for state in STATES}
    for trial, e in results.endings.items():
        groups.setdefault(e.state, []).append(trial)
    # A line through one evaluation cannot be seen.
    mode = "lines" if any(len(path) > 1 for path in paths.values()) else "lines+markers"
    traces = [(state, state.capitalize(), mode, [paths[t] for t in trials]) for state, trials in groups.items()]
    ends = [paths[trial][-1] for trial in groups[PRUNED] if paths[trial]]
    traces.append(("pruned-at", "Pruned here", "markers", [ends]))
    traces.append(("focus", "Highlighted trial", "lines+markers", [] if best is None else [paths[best.trial_id]]))
    return _panels(traces, "Optimiser step", lambda e: e.step, results, chosen, index)


def trajectory(rows: Sequence[Evaluation]) -> list[Evaluation]:
    """The trial's path: per step with metrics the evaluation with the largest mixing, in order of steps."""
    at: dict[int, Evaluation] = {}
    for e in rows:
        if e.metrics and (e.step not in at or e.mixing > at[e.step].mixing):
            at[e.step] = e
    return [at[step] for step in sorted(at)]


def calibrated(results: SweepRecords, front: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """For the models behind the front's first points that were evaluated at several mixings, those evaluations."""
    paths = []
    for trial, step in dict.fromkeys((e.trial_id, e.step) for e in front[:MAX_CALIBRATED]):
        path = sorted((e for e in results.trials[trial] if e.step == step and e.metrics), key=lambda e: e.mixing)
        if len(path) > 1:
            paths.append(path)
    return paths


def calibration_figure(
    results: SweepRecords, front: Sequence[Evaluation], chosen: tuple[Axis, Axis], index: Mapping[Key, int]
) -> dict[str, Any] | None:
    """Forgetting and utility over the mixing coefficient, for the models behind the front's first points (one line a
    trial and step); None when no model was evaluated at more than one mixing."""
    paths = calibrated(results, front)
    if not paths:
        return None
    on_front = {e.key for e in front}
    marks = [e for path in paths for e in path if e.key in on_front]
    traces = [
        ("mixed", "Model behind a front point", "lines+markers", paths),
        ("chosen", "On the front", "markers", [marks]),
    ]
    return _panels(traces, "Mixing (0 the baseline, 1 the unlearned model)", lambda e: e.mixing, results, chosen, index)


def _panels(
    traces: Sequence[tuple[str, str, str, Sequence[Path]]],
    title: str,
    place: Callable[[Evaluation], float],
    results: SweepRecords,
    chosen: tuple[Axis, Axis],
    index: Mapping[Key, int],
) -> dict[str, Any]:
    """The figure of (role, name, mode, paths), at `place` across and at the panel's axis upwards."""
    kind = "scatter" if sum(len(path) for *_, paths in traces for path in paths) <= SVG_POINTS else "scattergl"
    data: list[dict[str, Any]] = []
    for panel, axis in enumerate(chosen, 1):
        for role, name, mode, paths in traces:
            if not any(paths) and role != "focus":
                continue
            # One trace for all, parted by gaps: a thousand traces would not stay responsive.
            line: dict[str, list[Any]] = {"x": [], "y": [], "customdata": []}
            for path in paths:
                gap = [None] if line["x"] else []
                line["x"] += [*gap, *map(place, path)]
                line["y"] += [*gap, *short(axis.of(path))]
                line["customdata"] += [*gap, *(index[e.key] for e in path)]
            data.append(
                {
                    "meta": role,
                    "name": name,
                    "legendgroup": role,
                    "showlegend": panel == 1 and role not in ("focus", *STATES),
                    "type": kind,
                    "mode": mode,
                    "connectgaps": False,
                    "xaxis": "x",
                    "yaxis": "y" if panel == 1 else "y2",
                    **line,
                }
            )
            if panel == 1 and role in STATES:
                data.append(
                    {"meta": f"key-{role}", "name": name, "legendgroup": role, "type": kind, "mode": "lines"}
                    | {"x": [None], "y": [None], "customdata": [None], "xaxis": "x", "yaxis": "y"}
                )
    shapes = [
        {**shape, "yref": "y" if panel == 1 else "y2", "xref": "paper"}
        for panel, axis in enumerate(chosen, 1)
        for limit in results.every_limit
        if limit.metric == axis.metric and math.isfinite(axis.place(limit))
        for shape in limit_shapes(limit, axis, "y")[1:]
    ]
    layout = {
        "xaxis": {"title": {"text": title}, "anchor": "y2", "zeroline": False, "rangemode": "tozero"},
        "yaxis": {"title": {"text": chosen[0].short}, "domain": [0.54, 1], "tickformat": ".1~%", "zeroline": False},
        "yaxis2": {"title": {"text": chosen[1].short}, "domain": [0, 0.46], "tickformat": ".1~%", "zeroline": False},
        "shapes": shapes,
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout}
