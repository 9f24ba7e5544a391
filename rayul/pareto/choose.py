"""Which point of a front to take: the knee, the best one within a condition, or a named one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayul.errors import InputError
from rayul.pareto.front import values
from rayul.pareto.hypervolume import unit_scores
from rayul.records import SPEC, Evaluation, adapter_folder, holds_model
from rayul.records.folder import SweepRecords
from rayul.records.objectives import Floats, Objectives
from rayul.spec import Limit, dump_yaml, load_spec


def best_at(condition: Limit, front: Sequence[Evaluation], results: SweepRecords) -> Evaluation:
    """Of the points of the front that keep the condition, the best in the first objective that it is not about.

    Raises what `within` raises.
    """
    kept, objectives = within(condition, front, results), results.objectives
    metric = next((name for name in objectives if name != condition.metric), next(iter(objectives)))
    return (max if objectives[metric] == "maximize" else min)(kept, key=lambda e: e.metrics[metric])


def within(condition: Limit, front: Sequence[Evaluation], results: SweepRecords) -> list[Evaluation]:
    """The points of the front that keep the condition, in their order. It may be on rows that were read at the end
    alone.

    Raises InputError when none does, with the values there are, and what `Limit.on` raises.
    """
    limit = condition.fixed(results.baseline.metrics)
    column = values([results.with_report(e) for e in front], [limit.metric])[:, 0]
    kept = [e for e, value in zip(front, column.tolist(), strict=True) if limit.keeps(value)]
    if not kept:
        known = column[~np.isnan(column)]
        has = f"goes from {known.min():.4g} to {known.max():.4g}" if known.size else f"has no {limit.metric}"
        raise InputError(
            f"no point of the front keeps {limit}: it {has}",
            "ask for less, or continue the search with --resume and more --trials",
        )
    return kept


def knee(
    front: Sequence[Evaluation], baseline: Evaluation, objectives: Objectives, limits: Mapping[str, float]
) -> Evaluation:
    """The point of the front that bulges farthest from the plane through its extremes, where a little more of one
    objective begins to cost much of another (Das 1999, "On characterizing the knee of the Pareto curve").

    On scores stretched to [0, 1] over the front that plane is sum(scores) = 1, so the knee has the largest sum. Equals
    (always so with two points) go to the first, which forgot most. Raises InputError for an empty front.
    """
    if not front:
        raise InputError(
            "the front is empty, so it has no knee", "loosen the criteria, or continue with --resume and more --trials"
        )
    return front[int(np.round(scores_for_knee(front, baseline, objectives, limits).sum(axis=1), 12).argmax())]


def scores_for_knee(
    front: Sequence[Evaluation], baseline: Evaluation, objectives: Objectives, limits: Mapping[str, float]
) -> Floats:
    """Scores [n, m] stretched to [0, 1] over the front in each objective."""
    scores = unit_scores(front, baseline, objectives, limits)
    low, high = np.nanmin(scores, axis=0), np.nanmax(scores, axis=0)
    stretched: Floats = (scores - low) / np.where(high > low, high - low, 1.0)
    return stretched


def named(results: SweepRecords, front: Sequence[Evaluation], trial: str, step: int | None = None) -> Evaluation:
    """The point of the front that belongs to a trial (and step); of several the first, which forgot most.

    A trial may be written without its leading zeros. Raises InputError for a trial or step that the sweep does not
    have, and for one that is not on the front: only those have their adapter on disk.
    """
    known = {name.lstrip("0") or "0": name for name in results.trials}
    name = known.get(trial.lstrip("0") or "0")
    if name is None:
        raise InputError(f"no trial {trial} in {results.folder}", f"it has {len(known)}, see trials.parquet")
    if not results.trials[name]:
        reason = results.endings[name].reason
        raise InputError(f"trial {name} failed before its first evaluation: {reason}", "choose one of the front")
    rows = [e for e in results.trials[name] if step is None or e.step == step]
    if not rows:
        steps = ", ".join(str(s) for s in dict.fromkeys(e.step for e in results.trials[name]))
        raise InputError(f"trial {name} was not evaluated at step {step}", f"it was at {steps}")
    keys = {e.key for e in rows}
    found = next((e for e in front if e.key in keys), None)
    if found is None:
        where = f"trial {name}" + (f" at step {step}" if step is not None else "")
        wanted = [e for e in rows if e.step > 0 and e.metrics] or rows
        hint = ("choose one of the front: " + "; ".join(_place(e) for e in front[:6]) + "\n  or ") if front else ""
        raise InputError(
            f"{where} is not on the front, and adapters are kept for points of the front only",
            f"{hint}run that configuration alone: {rerun(results, wanted[-1])}",
        )
    return found


def rerun(results: SweepRecords, e: Evaluation) -> str:
    """The command that repeats the training behind one evaluation and keeps its adapter: one trial with these settings
    and this seed, evaluated at that step only; without the criteria where it breaks them."""
    spec = load_spec(results.folder / SPEC, check_files=False).at(e.params)
    changes: dict[str, Any] = {"name": f"{results.name}-{e.trial_id}-{e.step}", "search.seed": e.seed}
    changes |= {"method": spec.resolved()["method"]} | {k: v for k, v in e.params.items() if "method" not in k}
    changes |= {"training.steps": e.step, "training.evaluate_every": e.step}
    changes |= {} if e.feasible else {"control.criteria": [], "control.tau": None}
    sets = [f"--set {shlex.quote(f'{k}={dump_yaml(v, flow=True)}')}" for k, v in changes.items()]
    return f"rayul sweep {shlex.quote(str(results.folder / SPEC))} --trials 1 {' '.join(sets)}"


def adapter_path(results: SweepRecords, e: Evaluation) -> Path:
    """The folder of a point of the front, with its adapter or whole model. Raises InputError where it is not there,
    with the way to get it."""
    path = adapter_folder(results.folder, e)
    if not holds_model(path):
        raise InputError(
            f"{path}: no adapter or model (its node was lost before it was saved, or the folder was copied without "
            "adapters/)",
            f"run that configuration again: {rerun(results, e)}",
        )
    return path


def _place(e: Evaluation) -> str:
    return f"--trial {e.trial_id} --step {e.step}"
