"""A finalist without Ray: trained again with another seed, measured with everything, and attacked."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayul.errors import RayulError
from rayul.records import FAILED
from rayul.records.audited import BEFORE, Audited, Scored
from rayul.spec import CHEAP, Finalists, Spec, needs_oracle
from rayul.unlearn.adapters import load_adapter, save_adapter
from rayul.unlearn.attacks.table import ATTACKS
from rayul.unlearn.attacks.target import Attempt, Target
from rayul.unlearn.evaluate import Measurement, evaluate, measurement
from rayul.unlearn.forward import Model
from rayul.unlearn.probe import Missing
from rayul.unlearn.suite import evaluate_model
from rayul.unlearn.task import Task, spaced
from rayul.unlearn.trial import REPORTED, device_name, run_trial


def retrain(
    task: Task,
    spec: Spec,
    params: Mapping[str, Any],
    step: int,
    mixing: float | None,
    target: float | None,
    seed: int,
    baseline: Mapping[str, float],
    folder: Path,
) -> float:
    """Train a finalist's configuration until its step and save the adapter; returns the mixing baked into it.

    mixing: fixed, or None to find the largest that keeps the criteria of `spec` on the retain-control rows anew; where
    the spec has several utility targets, those of `target`.
    Raises RayulError with the reason where the training fails.
    """
    at = spec.at(params)
    training = at.training.model_copy(update={"steps": step, "evaluate_every": step})
    control = at.control.model_copy(update={"mixing": mixing is None} | ({} if target is None else {"tau": target}))
    at = at.model_copy(update={"training": training, "control": control})
    with closing(run_trial(task, at, "finalist", seed, params, baseline)) as snapshots:  # type: ignore[type-var]
        for snapshot in snapshots:
            last = snapshot.evaluations[-1]
            if last.state == FAILED:
                raise RayulError(last.reason)
            if last.step == step:
                kept = last.mixing if mixing is None else mixing
                save_adapter(snapshot.model, kept, folder)
                return kept
    raise AssertionError(f"a trial of {step} steps ends at that step or with a failed row")


def standalone(base: Model, adapter: Path | None = None) -> Model:
    """A copy of the base in float32, with an adapter merged into it: in fewer bits a small update is rounded away.

    A copy, because the base is shared by what comes after (and its weights possibly with other processes).
    """
    model = copy.deepcopy(base).float()
    return model if adapter is None else load_adapter(model, adapter).merge_and_unload()


def examine(
    model: Model,
    task: Task,
    spec: Spec,
    row: Audited,
    wanted: Finalists,
    done: Collection[str] = (),
    oracle: Callable[[], Model | None] = lambda: None,
) -> Iterator[Audited]:
    """Measure a standalone model with everything, then attack it; a line for each, but for those already `done`.

    row: whose subject, seed and mixing the lines carry. oracle: loads the oracle, where the forget quality needs it.
    """
    row = replace(row, device=device_name(task.device))
    if BEFORE not in done:
        started = time.perf_counter()
        scored = measure_everything(model, task, spec, wanted.metrics, oracle)
        yield replace(row, scored=(scored,), seconds=row.seconds + time.perf_counter() - started)
    sets = {**task.sets, "forget": tuple(spaced(list(task.sets["forget"]), spec.evaluate.max_rows))}
    target = Target(model, task.tokenizer, sets, spec.model.template, spec.evaluate.batch_size)
    for name in (name for name in wanted.attacks if name not in done):
        started = time.perf_counter()
        attacked = replace(row, attack=name)
        try:
            tries = tuple(_attempt(a, task, spec) for a in ATTACKS[name](target))
            attacked = replace(attacked, scored=tries)
        except Missing as missing:
            attacked = replace(attacked, reason=missing.message)
        except Exception as error:  # an attack that fails (out of memory) is a line, never the end of an audit
            attacked = replace(attacked, reason=f"{type(error).__name__}: {error}")
        yield replace(attacked, seconds=time.perf_counter() - started)


def measure_everything(
    model: Model, task: Task, spec: Spec, names: Collection[str], oracle: Callable[[], Model | None]
) -> Scored:
    """Every metric of every set: what a search measures, and the rest of the suite."""
    cheap = evaluate(model, task, cheaply(spec), spec.evaluate.batch_size, REPORTED)
    further = [name for name in names if name not in CHEAP]
    measured = dict(cheap.measured)
    if further:
        compared = oracle() if needs_oracle(further) else None
        options = (spec.model.template, compared, further, spec.evaluate.batch_size)
        measured |= evaluate_model(model, task.tokenizer, task.sets, *options).measured
    return Scored(
        metrics={key: m.value for key, m in measured.items()},
        stderr={key: m.stderr for key, m in measured.items()},
        values=_values(cheap, spec),
    )


def cheaply(spec: Spec) -> list[str]:
    """What one forward gives: the metrics that rayul knows, and those of one's own."""
    return [*CHEAP, *spec.evaluate.own.values()]


def _attempt(attempt: Attempt, task: Task, spec: Spec) -> Scored:
    found = measurement(attempt.scores, {"forget": len(attempt.scores)}, cheaply(spec), task.own)
    return Scored(
        attempt.variant,
        attempt.judged,
        {key: m.value for key, m in found.measured.items()},
        {key: m.stderr for key, m in found.measured.items()},
        _values(found, spec),
    )


def _values(found: Measurement, spec: Spec) -> dict[str, tuple[float, ...]]:
    """Of metrics that are a mean over rows, so that rows can be drawn anew."""
    known = {key: spec.evaluate.of(key.partition(".")[2]) for key in found.per_row}
    means = [key for key, metric in known.items() if metric is not None and metric.mean_of_rows]
    return {key: _rounded(found.per_row[key]) for key in means}


def _rounded(values: Any) -> tuple[float, ...]:
    """Five digits: more than a mean over rows needs, and a third of the file."""
    return tuple(float(f"{value:.5g}") for value in values)
