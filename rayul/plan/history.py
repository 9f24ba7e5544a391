"""Earlier sweeps of the same space, what pruning saved in them, and how their groups spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayul.errors import RayulError
from rayul.pareto.power import Spread
from rayul.records import BASELINE, COMPLETED, JOURNAL, PRUNED, SPEC, Ending, Evaluation, read_journal
from rayul.spec import LEAST_GROUPS, Spec, difference, load_spec, without_priors

_MAY_DIFFER = ("name", "search", "resources", "oracle", "certify")
"""Sections that say how often and where to try, not what a trial does."""


NEAR = 0.05
"""A spread is taken from models that keep a share this close to the one asked for."""


class Saved(NamedTuple):
    """share: of all steps that the ended trials would have made. sweeps, trials: what it was counted on."""

    share: float
    sweeps: int
    trials: int


def earlier_sweeps(spec: Spec, results: Path) -> Iterator[tuple[Spec, list[Evaluation], Mapping[str, Ending]]]:
    """Spec, evaluations and endings of every sweep of this space whose records are under `results`."""
    for file in sorted(results.glob(f"*/{SPEC}")):
        try:
            earlier = load_spec(file, check_files=False)
            rows, endings = read_journal(file.parent / JOURNAL)
        except (RayulError, OSError):  # somebody else's folder, or one that a sweep has only just made
            continue
        lines = difference(without_priors(earlier), without_priors(spec))
        if all(line.split(":")[0].split(".")[0] in _MAY_DIFFER for line in lines):
            yield earlier, rows, endings


def saved_by_pruning(spec: Spec, results: Path) -> Saved | None:
    """Read from the records under `results`; None where no sweep of this space has a trial that ended."""
    made, planned, sweeps, trials = 0, 0, 0, 0
    for earlier, rows, endings in earlier_sweeps(spec, results):
        ends = [end for end in endings.values() if end.state in (COMPLETED, PRUNED)]
        last = {row.trial_id: row.step for row in rows}
        made += sum(last.get(end.trial_id, 0) for end in ends)
        planned += sum(earlier.at(end.params).training.steps for end in ends)
        sweeps, trials = sweeps + bool(ends), trials + len(ends)
    return Saved(1 - made / planned, sweeps, trials) if planned else None


def spread_seen(spec: Spec, results: Path, metric: str, share: float) -> Spread | None:
    """Of the select groups in earlier sweeps of this space, over models that keep about this share of the baseline's
    metric; None where there are none."""
    found = []
    for _, rows, _ in earlier_sweeps(spec, results):
        base = next((row.metrics.get(metric, math.nan) for row in rows if row.trial_id == BASELINE), math.nan)
        found += [_groups_kept(row, metric, base) for row in rows if metric in row.group_sums and base > 0]
    near = [kept for kept in found if len(kept) >= LEAST_GROUPS and abs(kept.mean() - share) <= NEAR]
    spreads = [(float(kept.std(ddof=1)), float(kept.mean())) for kept in near if kept.mean() < 1 and kept.std() > 0]
    return Spread(*map(median, zip(*spreads, strict=True))) if spreads else None


def _groups_kept(row: Evaluation, metric: str, base: float) -> NDArray[np.float64]:
    """The share of the baseline's metric that each group keeps, [groups]."""
    kept: NDArray[np.float64] = np.array(row.group_sums[metric]) / row.group_rows[metric.partition(".")[0]] / base
    return kept
