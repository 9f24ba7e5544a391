"""What several sweeps have in common, and a sentence for everything that is not the same in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rayul.errors import InputError
from rayul.records.folder import SweepRecords
from rayul.records.objectives import Objectives
from rayul.spec import Limit

SAME = 1e-3
"""Baselines of one model measured twice differ by less, as do adapters reloaded."""


def labels(sweeps: Sequence[SweepRecords]) -> list[str]:
    """The names; where two sweeps share one, with as much of their folders as tells them apart."""
    names = [sweep.name for sweep in sweeps]
    parts = [sweep.folder.absolute().parts for sweep in sweeps]
    for count in range(1, max(map(len, parts)) + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(one[-count:]) for one in parts]
    return names


def common_objectives(sweeps: Sequence[SweepRecords], labels: Sequence[str], notes: list[str]) -> Objectives:
    """The objectives that all sweeps search for, in the first one's order. Raises InputError where there is none."""
    first = sweeps[0].objectives
    common = {m: d for m, d in first.items() if all(sweep.objectives.get(m) == d for sweep in sweeps)}
    every = dict.fromkeys(metric for sweep in sweeps for metric in sweep.objectives)
    if not common:
        listed = each(labels, (", ".join(f"{d} {m}" for m, d in sweep.objectives.items()) for sweep in sweeps))
        raise InputError(f"the sweeps have no objective in common: {listed}", "compare sweeps that share an objective")
    if len(every) > len(common):
        left = ", ".join(metric for metric in every if metric not in common)
        notes.append(f"Not every sweep has the same objectives: compared by {', '.join(common)}, not by {left}.")
    return common


def common_limits(sweeps: Sequence[SweepRecords], labels: Sequence[str], notes: list[str]) -> tuple[Limit, ...]:
    """Of each metric and side the tightest limit as a number: the one that every sweep's solutions can be held to."""
    tightest: dict[tuple[str, bool], Limit] = {}
    for sweep in sweeps:
        for limit in sweep.fixed_limits:
            best = tightest.setdefault((limit.metric, limit.at_least), limit)
            if not limit.keeps(best.value):
                tightest[limit.metric, limit.at_least] = limit
    for (metric, at_least), limit in tightest.items():
        has = [next((m for m in s.fixed_limits if (m.metric, m.at_least) == (metric, at_least)), None) for s in sweeps]
        if any(m is None or abs(m.value - limit.value) > SAME * abs(limit.value) for m in has):
            listed = each(labels, ("no limit" if m is None else str(m) for m in has))
            notes.append(f"The limits on {metric} differ ({listed}): all are held to {limit}.")
        blind = [label for label, s in zip(labels, sweeps, strict=True) if not _measures(s, metric)]
        if blind:
            notes.append(
                f"{', '.join(blind)} did not measure {metric} at every evaluation, and so is not held to {limit}."
            )
    return tuple(tightest.values())


def compare_baselines(
    sweeps: Sequence[SweepRecords], labels: Sequence[str], metrics: Sequence[str], notes: list[str]
) -> None:
    """Note where the models before unlearning, or the rows, are not the same."""
    for metric in dict.fromkeys(metrics):
        measured = [sweep.baseline.metrics.get(metric, np.nan) for sweep in sweeps]
        if any(not abs(value - measured[0]) <= SAME * max(1.0, abs(measured[0])) for value in measured[1:]):
            listed = each(labels, (f"{value:.4g}" for value in measured))
            notes.append(f"The baselines differ in {metric} ({listed}): all are measured by that of {labels[0]}.")
    rows = [{k: n for k, n in sweep.baseline.rows.items() if f"{k}." in " ".join(metrics)} for sweep in sweeps]
    hashes = [_hashes(sweep) for sweep in sweeps]
    if any(other != rows[0] for other in rows[1:]) or any(h and hashes[0] and h != hashes[0] for h in hashes[1:]):
        listed = each(labels, (", ".join(f"{n} {k}" for k, n in counts.items()) for counts in rows))
        notes.append(f"The sweeps were measured on different rows ({listed}): their numbers do not compare.")


def _hashes(sweep: SweepRecords) -> dict[str, str]:
    return {name: rows.sha256 for name, rows in sweep.manifest.data.items()}


def _measures(sweep: SweepRecords, metric: str) -> bool:
    return all(metric in e.metrics for rows in sweep.trials.values() for e in rows if e.metrics)


def each(labels: Sequence[str], texts: Iterable[str]) -> str:
    """ "a: 1, b: 2"."""
    return ", ".join(f"{label}: {text}" for label, text in zip(labels, texts, strict=True))
