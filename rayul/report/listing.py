"""The tables of the page, as cells of text with the number to sort and filter by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayul.pareto.best import best_of_trials
from rayul.pareto.held_out import held_out
from rayul.records import Evaluation
from rayul.records.folder import SweepRecords
from rayul.report.axes import axes
from rayul.report.gone import ES
from rayul.report.importance import last_of
from rayul.spec import dump_yaml
from rayul.words import measured, number, percent

MAX_TRIALS = 3000
"""Trials in the page's table of every trial; trials.parquet has them all."""


@dataclass(frozen=True)
class Listing:
    """head: (text, full name, kind: "number", "percent" or "text") by column. rows: (trial, YAML of its settings,
    cells as (text, sort key, mark)), the mark being "broken" where a limit is not kept."""

    head: list[tuple[str, str, str]]
    rows: list[tuple[str, str, list[tuple[str, Any, str]]]]


def listing(results: SweepRecords, shown: Sequence[Evaluation], states: bool = False) -> Listing:
    """These evaluations, a row each: the front, or with `states` one evaluation of every trial."""
    reported = [{h.metric: h for h in held_out(results, e)} for e in shown]
    twins = {m: h.twin for found in reported for m, h in found.items()}
    mixed = any(e.mixing != 1 for e in shown)
    params = list(dict.fromkeys([*results.space, *(name for e in shown for name in e.params)]))
    params = [name for name in params if any(name in e.params for e in shown)]
    broken = any(not e.feasible for e in shown)
    limited = [limit.metric for limit in results.limits if limit.metric not in results.objectives]
    beside = [ES] if ES in results.baseline.metrics and any(ES in e.metrics for e in shown) else []
    limited += [metric for metric in beside if metric not in (*results.objectives, *limited)]
    chosen = axes(results) or ()
    short = [name.removesuffix(".name").rpartition(".")[2] for name in params]
    kinds = {n: "number" if all(isinstance(e.params.get(n, 0), int | float) for e in shown) else "text" for n in params}
    head = [
        ("Trial", "Trial", "text"),
        *([("State", "How the trial ended", "text")] if states else []),
        ("Step", "Optimiser steps", "number"),
        *([("Mixing", "0 the baseline, 1 the unlearned model", "number")] if mixed else []),
        *((axis.short, axis.title, "percent") for axis in chosen),
        *([("Kept, report", f"{twins[m]} / baseline", "percent") for m in twins]),
        *([("Violation", "By how much the limits are broken, in all", "number")] if broken else []),
        *((name, name, "number") for name in (*results.objectives, *limited, *twins.values())),
        ("Seconds", "Training and evaluation until then", "number"),
        *((s if short.count(s) == 1 else n, n, kinds[n]) for s, n in zip(short, params, strict=True)),
    ]
    fractions = [axis.of(shown) for axis in chosen]
    states_of = {trial: e.state for trial, e in results.endings.items()} if states else {}
    rows = []
    for i, e in enumerate(shown):
        cells: list[tuple[str, Any, str]] = [
            (e.trial_id, e.trial_id, ""),
            *([(states_of.get(e.trial_id, ""),) * 2 + ("",)] if states else []),
            (str(e.step), e.step, ""),
            *([(f"{e.mixing:g}", e.mixing, "")] if mixed else []),
            *((percent(float(c[i])), _key(float(c[i])), "") for c in fractions),
            *(_report(reported[i], m) for m in twins),
            *([(number(e.total_violation), _key(e.total_violation), "")] if broken else []),
            *((measured(e, m), _key(e.metrics.get(m, math.nan)), "") for m in (*results.objectives, *limited)),
            *((_twin(reported[i], m), _key(reported[i][m].value) if m in reported[i] else "", "") for m in twins),
            (f"{e.train_seconds:.3g}", e.train_seconds, ""),
            *((_setting(e.params.get(name)), e.params.get(name, ""), "") for name in params),
        ]
        rows.append((e.trial_id, settings_yaml(e.params), cells))
    return Listing(head, rows)


def every_trial(results: SweepRecords) -> tuple[Listing, int]:
    """Each trial at its best solution, one without a solution at its last evaluation (without any, with its settings
    alone); and how many were left out."""
    best = {trial: e for trial, (e, _) in best_of_trials(results).items()}
    shown = [
        best.get(trial)
        or last_of(results.trials[trial])
        or Evaluation(trial, 0, seed=end.seed, params=end.params, feasible=False, train_seconds=end.train_seconds)
        for trial, end in results.endings.items()
    ]
    return listing(results, shown[:MAX_TRIALS], states=True), max(0, len(shown) - MAX_TRIALS)


def settings_yaml(params: Mapping[str, Any], digits: int | None = None) -> str:
    """Hyper-parameters as the spec would write them: {"training.lr": 1e-3} -> training: {lr: 0.001}.

    Exact, or with numbers rounded to this number of significant digits, for reading.
    """
    nested: dict[str, Any] = {}
    for key, value in params.items():
        *path, leaf = key.split(".")
        place = nested
        for part in path:
            child = place.setdefault(part, {})
            place = child if isinstance(child, dict) else place
        place[leaf] = float(f"{value:.{digits}g}") if digits and isinstance(value, float) else value
    return dump_yaml(nested)


def _report(found: Mapping[str, Any], metric: str) -> tuple[str, Any, str]:
    if metric not in found:
        return "–", "", ""
    h = found[metric]
    return percent(h.report), _key(h.report), "broken" if h.breaks else ""


def _twin(found: Mapping[str, Any], metric: str) -> str:
    if metric not in found:
        return "–"
    h = found[metric]
    return measured(Evaluation("", 0, metrics={h.twin: h.value}, stderr={h.twin: h.stderr}), h.twin)


def _key(value: float) -> float | str:
    return value if math.isfinite(value) else ""


def _setting(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
